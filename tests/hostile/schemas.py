"""What the OpenAPI document promises, held against the API by schemathesis: sound requests of each operation, and
others that break their schema, from each role. Every check of schemathesis that looks at one answer is on.

The document has no links between operations, so there are no stateful sequences to follow here.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis.errors import HypothesisDeprecationWarning
from schemathesis import Case, GenerationMode
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi import checks

from tests.hostile.place import Place
from tests.hostile.sights import BATCH

ROLES = ("admin", "ana", "pru", "olga", "robot")
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
BEYOND_SCHEMAS = {
    "as-of-and-min-position",  # Each is sound, but not beside the other.
    "diff-has-no-past",
    "idempotency-key-reused",
    "invalid-cursor",  # A cursor is what an earlier page gave.
    "key-reserved",
    "malformed-note",
}
"""Refusals of what no schema can tell from what is sound."""
BEYOND_DETAILS = ("printable characters", "before the year 9000", "does not begin with")
IN_VAIN = {"position-not-reached", "checkpoint-not-reached", "archive-not-ready"}
"""What was waited for did not come: no defect, and documented."""


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def _name(response: Any) -> str:
    try:
        return str(response.json()["type"]).removeprefix("/problems/")
    except (ValueError, KeyError, TypeError):
        return ""


def what_is_sound_is_taken(ctx: CheckContext, response: Any, case: Case) -> bool | None:
    if _name(response) in BEYOND_SCHEMAS or any(words in response.text for words in BEYOND_DETAILS):
        return None
    return checks.positive_data_acceptance(ctx, response, case)


def nothing_is_a_defect(ctx: CheckContext, response: Any, case: Case) -> bool | None:
    return None if _name(response) in IN_VAIN else not_a_server_error(ctx, response, case)


CHECKS = [
    nothing_is_a_defect,
    what_is_sound_is_taken,
    checks.negative_data_rejection,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def hold(
    here: Place, seed: int, examples: int, roles: int, enough: Callable[[int], bool] = lambda done: False
) -> tuple[Counter[str], list[str]]:
    """Each operation, in any order, gets so many requests of each mode from so many of the roles, which take turns;
    `enough` says whether so many operations are.

    Returns counts, and what was not as the document says.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    document = schemathesis.openapi.from_dict(_without_keys(here.document))
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    operations = list(enumerate(document.get_all_operations()))
    Random(seed).shuffle(operations)
    for number, found in operations:
        if enough(counts["operations"]):
            break
        operation = found.ok()
        counts["operations"] += 1
        for turn in range(roles):
            who = ROLES[(number + turn) % len(ROLES)]
            for mode in MODES if operation.path != BATCH else MODES[:1]:  # Any bytes are lines.
                _hold_one(here, operation, who, mode, seed, examples, counts, wrong)
    return counts, wrong


def _without_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Every request here has its key and its zone; what comes without is the matrix's affair."""
    found: dict[str, Any] = json.loads(json.dumps(document))
    for methods in found["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
            parameters = operation.get("parameters", [])
            operation["parameters"] = [each for each in parameters if each["name"] != "Fogbook-Zone"]
    return found


def _hold_one(
    here: Place, operation: Any, who: str, mode: GenerationMode, seed: int, examples: int,
    counts: Counter[str], wrong: list[str],
) -> None:  # fmt: skip
    terms = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @hypothesis.seed(seed)
    @terms
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        response = here.run(_sent(here, case, who))
        counts["requests"] += 1
        counts[f"{response.status_code}"] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            wrong.extend(_told(operation, who, mode, response, failure) for failure in group.exceptions)
        except Failure as failure:
            wrong.append(_told(operation, who, mode, response, failure))

    try:
        with warnings.catch_warnings():
            # The village's wake-ups draw a number in a thread of their own, which no strategy has to do with.
            warnings.filterwarnings("ignore", "Do not use the `random` module", HypothesisDeprecationWarning)
            send()
    except hypothesis.errors.Unsatisfiable:
        counts["unsatisfiable"] += 1  # A request without any parameter cannot be unsound.


def _told(operation: Any, who: str, mode: Any, response: httpx.Response, failure: Failure) -> str:
    sent = response.request
    return (
        f"{failure.title}: {operation.label} by {who}, {mode.value}: {failure.message[:300]}\n    {sent.url}"
        f" {dict(sent.headers)} {sent.content[:400]!r}\n    -> {response.status_code} {response.text[:400]}"
    )


async def _sent(here: Place, case: Case, who: str) -> httpx.Response:
    """A case over the village's own transport, with a key and in its zone."""
    made = case.as_transport_kwargs(base_url="http://fogbook")
    headers = {name: value for name, value in (made["headers"] or {}).items() if value is not None}
    ours = here.headers(who)
    headers = {name: value for name, value in headers.items() if name.lower() not in ours} | ours
    content = {name: made[name] for name in ("json", "data", "files") if made.get(name) is not None}
    if "data" in content and not isinstance(content["data"], dict):
        content["content"] = content.pop("data")
    request = here.http.build_request(
        made["method"], made["url"], params=made.get("params"), cookies=made.get("cookies"),
        headers=[(name.encode(), str(value).encode("latin-1", "replace")) for name, value in headers.items()],
        **content,
    )  # fmt: skip
    return await here.http.send(request)
