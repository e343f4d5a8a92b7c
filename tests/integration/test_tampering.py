"""The short form of the torture scenario `tampering`: some harm of each sort to one log, and two honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import psycopg
import pytest

from ops.servers import Servers
from tests.audited import EXPORTED, FORGED, audited, named
from tests.campaign import RARELY, Tally, check_honest, thrown_away
from tests.chronicles import Chronicle, Features, live_through
from tests.tampering import (
    KINDS,
    Expected,
    Harm,
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


@pytest.mark.parametrize("name", FORGED)
def test_the_stand_alone_auditor_finds_what_was_not_signed(
    chronicle: Chronicle, superuser: psycopg.Connection[object], name: str, tmp_path: Path
) -> None:
    run = KINDS[name].run
    with harmed(chronicle, superuser, run, Random(f"{SEED}/{name}")) as (_, expected):
        said = audited(chronicle, tmp_path / "export.ndjson", held=False)
    assert expected is not None
    assert any(line.startswith(f"position {expected[0]['position']}: ") for line in said), (said, expected)


def test_the_stand_alone_auditor_raises_no_alarm(chronicle: Chronicle, tmp_path: Path) -> None:
    assert audited(chronicle, tmp_path / "export.ndjson") == []
