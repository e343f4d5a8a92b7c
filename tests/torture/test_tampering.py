"""The long form: 5,000 harms that a superuser does to logs, each detected and located, and 100 honest logs."""

from __future__ import annotations

import os
import time

import pytest

from ops.servers import Servers
from tests.campaign import run

MUTATIONS = int(os.environ.get("FOGBOOK_MUTATIONS", "5000"))
HONEST = int(os.environ.get("FOGBOOK_HONEST", "100"))
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
