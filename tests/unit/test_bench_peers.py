"""What Fogbook is measured against does the same work, and says so where it cannot be had."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eventsourcing.application import AggregateNotFoundError
from eventsourcing.persistence import IntegrityError

from ops.bench._node import NodeMissing, node, node_folder, packages
from ops.bench._peer_projections import Peer
from ops.bench._stage import BenchFailed
from ops.bench.peers.library_projection import history
from ops.bench.peers.library_tuned import (
    START,
    Credited,
    Debited,
    InsufficientFunds,
    Opened,
    Wallets,
    project,
    wallet_id,
)
from ops.bench.peers.noop import Transfer

ALICE, BOB = "wallet:p00:0", "wallet:p01:0"


@pytest.fixture
def wallets(monkeypatch: pytest.MonkeyPatch) -> Wallets:
    """Alice's and Bob's, in memory."""
    monkeypatch.delenv("PERSISTENCE_MODULE", raising=False)
    made = Wallets()
    made.open_all(2, 2)
    return made


def transfer(amount: int) -> Transfer:
    return Transfer.model_validate({"from": ALICE, "to": BOB, "amount": str(amount)})


def balances(wallets: Wallets) -> tuple[int, int]:
    """As all events together say, past any cache."""
    names = (wallet_id(ALICE), wallet_id(BOB))
    alice, bob = (project(None, wallets.events.get(name)) for name in names)
    return alice.balance, bob.balance


def test_the_tuned_library_moves_money_in_two_events(wallets: Wallets) -> None:
    debited, credited = wallets.transfer(transfer(3), "p00")
    assert (type(debited.domain_event), type(credited.domain_event)) == (Debited, Credited)
    assert balances(wallets) == (START - 3, START + 3)


def test_the_tuned_library_decides_on_what_it_remembers(wallets: Wallets) -> None:
    for _ in range(3):
        wallets.transfer(transfer(START // 4), "p00")
    wallets.transfer(transfer(START // 4), "p00")
    with pytest.raises(InsufficientFunds):
        wallets.transfer(transfer(1), "p00")
    assert balances(wallets) == (0, 2 * START)


def test_the_tuned_library_lets_nobody_pay_from_anothers_wallet(wallets: Wallets) -> None:
    with pytest.raises(AggregateNotFoundError):
        wallets.transfer(transfer(1), "p01")
    assert balances(wallets) == (START, START)


def test_the_tuned_library_stores_nothing_that_was_decided_on_an_old_wallet(wallets: Wallets) -> None:
    old = wallets.repository.get(wallet_id(ALICE), projector_func=project)
    wallets.transfer(transfer(1), "p00")
    wallets.repository.cache.put(old.id, old)
    with pytest.raises(IntegrityError):
        wallets.transfer(transfer(1), "p00")
    assert balances(wallets) == (START - 1, START + 1)


def test_a_history_for_a_projection_is_as_long_as_asked_for_and_keeps_all_money() -> None:
    events = list(history(100, 10, 5))
    assert len(events) == 100
    assert [type(event) for event in events[:4]] == [Opened, Credited, Opened, Credited]
    names = {event.originator_id for event in events}
    found = [project(None, [e for e in events if e.originator_id == name]) for name in names]
    assert (len(found), sum(wallet.balance for wallet in found)) == (10, 10 * START)
    assert type(events[-1]) is Credited


# Programs with a read model


def peer_that_prints(tmp_path: Path, rebuilt: str, then: str = "") -> tuple[Peer, Any]:
    """A peer that makes two events with 7 of money, and what stands for the bench's stage."""
    answers = {"make": '{"events": 2, "money": "7"}', "rebuild": rebuilt}
    program = f"import sys; print({answers!r}[sys.argv[1]]); {then}"
    stage = SimpleNamespace(
        folder=tmp_path,
        environment=lambda: dict(os.environ),
        say=lambda text: None,
        scale=SimpleNamespace(peer_events=2),
        servers=SimpleNamespace(pids={"postgres": os.getpid()}),
    )
    return Peer("other", [sys.executable, "-c", program], {}), stage


def test_a_rebuild_is_counted_when_all_events_and_all_money_are_in_it(tmp_path: Path) -> None:
    rebuilt = '{"events": 2, "money": "7", "seconds": 0.5, "cpu_s": 0.1}'
    peer, stage = peer_that_prints(tmp_path, rebuilt)
    peer.make(stage)
    peer.rebuild(stage)
    assert peer.rebuilds.rates == [4.0]
    assert peer.rebuilds.server_s == 0.1


@pytest.mark.parametrize(("events", "money"), [(1, "7"), (2, "8")])
def test_a_rebuild_that_passes_over_something_counts_for_nothing(
    tmp_path: Path, events: int, money: str
) -> None:
    rebuilt = f'{{"events": {events}, "money": "{money}", "seconds": 0.5, "cpu_s": 0.1}}'
    peer, stage = peer_that_prints(tmp_path, rebuilt)
    peer.make(stage)
    with pytest.raises(BenchFailed, match="has not projected its 2 events"):
        peer.rebuild(stage)
    assert peer.rebuilds.rates == []


def test_a_program_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    peer, stage = peer_that_prints(tmp_path, "", "raise SystemExit('the disk is full')")
    with pytest.raises(BenchFailed, match=r"other cannot make: .*the disk is full"):
        peer.make(stage)


# Node, as far as it can be tried without one and without a network


def program(folder: Path, name: str, body: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(body)
    # No `#!` of Python itself, whose path may hold a space.
    (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / name}.py" "$@"\n')
    (folder / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and an empty cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    return tmp_path / "bin"


def folder_of(path: Path) -> Path:
    return node_folder(path.parent / "home", lambda text: None)


def test_without_node_its_peers_cannot_be_measured(path: Path) -> None:
    with pytest.raises(NodeMissing, match="no node on PATH"):
        node()


def test_without_npm_nothing_is_installed(path: Path) -> None:
    program(path, "node", "")
    with pytest.raises(NodeMissing, match="no npm on PATH"):
        folder_of(path)


def test_an_installation_that_fails_says_why_and_leaves_nothing(path: Path) -> None:
    program(path, "node", "")
    program(path, "npm", "import os; os.mkdir('node_modules'); raise SystemExit('there is no network')")
    with pytest.raises(NodeMissing, match="there is no network"):
        folder_of(path)
    assert not packages().exists()


def test_packages_are_installed_once_and_stand_beside_the_sources(path: Path) -> None:
    program(path, "node", "")
    program(path, "npm", "import os, sys; os.makedirs('node_modules/' + sys.argv[1])")
    folder = folder_of(path)
    assert {"app.mjs", "package.json"} <= {entry.name for entry in folder.iterdir()}
    assert os.listdir(folder / "node_modules") == ["install"]
    program(path, "npm", "raise SystemExit('this must not run')")
    assert folder_of(path) == folder
