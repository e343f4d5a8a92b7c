"""Tells the story of the matrix: everybody tries each of its commands before its owner sends it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import httpx

from commands._routes import ROUTES
from domain.ledger import owner_of
from tests.acceptance.economy import rule_of
from tests.hostile.matrix import OK, STORY, Later, Row, Story
from tests.hostile.place import PRINCIPALS, Place

STRANGERS = ("cy", "pru")
"""A participant and a provider whom nothing in the story concerns."""


async def tell(here: Place, wrong: list[str]) -> None:
    """Play the story; `wrong` gets what is answered otherwise than its rows say."""
    story = Story(here.town, here.ids)
    for row in STORY:
        if isinstance(row, Later):
            await here.town.later(minutes=row.minutes, days=row.days)
            continue
        body = row.body(story) if callable(row.body) else row.body
        body = await body if inspect.isawaitable(body) else body
        for who, acting, expected in _tries(row):
            await _try(here, row, body, who, acting, expected, wrong)
        if row.thing:
            await _like_what_is_not_there(here, row, body, wrong)
        response = await _send(here, row.owner, row.command, body)
        _note(wrong, row, row.owner, "", response, row.accepted)
        if row.name:
            story.ids[row.name] = response.json().get("command_id", "")
        if row.again:
            await _try(here, row, body, "cy", "", row.again, wrong)


def _tries(row: Row) -> Iterator[tuple[str, str, str]]:
    """(who, whom he acts for, what he is told), for everybody but the owner."""
    roles = ROUTES[row.command].roles
    own = {"operator": row.operator, "worker": row.worker}
    for who in (*STRANGERS, "admin", "robot", "olga"):
        role = PRINCIPALS[who]
        if role not in roles:
            yield who, "", "role-not-allowed"
        elif who != row.owner:
            yield who, "", own.get(role) or (row.stranger if role != "worker" or row.owner != "admin" else OK)
        if who in (*STRANGERS, "robot"):
            yield who, row.owner, "act-as-not-allowed"
    if PRINCIPALS[row.owner] not in ("operator", "worker"):
        yield "admin", "cy", row.stranger
        yield "admin", row.owner, row.accepted


async def _try(
    here: Place, row: Row, body: Any, who: str, acting: str, expected: str, wrong: list[str]
) -> None:
    """What is to be refused is sent for good, and changes nothing; what is to be accepted is a dry run."""
    before = here.town.counts()
    response = await _send(here, who, row.command, body, acting, dry=expected == OK)
    _note(wrong, row, who, acting, response, expected)
    if here.town.counts()[0] != before[0]:
        wrong.append(f"{row.command} by {who}: an event was appended")
    if expected == OK and response.status_code == 200 and who in STRANGERS:
        touched = {owner_of(event["stream"]) for event in response.json()["events"]} - {"", who}
        if row.stranger == OK and touched:
            wrong.append(f"{row.command} by {who} touches what belongs to {touched}")


async def _like_what_is_not_there(here: Place, row: Row, body: Any, wrong: list[str]) -> None:
    """A stranger cannot tell somebody's thing from nothing."""
    nothing = "wallet:nope" if row.stranger == "wallet-not-found" else "nope"
    foreign = await _send(here, "cy", row.command, body)
    missing = await _send(here, "cy", row.command, body | {row.thing: nothing})
    _note(wrong, row, "cy", "", missing, row.stranger)
    if foreign.status_code == missing.status_code == 404:
        one, other = foreign.json(), missing.json()
        alike = one["detail"] == other["detail"] and set(one["facts"]) == set(other["facts"])
        if not alike:
            wrong.append(f"{row.command}: {foreign.text} tells from {missing.text}")


async def _send(
    here: Place, who: str, command: str, body: Any, acting: str = "", dry: bool = False
) -> httpx.Response:
    more = (
        {"fogbook_at": here.town.now.isoformat()}
        if command == "platform/advance-clock" and who == "admin"
        else {}
    )
    if acting:
        more["fogbook_act_as"] = acting
    path = f"{command}?dry_run=true" if dry else command
    return await here.town.people[who].send(path, body, **more)


def _note(wrong: list[str], row: Row, who: str, acting: str, response: httpx.Response, expected: str) -> None:
    got = rule_of(response)
    if got != expected:
        as_whom = f" as {acting}" if acting else ""
        wrong.append(f"{row.command} by {who}{as_whom}: {got}, not {expected}: {response.text[:300]}")
