"""The short form of `tests/torture/test_tampering.py`: some harm of each sort to one log, and two honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import psycopg
import pytest

from ops import auditor
from ops.export import one_moment, stored_entries, survey, write_ndjson
from ops.home import Refused
from ops.servers import Servers
from projections._attestations import fate_index
from tests import harms
from tests.campaign import RARELY, Tally, check_honest, thrown_away
from tests.chronicles import Chronicle, Features, live_through
from tests.tampering import (
    KINDS,
    Expected,
    Harm,
    Where,
    all_tables,
    harmed,
    has_changed,
    keep_copies,
    kind,
    look,
    try_kind,
)

SEED = 11
EVERY = 5
"""Of the kinds that cost most, each fifth takes part."""

LOG_KINDS = [name for name, each in KINDS.items() if each.run.__module__ == harms.log.__name__]
ALL = [
    *(name for name, each in KINDS.items() if not each.models and not name.startswith(RARELY)),
    *[name for name, each in KINDS.items() if each.models][::EVERY],
    *[name for name in KINDS if name.startswith(RARELY)][::EVERY],
]


@pytest.fixture(scope="module")
def chronicle(servers: Servers, _template: str) -> Iterator[Chronicle]:
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        yield live_through(database, SEED, 10, Features(library=True))


@pytest.fixture(scope="module")
def superuser(chronicle: Chronicle) -> Iterator[psycopg.Connection[object]]:
    with chronicle.database.superuser() as connection:
        keep_copies(connection)
        yield connection


@pytest.mark.parametrize("name", ALL)
def test_whatever_a_superuser_alters_is_detected_and_located(
    chronicle: Chronicle, superuser: psycopg.Connection[object], name: str
) -> None:
    outcome = try_kind(chronicle, superuser, KINDS[name], Random(f"{SEED}/{name}"))
    assert outcome is not None, "this log has something to be harmed so"
    assert (outcome.changed, outcome.detected, outcome.located) == (True, True, True), outcome


def test_what_was_undone_is_honest_again(chronicle: Chronicle, superuser: psycopg.Connection[object]) -> None:
    assert not has_changed(superuser, {*all_tables()})
    assert look(chronicle, models=True, held=True, deep=True).problems == []


@pytest.mark.parametrize(
    "features",
    [
        Features(rebuilt=True, archived_anew=True, library=True, unfinished=True),
        Features(rotated=False, quarantined=True, witnessed=False),
    ],
)
@pytest.mark.usefixtures("_template")
def test_an_honest_log_raises_no_alarm(servers: Servers, features: Features) -> None:
    tally = Tally()
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        check_honest(live_through(database, SEED + 1, 0, features), tally, "")
    assert tally.false_alarms == []


def test_a_harm_that_does_nothing_or_is_not_found_fails_a_run(
    chronicle: Chronicle, superuser: psycopg.Connection[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nothing", "what nobody looks at"):
        monkeypatch.delitem(KINDS, name, raising=False)

    def nothing(harm: Harm, rng: Random) -> Expected:
        harm.sql("UPDATE events SET type = type WHERE zone = 'main'")
        return [{"position": 1}]

    def what_nobody_looks_at(harm: Harm, rng: Random) -> Expected:
        harm.sql("UPDATE trees SET wanted = wanted + 1 WHERE zone = 'main'")
        return [{"table": "trees"}]

    tally = Tally()
    for each in (nothing, what_nobody_looks_at):
        kind()(each)
        outcome = try_kind(chronicle, superuser, KINDS.pop(each.__name__.replace("_", " ")), Random(1))
        assert outcome is not None
        tally.count(outcome, "1")
    assert [line.partition(";")[0] for line in tally.failures] == [
        "nothing (1): changed False, detected False, located False",
        "what nobody looks at (1): changed True, detected False, located False",
    ]
    assert "a byte of a tile" in tally.never_applied()


# The auditor that shares nothing with us

NOT_EXPORTED = (
    "snapshot",
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


@pytest.mark.parametrize("name", EXPORTED)
def test_the_stand_alone_auditor_finds_what_is_altered_in_the_log(
    chronicle: Chronicle, superuser: psycopg.Connection[object], name: str, tmp_path: Path
) -> None:
    run = KINDS[name].run
    with harmed(chronicle, superuser, run, Random(f"{SEED}/{name}")) as (_, expected):
        assert expected is not None
        said = audited(chronicle, tmp_path / "export.ndjson")
        wanted = [each for where in expected for each in named(superuser, where)]
    assert any(each in line for line in said for each in wanted), (said[:5], wanted)


def named(connection: psycopg.Connection[object], where: Where) -> list[str]:
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
        *_covering("events", position),
        cut_off,
        refused,
    ]


def _covering(log: str, place: int) -> list[str]:
    return [f"{log}, size {size}: the root is not that of {log}" for size in range(place + 1, place + 200)]


def test_the_stand_alone_auditor_raises_no_alarm(chronicle: Chronicle, tmp_path: Path) -> None:
    assert audited(chronicle, tmp_path / "export.ndjson") == []


def audited(chronicle: Chronicle, path: Path) -> list[str]:
    """What the auditor says of an export, with what was kept elsewhere; or why there is none."""
    source = None
    try:
        with chronicle.database.connect() as connection, one_moment(connection):
            manifest = survey(connection, "main")
            write_ndjson(path, manifest, stored_entries(connection, manifest), lambda done, total: None)
        keys = [auditor.parse_vkey(text) for text in chronicle.vkeys]
        source = auditor.Export(str(path))
        return auditor.audit(source, keys, chronicle.held).differences
    except (Refused, auditor.Unusable) as error:
        return [str(error)]
    finally:
        if source is not None:
            source.file.close()
