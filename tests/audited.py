"""What the stand-alone auditor says of an export of a log that was harmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from ops import auditor
from ops.export import one_moment, stored_entries, survey, write_ndjson
from ops.home import Refused
from projections._attestations import fate_index
from tests import harms
from tests.chronicles import Chronicle
from tests.tampering import KINDS, Where

LOGS = (harms.events.__name__, harms.fates.__name__)
LOG_KINDS = [name for name, each in KINDS.items() if each.run.__module__ in LOGS]

NOT_EXPORTED = (
    "the head",
    "a deleted head",
    "before the first",
    "an event appended",
    "an inserted fate",
    "a deleted log",
    "another application",
)
"""What an export does not hold: it begins at the first position and ends where the head says."""

EXPORTED = [
    name for name in LOG_KINDS if name.endswith("with it") or not any(part in name for part in NOT_EXPORTED)
]

FORGED = [
    name
    for name, each in KINDS.items()
    if each.run.__module__ == harms.signed.__name__ and not name.endswith(": another amount")
]
"""What the auditor finds without what was kept elsewhere; what a request says, he sees only by its hash."""


def audited(chronicle: Chronicle, path: Path, *, held: bool = True) -> list[str]:
    """What the auditor says of an export, `held`: with what was kept elsewhere; or why there is none."""
    source = None
    try:
        with chronicle.database.connect() as connection, one_moment(connection):
            manifest = survey(connection, "main")
            write_ndjson(path, manifest, stored_entries(connection, manifest), lambda done, total: None)
        keys = [auditor.parse_vkey(text) for text in chronicle.vkeys]
        source = auditor.Export(str(path))
        return auditor.audit(source, keys, chronicle.held if held else []).differences
    except (Refused, auditor.Unusable) as error:
        return [str(error)]
    finally:
        if source is not None:
            source.file.close()


def named(connection: psycopg.Connection[Any], where: Where) -> list[str]:
    """How the auditor may name a place: as such, as an entry of its log, or by the first checkpoint that covers it.
    An export of a log that has gaps is refused."""
    refused = "entries and holds"
    if (number := where.get("command")) is not None:
        index = fate_index(connection, "main", number)
        return [
            f"command {number}:",
            f"command {number} at",
            f"fates, entry {index}:",
            *_covering("fates", index),
            refused,
        ]
    position = where["position"]
    cut_off = f"events, size {position - 1}: "
    return [
        f"position {position}:",
        f"events, entry {position - 1}:",
        *_covering("events", position - 1),
        cut_off,
        refused,
    ]


def _covering(log: str, place: int) -> list[str]:
    return [f"{log}, size {size}: the root is not that of {log}" for size in range(place + 1, place + 200)]
