"""Whether a receipt proves an answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from ops.client._errors import NotProven
from ops.client._values import Accepted, Event

ACCEPTED = 200


def check_that_proven(receipt: dict[str, Any], done: Accepted, trust: Sequence[str]) -> None:
    """Raises NotProven."""
    from queries._receipts import FAILURES, check_receipt

    try:
        fate = check_receipt(receipt, trust)
        held = msgspec.json.decode(base64.b64decode(receipt["fate"]["answer"]), type=Accepted)
    except (*FAILURES, msgspec.MsgspecError) as error:
        raise NotProven(str(error)) from error
    if fate.status != ACCEPTED or _said(held) != _said(done):
        raise NotProven("The log holds another answer to this command than the one that came.")


def _said(answer: Accepted) -> tuple[Any, ...]:
    """What an answer says, without what is only known of the one that came."""
    return answer.command_id, answer.zone, answer.position, [_shown(event) for event in answer.events]


def _shown(event: Event) -> tuple[Any, ...]:
    return event.position, event.stream, event.version, event.type, event.data
