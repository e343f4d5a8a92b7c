"""Every limit, as the README shows it: `python -m ops.limited` prints the table."""

from __future__ import annotations

import sys
from typing import NamedTuple

from commands import _batch, _models, _sequencer
from ops import protocol, web
from ops.settings import Settings
from queries import _sql, history


class Limit(NamedTuple):
    what: str
    most: str
    setting: str
    answer: str


def _set(what: str, name: str, answer: str, unit: str = "") -> Limit:
    """A limit that is a setting."""
    default = Settings.model_fields[name].default
    return Limit(what, f"{default}{unit}", f"`FOGBOOK_{name.upper()}`", answer)


def _fixed(what: str, most: object, answer: str) -> Limit:
    return Limit(what, str(most), "", answer)


def limits() -> list[Limit]:
    return [
        _set("commands of a key, a second / at once", "rate_commands", "429"),
        _set("commands of a principal's keys together", "rate_commands_principal", "429"),
        _set("queries and history of a key", "rate_queries", "429"),
        _set("queries and history of a principal's keys together", "rate_queries_principal", "429"),
        _set("failed authentications of an address", "rate_failures", "429"),
        _set("commands under way in a process", "most_commands", "503"),
        _set("commands under way of a key", "most_commands_per_key", "503"),
        _set("queries under way in a process", "most_queries", "503"),
        _set("queries under way of a key", "most_queries_per_key", "503"),
        _set("requests for history under way in a process", "most_history", "503"),
        _set("requests for history under way of a key", "most_history_per_key", "503"),
        _set("live feeds of a process", "most_live", "503"),
        _set("live feeds of a key", "most_live_per_key", "503"),
        _set("connections of a process", "most_connections", "503"),
        _fixed("commands queued in a zone", _sequencer.MOST_QUEUED, "503"),
        _fixed("its oldest has waited", f"{_sequencer.LATE * _sequencer.DEADLINE_S:g} s", "503"),
        _fixed("an answer to a command", f"{_sequencer.DEADLINE_S:g} s", "503"),
        _set("a wait for PostgreSQL", "database_wait_s", "503", " s"),
        _set("a wait for `min_position`", "min_position_wait_s", "504", " s"),
        _fixed("a URL", f"{protocol.MOST_URL_BYTES} bytes", "414"),
        _fixed("the head of a request", f"{protocol.MOST_HEAD_BYTES} bytes", "431"),
        _fixed("its arrival", f"{protocol.HEAD_DEADLINE_S:g} s", "408"),
        _fixed("a body, or a line of a batch", f"{web.MOST_BODY_BYTES} bytes", "413"),
        _fixed("a batch", f"{web.MOST_BATCH_BYTES} bytes, {_batch.MOST_LINES} lines", "413"),
        _fixed("the arrival of a body", f"{web.BODY_DEADLINE_S:g} s", "408"),
        _fixed("levels of JSON", _models.MOST_DEPTH, "400"),
        _fixed("values in a body", _models.MOST_VALUES, "400"),
        _fixed("a text, an item of a list", "256 characters, 1000 items", "422"),
        _fixed("rows of a page", f"{_sql.MOST_LIMIT}; of history {history.MOST_LIMIT} and 4 MiB", "422"),
        _fixed("a connection without a request", f"{protocol.IDLE_S} s", "closed"),
        _fixed("an answer that nobody reads", f"{protocol.WRITE_DEADLINE_S:g} s", "closed"),
    ]


def table() -> str:
    rows = [f"| {limit.what} | {limit.most} | {limit.setting} | {limit.answer} |" for limit in limits()]
    return "\n".join(["| limit | most | setting | beyond it |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
