"""One serial history, and reads that are true at the position they state; `make torture` runs the long forms."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from commands._codec import encode_json
from tests.conftest import Database
from tests.faults.check import check_acks
from tests.faults.judge import Judge, Recorded
from tests.faults.ledger import Ack, digest_of
from tests.faults.reads import Read, check, read_along
from tests.faults.serial import race

SEED = 1
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_every_accept_and_every_refusal_is_the_plain_models_at_its_place(database: Database) -> None:
    counts = race(database, SEED, lambda commands: commands >= 1_600)
    assert counts["judged"] >= 1_600
    assert all(counts[what] for what in ("accepted", "refused", "conflicts", "holds expired")), counts


def test_each_read_is_the_models_at_the_position_it_states_and_nobody_goes_back(database: Database) -> None:
    counts = read_along(database, SEED, lambda reads: reads >= 800)
    assert counts["reads"] >= 800
    assert counts["positions read"] > 50, counts
    assert all(counts[what] for what in ("positions named", "rebuilds", "commands")), counts
    with pytest.raises(AssertionError, match="is not what was there"):
        check(database, [Read(30, {})])


def fate(number: int, key: str, command: str = "", body: object = None, status: int = 200) -> Recorded:
    request = encode_json({"command": command, "act_as": "w0", "body": body})
    return Recorded(number, key, "admin", request, status, b'{"events":[]}', NOON)


def ack(key: str, sent: float, got: float) -> Ack:
    return Ack(key, "admin", 200, 1, digest_of(b'{"events":[]}'), sent, got)


def test_an_order_other_than_the_one_that_clients_saw_is_noticed() -> None:
    fates = [fate(1, "late"), fate(2, "early")]
    check_acks(fates, [ack("early", 1.0, 3.5), ack("late", 3.0, 4.0)])
    with pytest.raises(AssertionError, match="late was sent after an answer that it precedes"):
        check_acks(fates, [ack("early", 1.0, 2.0), ack("late", 3.0, 4.0)])


@pytest.mark.parametrize("status", [200, 409])
def test_an_outcome_other_than_the_models_is_noticed(status: int) -> None:
    rich = Judge()
    rich.wallets |= {"wallet:w0", "wallet:w1"}
    rich.posted["wallet:w0"] = 100 if status == 409 else 0
    payment = {"from": "wallet:w0", "to": "wallet:w1", "amount": "50"}
    assert "where the model says otherwise" in rich.judge(fate(1, "k", "ledger/transfer", payment, status))
