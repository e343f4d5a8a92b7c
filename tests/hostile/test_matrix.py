"""Every endpoint, every principal, own and foreign things: nobody gets in. An endpoint without a row fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from commands._routes import ROUTES
from queries._query import QUERIES
from queries._told import TOLD
from tests.hostile.matrix import STORY, Row
from tests.hostile.place import PRINCIPALS, ZONE, Place
from tests.hostile.sights import BATCH, BESIDE, NOT_FOUND, PUBLIC, QUERY_ROWS, Sight
from tests.hostile.telling import STRANGERS

pytestmark = pytest.mark.xdist_group("hostile")


# Commands


def test_every_command_has_a_row() -> None:
    assert {row.command for row in STORY if isinstance(row, Row)} == set(ROUTES)


def test_a_command_is_taken_from_its_owner_and_a_stranger_finds_nothing(told: list[str]) -> None:
    assert told == [], f"{len(told)}:\n" + "\n".join(told)


# Queries


def test_every_query_and_every_other_endpoint_has_a_row(here: Place) -> None:
    rows = {f"/queries/{name}" for name in QUERY_ROWS} | {f"/commands/{name}" for name in ROUTES}
    assert {*rows, *BESIDE, *PUBLIC, BATCH} == set(here.document["paths"])


def test_a_query_shows_to_its_owner_what_a_stranger_does_not_see(here: Place, told: list[str]) -> None:
    wrong: list[str] = []

    async def ask_all() -> None:
        for name, sight in QUERY_ROWS.items():
            roles = (QUERIES.get(f"/queries/{name}") or TOLD[f"/queries/{name}"].query).roles
            seen = await _items(here, sight.owner, name, sight)
            if not seen and not sight.empty:
                wrong.append(f"{name}: {sight.owner} sees nothing")
            for who in (*STRANGERS, "robot", "olga", "admin"):
                if PRINCIPALS[who] in roles:
                    expected = "all" if who in ("olga", "admin") else sight.stranger
                    got = await _items(here, who, name, sight)
                    if not _is_as(expected, got, seen, sight):
                        wrong.append(f"{name} by {who}: not {expected}: {str(got)[:200]}")

    here.run(ask_all())
    assert wrong == [], "\n".join(wrong)


async def _items(here: Place, who: str, name: str, sight: Sight) -> Any:
    """The items of an answer, without what ticks, or the name of the problem."""
    asked = {
        key: here.ids[value[1:]] if str(value)[0] == "@" else value for key, value in sight.asked.items()
    }
    response = await here.http.get(f"/queries/{name}", headers=here.headers(who), params=asked)
    assert response.status_code < 500, response.text
    body = response.json()
    if response.status_code != 200:
        return body["type"].removeprefix("/problems/")
    return [{key: value for key, value in item.items() if key not in sight.ticking} for item in body["items"]]


def _is_as(expected: str, got: Any, seen: Any, sight: Sight) -> bool:
    match expected:
        case "all":
            return all(item in got for item in seen)
        case "same":
            return bool(got == seen)
        case "less":
            return len(got) < len(seen) and sight.owner not in str(got)
        case "nothing":
            return bool(got == [])
    return bool(got == expected)


def test_history_is_for_auditors_and_receipts_are_for_whom_they_concern(here: Place, told: list[str]) -> None:
    wrong: list[str] = []

    async def ask_all() -> None:
        for template, (path, sight) in BESIDE.items():
            ((method, operation),) = here.document["paths"][template].items()
            for name, id in here.ids.items():
                path = path.replace(f"@{name}", id)
            for who in (*STRANGERS, "robot", "olga", "admin", sight.owner):
                response = await here.http.request(method, path, headers=here.headers(who))
                stranger = who not in ("olga", "admin", sight.owner)
                expected = 200 if method == "get" else 422
                if PRINCIPALS[who] not in operation["x-roles"]:
                    expected = 403
                elif stranger and sight.stranger == NOT_FOUND:
                    expected = 404
                if response.status_code != expected:
                    wrong.append(
                        f"{path} by {who}: {response.status_code}, not {expected}: {response.text[:200]}"
                    )

    here.run(ask_all())
    assert wrong == [], "\n".join(wrong)


# Keys


def _operations(here: Place) -> Iterator[tuple[str, str, list[str]]]:
    """(method, path, roles) of all that needs a key."""
    for template, methods in here.document["paths"].items():
        for method, operation in methods.items():
            if template not in PUBLIC:
                path = template.replace("{position}", "1").replace("{number}", "1")
                yield method, path.replace("{", "").replace("}", ""), operation.get("x-roles", [])


def test_no_endpoint_opens_to_a_key_that_is_missing_malformed_unknown_revoked_or_expired(here: Place) -> None:
    wrong: list[str] = []

    async def knock() -> None:
        for method, path, _ in _operations(here):
            for why, key in here.bad_keys.items():
                headers = {"authorization": f"Bearer {key}"} if why != "none" else {}
                # The body is not looked at: whoever is nobody learns nothing of it.
                response = await here.http.request(method, path, headers=headers | {"fogbook-zone": ZONE})
                if response.status_code != 401 or "www-authenticate" not in response.headers:
                    wrong.append(f"{path}, {why}: {response.status_code} {response.text[:200]}")

    with here.town.nothing_changes():
        here.run(knock())
    assert wrong == [], "\n".join(wrong)


def test_no_endpoint_opens_to_a_key_of_another_zone_or_to_a_role_that_it_does_not_declare(
    here: Place,
) -> None:
    wrong: list[str] = []
    elsewhere = {
        who: here.village.key(who, role, zones=("elsewhere",)).key for who, role in PRINCIPALS.items()
    }

    async def knock() -> None:
        for method, path, roles in _operations(here):
            for who, role in PRINCIPALS.items():
                headers = here.headers(who) | {"idempotency-key": "k"}
                foreign = headers | {"authorization": f"Bearer {elsewhere[who]}"}
                tries = [(foreign, "zone-not-allowed")]
                if role not in roles and path != BATCH:
                    tries.append((headers, "role-not-allowed"))
                for sent, rule in tries:
                    response = await here.http.request(method, path, headers=sent, content=b"{")
                    named = response.json()["type"].removeprefix("/problems/")
                    if response.status_code != 403 or (named != rule and rule == "role-not-allowed"):
                        wrong.append(f"{path} by {who}: {response.status_code} {named}, not {rule}")

    with here.town.nothing_changes():
        here.run(knock())
    assert wrong == [], "\n".join(wrong)


def test_a_line_of_a_batch_is_judged_like_a_command_of_its_own(here: Place) -> None:
    lines = [{"context": "", "command": "", "key": f"b{n}", "body": {}} for n in range(len(ROUTES))]
    for line, name in zip(lines, ROUTES, strict=True):
        line["context"], line["command"] = name.split("/")
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    with here.town.nothing_changes():
        for who in ("olga", "robot", "cy"):
            answers = here.run(here.town.many(who, content.splitlines()))
            for name, answer in zip(ROUTES, answers, strict=True):
                allowed = PRINCIPALS[who] in ROUTES[name].roles
                assert (answer["status"] == 403) is not allowed, (who, name, answer)
