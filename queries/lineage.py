"""Lineage for auditors: what an event came from and what came of it, what made a row what it is, and whole trees.

Timers and reactions name the command that let them fall due, and keys that begin with `timer:` are theirs alone. Any
other cause is the word of whoever sent the command, who is named with it. Commands of another zone bear its name
(`village/c17`) and are told of by that zone; what they brought along, such as a packet, is proven by its signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from commands._codec import command_number
from ops.problems import Problem
from ops.web import App
from queries._effects import rows_changed
from queries._events import Event
from queries._http import QueryApi
from queries._parameters import parameters_of, whole_number
from queries._past import Past
from queries._tree import Commands, timer_of
from queries._versions import not_archived, versioned
from queries.history import _TEXT, _WHOLE, MOST_POSITION, History, Nothing, _json, _number, adder

MOST_RELATED = 100
VERSIONS = 50
MOST_VERSIONS = 500
NODES = 500
MOST_NODES = 2_000
OF_ROW = frozenset({"key", "at", "after", "limit"})
NAME = re.compile(r"[A-Za-z0-9._:/-]{1,200}\Z")


class Lineage:
    """Answers the routes of lineage under /history."""

    async def event(self, request: Request, past: Past) -> Response:
        parameters_of(Nothing, request, frozenset())
        event = await past.event(_number(request.path_params["position"], "position"))
        head, _ = await past.head()
        cause = await self._cause(past, event)
        effects = await self._effects(past, event)
        return _json(event.shown() | {"cause": cause, "effects": effects}, head)

    async def _cause(self, past: Past, event: Event) -> dict[str, Any]:
        meta, commands = event.own_meta, Commands(past)
        number = command_number(str(meta.get("command", "")))
        fate = await past.fate(number) if number is not None else None
        names = ("name", "by", "principal", "correlation", "causation")
        cause: dict[str, Any] = {"command": fate} | {name: meta[name] for name in names if name in meta}
        if fate is not None:
            causation = str(meta.get("causation", ""))
            cause["role"] = await commands.role(fate["principal"], fate["act_as"])
            cause["key"] = fate["key"]
            cause["proof"] = _proof(fate["request"])
            cause["timer"] = timer_of(fate["key"], causation)
            cause["caused_by"] = await commands.named(causation) if causation != fate["command_id"] else None
        before = await past.before_in_stream(event)
        cause["before_in_stream"] = before.named() if before else None
        first, _ = event.span
        within = await past.event(event.position - 1) if first < event.position else None
        cause["before_in_command"] = within.named() if within else None
        return cause

    async def _effects(self, past: Past, event: Event) -> dict[str, Any]:
        first, last = event.span
        siblings, _ = await past.page(first - 1, last, MOST_RELATED)
        command = str(event.own_meta.get("command", ""))
        commands = Commands(past)
        generation, position = await commands.live()
        followed = await commands.caused_by(command, generation, MOST_RELATED + 1) if command else []
        return {
            "events": [e.shown() for e in siblings if e.position != event.position],
            "followed_by": followed[:MOST_RELATED],
            "searched_up_to": position,
            "more": last - first >= MOST_RELATED or len(followed) > MOST_RELATED,
            "read_models": await rows_changed(past, event),
        }

    # Rows

    async def row(self, request: Request, past: Past) -> Response:
        given = request.query_params
        if unknown := set(given) - OF_ROW:
            raise Problem(
                422, "unknown-parameter", "There is no such parameter.", parameter=min(unknown)[:64]
            )
        if any(len(given.getlist(name)) > 1 for name in OF_ROW - {"key"}):
            raise Problem(422, "repeated-parameter", "A parameter is given once.")
        limit = whole_number(request, "limit", VERSIONS, MOST_VERSIONS) or 1
        after = whole_number(request, "after", 0, MOST_POSITION)
        head, _ = await past.head()
        row, archive = await versioned(past, request.path_params["table"], given.getlist("key"))
        at = archive.position
        if "at" in given:
            at = await past.position_at(given["at"], head)
            if at > archive.position:
                raise not_archived()
        versions = await row.page(min(at, after - 1) if after else at, limit + 1)
        if not versions and not after:
            raise Problem(404, "row-not-found", "There is no such row, or there was none then.")
        body = {
            "zone": past.zone,
            "table": request.path_params["table"],
            "key": given.getlist("key"),
            "position": at,
            "versions": await row.history(versions, limit, at, after or None),
            "next": versions[limit - 1].since if len(versions) > limit else None,
        }
        if not after:
            stands = versions[0].until > at
            body["fields"] = await row.fields(versions[0]) if stands else None
        return _json(body, at)

    # Trees

    async def correlation(self, request: Request, past: Past) -> Response:
        parameters_of(Nothing, request, frozenset({"after", "limit"}))
        limit = whole_number(request, "limit", NODES, MOST_NODES) or 1
        after = whole_number(request, "after", 0, MOST_POSITION)
        id = request.path_params["id"]
        if not NAME.match(id):
            raise Problem(404, "correlation-not-found", "No command names this correlation.")
        await past.head()
        commands = Commands(past)
        generation, position = await commands.live()
        if not generation:
            raise Problem(
                503,
                "projection-not-ready",
                "The projection has not started yet.",
                headers={"Retry-After": "1"},
            )
        tree = await commands.tree(await commands.correlation_of(id, generation), generation)
        numbers, following = tree.page(after, limit)
        body = {
            "zone": past.zone,
            "correlation": tree.correlation,
            "root": f"c{tree.root}" if tree.root else None,
            "elsewhere": f"{past.zone}/{tree.correlation}" if tree.root else tree.correlation,
            "commands": len(tree.causes),
            "nodes": tree.nodes(await commands.summaries(numbers)),
            "due": tree.due,
            "next": following,
            "more": tree.more,
        }
        return _json(body, position)


class _Request(msgspec.Struct):
    body: dict[str, Any] = {}


def _proof(request: Any) -> str | None:
    """The signature that a command carried, over what another zone told."""
    try:
        proof = msgspec.json.decode(request, type=_Request).body.get("proof")
    except (msgspec.MsgspecError, TypeError):
        return None
    return proof if isinstance(proof, str) and proof else None


# Registration and documentation

_KEY = {"type": "array", "items": _TEXT}
_AT = "`position:N` or an RFC 3339 time; as far as the archive goes where it is missing."


def register_lineage(app: App, api: Callable[[], QueryApi]) -> None:
    lineage, add = Lineage(), adder(app, History(api))
    add(
        "/history/events/{position}",
        lineage.event,
        "event",
        "An event, its cause and its effects",
        "The command that it came from with its fate, what that followed from, and the events before it in its stream "
        "and in its command; the command's other events, the commands that followed from it, and the rows of read "
        "models that the event changed. With `rows_as_of: event` these are exact, from the archive; with `now` they "
        "are the rows that it concerns as they are today, because the archive is not there yet.",
        ("position", "path", _WHOLE, "The event's position."),
        more=(503,),
    )
    add(
        "/history/rows/{table}",
        lineage.row,
        "row",
        "What made a row of a read model what it is",
        "Its versions, newest first, each with the event that made it and what it changed; and for each field the "
        "event that made it what it is.",
        ("table", "path", _TEXT, "A table of a read model, such as `ledger_balances`."),
        ("key", "query", _KEY, "A part of the row's key, once for each, in order."),
        ("at", "query", _TEXT, _AT),
        ("after", "query", _WHOLE, "`next` of the page before."),
        (
            "limit",
            "query",
            {**_WHOLE, "maximum": MOST_VERSIONS, "default": VERSIONS},
            "At most so many versions.",
        ),
        more=(503,),
    )
    add(
        "/history/correlations/{id:path}",
        lineage.correlation,
        "correlation",
        "The tree of commands that belong together",
        "All commands under a correlation, or under that of a command, in order, with what each followed from and what "
        "followed from it; refused attempts of timers too, and what is still due. What other zones did is in theirs, "
        "under the name that `elsewhere` says.",
        ("id", "path", _TEXT, "A correlation, such as `village/c17`, or a command's id."),
        ("after", "query", _WHOLE, "`next` of the page before."),
        ("limit", "query", {**_WHOLE, "maximum": MOST_NODES, "default": NODES}, "At most so many commands."),
        more=(503,),
    )
