"""What the API promises stands in files: whoever changes it sees what he changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ops.openapi import APPLICATIONS, FOLDER, as_text, changes, committed, document


@pytest.mark.parametrize("application", APPLICATIONS)
def test_the_committed_document_is_what_the_application_answers(application: str) -> None:
    differing = changes(committed(application), document(application))
    assert not differing, f"run `make openapi`: {application}.json differs in {'; '.join(differing[:5])}"


@pytest.mark.parametrize("application", APPLICATIONS)
def test_the_files_are_written_in_one_way_and_name_their_version(application: str) -> None:
    known = committed(application)
    assert (FOLDER / f"{application}.json").read_text() == as_text(known)
    assert known["info"]["version"]


def changed(*steps: Any, to: Any = None, application: str = "commands") -> list[str]:
    """What is said where the document has something else at the end of these steps, or nothing."""
    was = committed(application)
    now = copy.deepcopy(was)
    place = now
    for step in steps[:-1]:
        place = place[step]
    if to is None:
        del place[steps[-1]]
    else:
        place[steps[-1]] = to
    return changes(was, now)


TRANSFER = ("paths", "/commands/ledger/transfer", "post")
BODY = (*TRANSFER, "requestBody", "content", "application/json", "schema")
ANSWER = (*TRANSFER, "responses", "200", "content", "application/json", "schema")
BALANCE = ("paths", "/queries/ledger/balance", "get")


def test_the_same_is_no_change() -> None:
    known = committed("queries")
    assert changes(known, copy.deepcopy(known)) == []


@pytest.mark.parametrize(
    ("steps", "to", "says"),
    [
        (TRANSFER[:2], None, "breaking: /commands/ledger/transfer is gone"),
        (TRANSFER, None, "breaking: POST /commands/ledger/transfer is gone"),
        (
            (*BODY, "properties", "memo"),
            None,
            "breaking: the field memo of the body of POST /commands/ledger/transfer is gone",
        ),
        (
            (*BODY, "required"),
            ["from", "to", "amount", "memo"],
            "breaking: the field memo of the body of POST /commands/ledger/transfer is required now",
        ),
        (
            (*BODY, "properties", "to"),
            {"type": "integer"},
            "breaking: the field to of the body of POST /commands/ledger/transfer was string and is integer",
        ),
        (
            (*ANSWER, "properties", "position"),
            None,
            "breaking: the field position of the 200 of POST /commands/ledger/transfer is gone",
        ),
        (
            (*TRANSFER, "responses", "200"),
            None,
            "breaking: the 200 of POST /commands/ledger/transfer is gone",
        ),
        (
            (*TRANSFER, "x-roles"),
            ["operator"],
            "breaking: POST /commands/ledger/transfer is no longer for the role participant",
        ),
        ((*TRANSFER, "summary"), "Pay", "changed: POST /commands/ledger/transfer: summary"),
        ((*BODY, "properties", "note"), {"type": "string"}, "new: the field note of the body of POST"),
        (("paths", "/commands/ledger/pay"), {"post": {}}, "new: /commands/ledger/pay"),
        (("info", "title"), "Books", "changed: info"),
    ],
)
def test_what_differs_is_a_sentence_and_what_breaks_says_so(
    steps: tuple[str, ...], to: Any, says: str
) -> None:
    found = changed(*steps, to=to)
    assert found[0].startswith(says), found


def test_a_parameter_that_becomes_required_or_goes_breaks() -> None:
    was = committed("queries")
    now = copy.deepcopy(was)
    parameters = now["paths"][BALANCE[1]]["get"]["parameters"]
    gone = parameters.pop(next(i for i, each in enumerate(parameters) if each["name"] == "limit"))
    parameters.append({"name": "asset", "in": "query", "required": True, "schema": {"type": "string"}})
    assert gone["name"] == "limit"
    assert changes(was, now) == [
        "breaking: the query parameter asset of GET /queries/ledger/balance is new and required",
        "breaking: the query parameter limit of GET /queries/ledger/balance is gone",
    ]
