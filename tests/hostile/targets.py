"""Functions that take bytes from whoever sends them: each may refuse them as it says, and do nothing else.

Two drivers give them bytes: Hypothesis in tests, and atheris (`tests.hostile.fuzz`), which follows coverage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic_core import PydanticCustomError

from commands._envelope import named_time, trace_of, version_of
from commands._models import canonical_id, command_from, path, strict_json
from commands._models import time as time_of
from commands._signed import signed_header
from domain.settlement.transfers import ReceiveTransfer, statement
from ops.access import Caller, Unauthenticated
from ops.access._tokens import _header as token_header
from ops.problems import Problem
from projections._notes import NoteError, parse_checkpoint, parse_key, parse_note
from projections._tree import parse_tile_path
from queries._http import entity_tags
from queries._parameters import decode_cursor
from queries._receipts import BadReceipt, parse_proof

CORPUS = Path(__file__).parent / "corpus"
Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
CLOCK = Caller("k", "admin", "operator", frozenset({"act-at"}), frozenset({"*"}))


def target(*refusals: type[Exception]) -> Callable[[Target], Target]:
    """Declare a target; the exceptions are all that it may raise, and a Problem is the caller's fault: 4xx."""

    def declare(function: Target) -> Target:
        def run(data: bytes) -> None:
            try:
                function(data)
            except refusals:
                pass
            except Problem as problem:
                if not 400 <= problem.status < 500:
                    raise
                problem.response()  # What it says can be said.

        TARGETS[function.__name__] = run
        return function

    return declare


def _text(data: bytes) -> str:
    """As a header's value is read."""
    return data.decode("latin-1")


@target()
def body(data: bytes) -> None:
    strict_json(data)


@target()
def packet(data: bytes) -> None:
    """A packet of another zone, and what its zone would have signed."""
    command = command_from(ReceiveTransfer, strict_json(data))
    assert statement("packet", command.packet).isascii()


@target()
def signed(data: bytes) -> None:
    found = signed_header(_text(data))
    assert found is not None
    assert found.principal == canonical_id(found.principal)


@target()
def cursor(data: bytes) -> None:
    keys = decode_cursor(_text(data), 2)
    assert len(keys) == 2
    assert not any("\0" in key for key in keys)


@target()
def version(data: bytes) -> None:
    assert (version_of(_text(data)) or 0) >= 0


@target()
def trace(data: bytes) -> None:
    assert trace_of(_text(data), "Fogbook-Correlation").isascii()


@target()
def moment(data: bytes) -> None:
    assert named_time(_text(data), CLOCK) == time_of(_text(data))


@target()
def tags(data: bytes) -> None:
    assert all(tag.strip() for tag in entity_tags(_text(data)))


@target(PydanticCustomError)
def names(data: bytes) -> None:
    """Whatever is taken as a name is ASCII, and means itself."""
    text = data.decode("utf-8", "surrogateescape")
    assert path(path(text)) == path(text)
    assert canonical_id(text).isascii()


@target(NoteError)
def note(data: bytes) -> None:
    parse_checkpoint(parse_note(data).text)


@target(NoteError)
def vkey(data: bytes) -> None:
    key = parse_key(_text(data))
    assert parse_key(str(key)) == key


@target()
def tile(data: bytes) -> None:
    found = parse_tile_path(f"tile/{_text(data)}")
    assert found is None or found.path() == f"tile/{_text(data)}"


@target(BadReceipt, NoteError)
def proof(data: bytes) -> None:
    parse_proof(_text(data))


@target(Unauthenticated)
def token(data: bytes) -> None:
    token_header(_text(data))
