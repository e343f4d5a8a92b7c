"""The long form: 5,000 harms that a superuser does to logs, each detected and located, and 100 honest logs; and what
the stand-alone auditor says of some of them."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from random import Random

import pytest

from ops.servers import Servers
from tests.audited import EXPORTED, audited, named
from tests.campaign import run, thrown_away
from tests.chronicles import Features, live_through
from tests.tampering import KINDS, harmed, keep_copies

MUTATIONS = int(os.environ.get("FOGBOOK_MUTATIONS", "5000"))
HONEST = int(os.environ.get("FOGBOOK_HONEST", "100"))
EACH = 5
"""Harms of a kind that the auditor sees."""
PROCESSES = int(os.environ.get("FOGBOOK_PROCESSES", "2"))

pytestmark = pytest.mark.torture


@pytest.mark.usefixtures("_template")
def test_whatever_a_superuser_alters_is_detected_and_located(
    servers: Servers, pytestconfig: pytest.Config
) -> None:
    seed: int = pytestconfig.getoption("seed")
    began = time.monotonic()
    tally = run(servers.database_url, servers.superuser_url, seed, MUTATIONS, HONEST, PROCESSES)
    for line in tally.lines():
        print(line)
    print(f"seed {seed}, {PROCESSES} processes, {time.monotonic() - began:.0f} s")
    assert tally.failures == [] and tally.false_alarms == []
    assert sum(tally.applied.values()) == MUTATIONS and tally.honest == HONEST
    assert tally.never_applied() == []


@pytest.mark.usefixtures("_template")
def test_the_stand_alone_auditor_finds_what_is_altered_in_the_log(
    servers: Servers, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    seed, done, missed = pytestconfig.getoption("seed"), 0, []
    with thrown_away(servers.database_url, servers.superuser_url) as database:
        chronicle = live_through(database, seed, 30, Features(library=True))
        with database.superuser() as connection:
            keep_copies(connection)
            for name, number in itertools.product(EXPORTED, range(EACH)):
                rng = Random(f"{seed}/{name}/{number}")
                with harmed(chronicle, connection, KINDS[name].run, rng) as (_, expected):
                    assert expected is not None
                    said = audited(chronicle, tmp_path / "export.ndjson")
                    wanted = [each for where in expected for each in named(connection, where)]
                done += 1
                if not any(each in line for line in said for each in wanted):
                    missed.append((name, number, said[:5], wanted[:3]))
        assert audited(chronicle, tmp_path / "export.ndjson") == []
    print(f"the auditor: {done} harms of {len(EXPORTED)} kinds, {len(missed)} missed")
    assert missed == []
