"""Proofs for auditors: signed checkpoints of a zone's two logs, their tiles, inclusion and consistency.

Under /history stands the log of events, under /history/fates the second one, of fates and attestations; each is a
tiled log of C2SP tlog-tiles.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from starlette.responses import Response

from commands._codec import ZONE_SCHEMA, encode_json
from ops.access import Caller
from ops.problems import Problem, documented
from ops.web import App
from projections._tree import ENTRIES, leaf_hash, parse_tile_path
from queries._http import QueryApi
from queries._logs import EVENTS, FATES, Log, beyond, cover
from queries._parameters import whole_number
from queries._past import Past
from queries._query import SEES_ALL
from queries.history import HISTORY, MOST_POSITION, _documented, _number

LONG = "private, max-age=31536000, immutable"
SHORT = "private, no-cache"
VARIES = "Authorization, Fogbook-Zone"

Handle = Callable[[Request, Caller, Past], Awaitable[Response]]
OfLog = Callable[[Request, Log], Awaitable[Response]]


def _route(
    api: Callable[[], QueryApi], handle: Handle, roles: frozenset[str]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        caller, zone = await api().caller(request, roles, HISTORY)
        return await handle(request, caller, Past(api().pool, zone))

    return answer


class Proofs:
    """Answers the routes of both logs."""

    def __init__(self, api: Callable[[], QueryApi]) -> None:
        self._api = api

    def of(self, log: str, handle: OfLog) -> Handle:
        async def answer(request: Request, caller: Caller, past: Past) -> Response:
            return await handle(request, Log(past, log))

        return answer

    # Checkpoints

    async def checkpoint(self, request: Request, log: Log) -> Response:
        name = "min_position" if log.name == EVENTS else "min_number"
        known_parameters(request, name, "size")
        if wanted := whole_number(request, name, 0, MOST_POSITION):
            await cover(self._api(), log, wanted)
        signed = await log.signed(_size(request, "size"))
        body = (await log.note(signed)).encode()
        return Response(body, 200, _headers(SHORT), "text/plain; charset=utf-8")

    # Tiles and proofs

    async def tile(self, request: Request, log: Log) -> Response:
        name = parse_tile_path(f"tile/{request.path_params['name']}")
        if name is None:
            raise Problem(404, "tile-not-found", "There is no such tile.")
        body, headers = await log.hashes(name), _headers(LONG)
        if name.level == ENTRIES:
            headers["vary"] += ", Accept-Encoding"
            if "gzip" in request.headers.get("accept-encoding", ""):
                headers["content-encoding"] = "gzip"
                body = await asyncio.to_thread(gzip.compress, body, 1, mtime=0)
        return Response(body, 200, headers, "application/octet-stream")

    async def proof(self, request: Request, log: Log) -> Response:
        known_parameters(request, "size")
        name = "position" if log.name == EVENTS else "number"
        number = _number(request.path_params[name], name)
        if number == 0:
            raise Problem(404, "not-found", f"The first {name} is 1.")
        signed = await log.signed(_size(request, "size"))
        index = await log.index_of(number)
        if index >= signed.size:
            raise beyond(index, signed.size)
        (entry,) = await log.entries(index, index + 1)
        (hashes,) = await log.inclusion([index], [entry], signed)
        return as_json(
            {
                "zone": log.past.zone,
                "log": log.name,
                name: number,
                "index": index,
                "size": signed.size,
                "root": signed.root.hex(),
                "leaf": leaf_hash(entry).hex(),
                "entry": in_base64(entry),
                "hashes": [in_base64(each) for each in hashes],
                "checkpoint": await log.note(signed),
            }
        )

    async def consistency(self, request: Request, log: Log) -> Response:
        known_parameters(request, "from", "to")
        first, second = _size(request, "from"), _size(request, "to")
        if first is None:
            raise Problem(422, "missing-parameter", "A parameter is missing.", parameter="from")
        newest = await log.newest()
        second = newest.size if second is None else second
        if first == 0 or first > second:
            raise Problem(422, "sizes-reversed", "Sizes run from 1, and from is not the larger one.")
        if second > newest.size:
            raise Problem(
                404, "beyond-checkpoint", "No checkpoint of this size is signed yet.", size=str(newest.size)
            )
        first_root, second_root, hashes = await log.consistency(first, second)
        return as_json(
            {
                "zone": log.past.zone,
                "log": log.name,
                "from": first,
                "to": second,
                "from_root": first_root.hex(),
                "to_root": second_root.hex(),
                "hashes": [in_base64(each) for each in hashes],
            }
        )


def known_parameters(request: Request, *names: str) -> None:
    if len(request.query_params.multi_items()) != len(request.query_params):
        raise Problem(422, "repeated-parameter", "A parameter is given once.")
    if set(request.query_params) - set(names):
        raise Problem(422, "unknown-parameter", "There is no such parameter.", known=sorted(names))


def _size(request: Request, name: str) -> int | None:
    return whole_number(request, name, 0, MOST_POSITION) if name in request.query_params else None


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _headers(caching: str) -> dict[str, str]:
    return {"cache-control": caching, "vary": VARIES}


def as_json(body: dict[str, Any]) -> Response:
    return Response(encode_json(body), 200, _headers(SHORT), "application/json")


# Registration and documentation

_WHOLE = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_NOTE = {"text/plain": {"schema": {**_TEXT, "description": "A C2SP signed note."}}}
_BYTES = {"application/octet-stream": {"schema": {**_TEXT, "format": "binary"}}}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_SIZE = ("size", "query", _WHOLE, "The size of a checkpoint; the newest where it is missing.")
_TILE = (
    "name",
    "path",
    _TEXT,
    "`L/N` or `entries/N`, `.p/W` behind a partial one, such as `0/x001/234.p/8`.",
)

Parameter = tuple[str, str, dict[str, Any], str]


def adder(app: App, api: Callable[[], QueryApi]) -> Callable[..., None]:
    """Adds routes under /history, with their documentation."""

    def add(
        path: str,
        handle: Handle,
        name: str,
        summary: str,
        description: str,
        *parameters: Parameter,
        content: dict[str, Any] = _JSON,
        roles: frozenset[str] = SEES_ALL,
        method: str = "GET",
        more: tuple[int, ...] = (),
    ) -> None:
        extra: dict[str, Any] = (
            {} if method == "GET" else {"requestBody": {"required": True, "content": _NOTE}}
        )
        app.add(
            method,
            path,
            _route(api, handle, roles),
            tags=["history"],
            summary=summary,
            description=description,
            operation_id=f"history_{name}",
            responses={200: {"description": summary, "content": content}}
            | documented(400, 401, 403, 404, 422, *more),
            openapi_extra={
                "security": [{"key": []}],
                "parameters": [
                    *(_documented(*parameter) for parameter in parameters),
                    _documented(
                        "Fogbook-Zone", "header", ZONE_SCHEMA, "The zone; `main` where it is missing."
                    ),
                ],
                "x-roles": sorted(roles),
                "x-scope": HISTORY,
                **extra,
            },
        )

    return add


def register_proofs(app: App, api: Callable[[], QueryApi]) -> None:
    proofs, add = Proofs(api), adder(app, api)
    for log, root, named, covers in (
        (EVENTS, "/history", "position", "min_position"),
        (FATES, "/history/fates", "number", "min_number"),
    ):
        of = f"of the log of {log}"
        add(
            f"{root}/checkpoint",
            proofs.of(log, proofs.checkpoint),
            f"{log}_checkpoint",
            f"A signed checkpoint {of}",
            "A C2SP checkpoint: origin, size and root, with the signatures of the log and of witnesses.",
            (covers, "query", _WHOLE, f"Have one signed that covers this {named}, and wait for it, bounded."),
            _SIZE,
            content=_NOTE,
            more=(504,),
        )
        add(
            f"{root}/tile/{{name:path}}",
            proofs.of(log, proofs.tile),
            f"{log}_tile",
            f"A tile, or a bundle of entries, {of}",
            "C2SP tlog-tiles: 32-byte hashes of 256 neighbouring subtrees; or entries behind their 16-bit lengths.",
            _TILE,
            content=_BYTES,
        )
        add(
            f"{root}/proof/{{{named}}}",
            proofs.of(log, proofs.proof),
            f"{log}_proof",
            f"An inclusion proof {of}",
            "RFC 6962: an entry is in the tree that a checkpoint signs. Hashes are in base64, root and leaf in hex.",
            (named, "path", _WHOLE, "Which one."),
            _SIZE,
        )
        add(
            f"{root}/consistency",
            proofs.of(log, proofs.consistency),
            f"{log}_consistency",
            f"A consistency proof {of}",
            "RFC 6962: that a tree is the beginning of a later one, so that nothing in it was changed since.",
            ("from", "query", {**_WHOLE, "minimum": 1}, "The smaller size."),
            ("to", "query", _WHOLE, "The larger size; the newest checkpoint's where it is missing."),
        )
