"""History on the screen: the log as it is stored, what each event came from and came to, and its proof.

What a screen says of an event's place in the log is not taken from the server's word: the page's own script hashes the
event, walks up the tree, and checks the signature (static/verify.js).
"""

from __future__ import annotations

from typing import Any

from ops.problems import Problem
from queries._console._render import View
from queries._console._screens import Ask, answered, screen

PAGE = 50
MOST_POSITION = 2**62
MOST_VERSIONS = 100
BROKEN = 500
"""A proof that is refused with such a status cannot be had; with a lower one it is not there yet."""
NODE_WIDTH, NODE_HEIGHT, GAP = 250, 40, 14


async def moment(ask: Ask, view: View) -> int | None:
    """The position that the whole console is looked at as of; None: now. Raises Problem."""
    if not view.as_of:
        return None
    found = answered(await ask("/queries/ledger/supply", as_of=view.as_of, limit="1"))
    return int(found.headers["fogbook-position"])


@screen("history", "History", "after", "type", "stream", "live", in_menu=True)
async def history(ask: Ask, given: dict[str, str], view: View) -> dict[str, Any]:
    """The log, newest page first; behind a position that the reader names, or by a filter, otherwise."""
    filters = {name: given[name] for name in ("type", "stream") if given.get(name)}
    upto = await moment(ask, view)
    end = answered(await ask("/history/events", after="0", limit="1"))
    head = min(upto or MOST_POSITION, int(end.headers["fogbook-position"]))
    is_live = not view.as_of and (bool(given.get("live")) or not (given.get("after") or filters))
    after = str(head) if is_live and filters else given.get("after", "") if not is_live else ""
    after = after or ("0" if filters else str(max(0, head - PAGE)))
    page = answered(await ask("/history/events", after=after, limit=str(PAGE), **filters))
    events = [event for event in page.lines if event["position"] <= head]
    later = page.headers.get("fogbook-next")
    return {
        "events": events[::-1] if is_live or not (given.get("after") or filters) else events,
        "head": head,
        "seen": head,
        "live": is_live,
        "after": int(after),
        "earlier": max(0, int(after) - PAGE) if after != "0" else None,
        "later": later if later is not None and int(later) < head else None,
        "filters": filters,
    }


@screen("event", "Event", "position")
async def event(ask: Ask, given: dict[str, str], view: View) -> dict[str, Any]:
    """One event with its cause, its effects, and what its proof needs."""
    position = given.get("position", "")
    if not position.isdecimal():
        raise Problem(422, "invalid-parameter", "The position is a whole number.")
    upto = await moment(ask, view)
    if upto is not None and int(position) > upto:
        raise Problem(
            404, "not-yet", f"This event came later: the console shows what was at position {upto}."
        )
    found = answered(await ask(f"/history/events/{position}")).value
    proof = await ask(f"/history/proof/{position}")
    keys = await ask("/history/keys")
    return {
        "event": found,
        "proof": proof.value if proof.ok else None,
        "no_proof": "" if proof.ok else proof.detail,
        "is_damaged": proof.status >= BROKEN,
        "vkeys": [key["vkey"] for key in keys.value["keys"] if key["log"] == "events"] if keys.ok else [],
    }


@screen("stream", "Stream", "stream", "at")
async def stream(ask: Ask, given: dict[str, str], view: View) -> dict[str, Any]:
    """A stream's events, and its state at any of its versions."""
    name = given.get("stream", "")
    path = f"/history/streams/{name}"
    upto = await moment(ask, view)
    as_of = {} if upto is None else {"at": f"position:{upto}"}
    head = answered(await ask(f"{path}/state", **as_of)).value
    at = given.get("at", "") or str(head["version"])
    folded = answered(await ask(f"{path}/state", at=at)).value
    after = max(0, folded["version"] - MOST_VERSIONS)
    events = answered(await ask(path, after=str(after), limit=str(MOST_VERSIONS))).lines
    shown = [event for event in events if event["version"] <= head["version"]]
    return {"name": name, "newest": head["version"], "folded": folded, "events": shown[::-1]}


@screen("explain", "Explanation", "table", "key", "after")
async def explain(ask: Ask, given: dict[str, str], view: View) -> dict[str, Any]:
    """What made a row of a read model what it is: each field's event, and each version's."""
    table = given.get("table", "")
    keys = given.get("key", "").split("|")
    upto = await moment(ask, view)
    paged = {name: given[name] for name in ("after",) if given.get(name)}
    as_of = {} if upto is None else {"at": f"position:{upto}"}
    found = answered(await ask(f"/history/rows/{table}", key=keys, **paged, **as_of)).value
    return {"row": found}


@screen("correlation", "What belongs together", "id")
async def correlation(ask: Ask, given: dict[str, str], view: View) -> dict[str, Any]:
    """The tree of commands, placed for a picture: deeper ones to the right, in their order downwards."""
    found = answered(await ask(f"/history/correlations/{given.get('id', '')}", limit="200")).value
    nodes = {node["command_id"]: node for node in found["nodes"]}
    placed: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, int]] = []

    def place(node: dict[str, Any], depth: int) -> None:
        """A command, and below it what followed; loops, not calls, since trees may be deep."""
        waiting = [(node, depth)]
        while waiting:
            each, deep = waiting.pop()
            x, y = deep * (NODE_WIDTH + GAP), len(placed) * (NODE_HEIGHT + GAP)
            placed[each["command_id"]] = {"node": each, "x": x, "y": y}
            above = placed.get(each["caused_by"] or "")
            if above is not None and above["node"] is not each:
                lines.append(
                    {
                        "x": above["x"] + GAP,
                        "y": above["y"] + NODE_HEIGHT,
                        "to_x": x,
                        "to_y": y + NODE_HEIGHT // 2,
                    }
                )
            below = [nodes[id] for id in reversed(each["children"]) if id in nodes and id not in placed]
            waiting.extend((child, deep + 1) for child in below)

    for node in found["nodes"]:
        if node["command_id"] not in placed:
            place(node, 0)
    return {
        "tree": found,
        "placed": list(placed.values()),
        "lines": lines,
        "width": max((each["x"] for each in placed.values()), default=0) + NODE_WIDTH,
        "height": len(placed) * (NODE_HEIGHT + GAP),
        "size": (NODE_WIDTH, NODE_HEIGHT),
    }
