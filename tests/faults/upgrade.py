"""The next version takes the place of this one, process by process, while people go on.

The next version is a copy of this tree with what a release may bring: a type of event and a field, a command, a handler
and a column (so its projection is folded anew), and a migration of each step.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from ops._supervise import run
from ops.zones import ensure_zone
from tests.faults.check import caught_up
from tests.faults.client import CUT_OFF, Answer, Hung
from tests.faults.stage import SCENARIOS, Scenario, Stage, Turn, perform
from tests.faults.world import ROOT, World, world
from tests.running import until

ZONE = "next"
WALLET = "wallet:noted"
BETWEEN = 15
"""Commands that are acknowledged between two processes' turns."""
WITHIN_S = 90.0

PACKAGES = ("domain", "commands", "projections", "queries", "workers", "ops")

PATCHES: dict[str, tuple[tuple[str, str], ...]] = {
    "domain/ledger.py": (
        (
            "@dataclass(frozen=True, slots=True)\nclass Debited:",
            "@dataclass(frozen=True, slots=True)\nclass WalletNoted:\n    note: str\n\n\n"
            "@dataclass(frozen=True, slots=True)\nclass Debited:",
        ),
        (
            '    source: str\n    purpose: str\n    reference: str = ""\n    memo: Personal = ""\n',
            '    source: str\n    purpose: str\n    reference: str = ""\n    memo: Personal = ""\n'
            '    since: str = "next"\n',
        ),
        ("    | WalletClosed\n    | Debited\n", "    | WalletClosed\n    | WalletNoted\n    | Debited\n"),
        (
            "        case WalletFrozen():\n            return replace",
            "        case WalletNoted():\n            return account\n"
            "        case WalletFrozen():\n            return replace",
        ),
        (
            "@dataclass(frozen=True, slots=True)\nclass FreezeWallet:",
            '@dataclass(frozen=True, slots=True)\nclass NoteWallet:\n    """Put a note on a wallet."""\n\n'
            "    wallet: WalletId\n    note: Text\n\n\n"
            "def note_wallet(command: NoteWallet, issued: Issued, read: Read) -> Decision:\n"
            '    if read(accounts, command.wallet).status != "open":\n'
            "        raise WalletNotFound(wallet=command.wallet)\n"
            "    yield accounts(command.wallet), WalletNoted(command.note)\n\n\n"
            "@dataclass(frozen=True, slots=True)\nclass FreezeWallet:",
        ),
    ),
    "commands/ledger.py": (
        ("    MintTokens,\n", "    MintTokens,\n    NoteWallet,\n"),
        (
            "ledger.post(DistributeRewards, OPERATOR)\n",
            "ledger.post(DistributeRewards, OPERATOR)\n"
            "ledger.post(NoteWallet, OPERATOR, lambda c, by: accounts(c.wallet))\n",
        ),
    ),
    "projections/ledger.py": (
        ("    WalletFrozen,\n", "    WalletFrozen,\n    WalletNoted,\n"),
        ("    opened_at: datetime = EPOCH\n", '    opened_at: datetime = EPOCH\n    note: str = ""\n'),
        ("    Reward,\n    Day,\n)", "    Reward,\n    Day,\n    version=1_000,\n)"),
        (
            "@ledger.on(WalletFrozen)\n",
            "@ledger.on(WalletNoted)\n"
            "def wallet_noted(rows: Rows, event: WalletNoted, record: Record) -> None:\n"
            "    rows.of(Account, record.stream).note = event.note\n\n\n"
            "@ledger.on(WalletFrozen)\n",
        ),
    ),
}

MIGRATIONS = {
    "v9001_next.py": (
        '"""What the next version adds."""\n\nfrom alembic import op\n\n'
        'revision = "9001"\ndown_revision = "{head}"\n\n\n'
        "def upgrade() -> None:\n    op.execute(\"ALTER TABLE api_keys ADD COLUMN note text NOT NULL DEFAULT ''\")\n"
    ),
    "v9002_no_more.py": (
        '"""What it uses no more."""\n\nfrom alembic import op\n\nrevision = "9002"\ndown_revision = "9001"\n'
        'step = "contract"\n\n\ndef upgrade() -> None:\n    op.execute("DROP INDEX milestone_commands")\n'
    ),
}


def successor(folder: Path) -> Path:
    """The next version, in a new folder."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("bench", "deploy"))
    (folder / "tests" / "faults").mkdir(parents=True)
    for name in ("__init__.py", "faults/__init__.py", "faults/child.py"):
        shutil.copy(ROOT / "tests" / name, folder / "tests" / name)
    for name, patches in PATCHES.items():
        path = folder / name
        text = path.read_text()
        for old, new in patches:
            assert old in text, f"{name} has no longer what the next version changes: {old!r}"
            text = text.replace(old, new, 1)
        path.write_text(text)
    versions = folder / "ops" / "migrations" / "versions"
    head = max(path.name[1:5] for path in versions.glob("v*.py"))
    for name, text in MIGRATIONS.items():
        (versions / name).write_text(text.format(head=head))
    return folder


class Notes:
    """Somebody who uses what the next version brings as soon as there is any of it, in a zone of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._connection = stage.clients.connection()
        self.enough = sys.maxsize
        """How many notes end it."""
        self.minted = 0
        self.noted: list[str] = []

    async def write(self) -> None:
        await self._until_done("open", "ledger/open-wallet", {"wallet": WALLET}, "noted")
        for number in count():
            if len(self.noted) >= self.enough:
                break
            key = f"{self._stage.traffic.name}-{number}"
            mint = {"to": WALLET, "amount": "1", "reason": "start", "reference": key}
            await self._until_done(f"{key}-mint", "ledger/mint-tokens", mint)
            self.minted += 1
            answer = await self._ask(f"{key}-note", "ledger/note-wallet", {"wallet": WALLET, "note": key})
            if answer is not None and answer.status == 200:
                self.noted.append(f"{key}-note")
            elif answer is not None and answer.status == 404:
                self._stage.counts["not known yet"] += 1
            self._connection.close()  # The next one may meet the other version.
            await asyncio.sleep(0.02)

    async def _until_done(self, key: str, path: str, body: Any, by: str = "") -> None:
        while True:
            answer = await self._ask(key, path, body, by)
            if answer is not None and answer.status == 200:
                return
            await asyncio.sleep(0.02)

    async def _ask(self, key: str, path: str, body: Any, by: str = "") -> Answer | None:
        headers = self._stage.world.headers(by)
        headers |= {"idempotency-key": key, "content-type": "application/json", "fogbook-zone": ZONE}
        content = json.dumps(body).encode()
        try:
            answer = await self._connection.ask("POST", f"/commands/{path}", headers, content)
        except (*CUT_OFF, Hung):
            return None
        if answer.status == 503:
            assert "retry-after" in answer.headers
            self._stage.counts["older than the log"] += b"older version" in answer.body
            self._connection.close()
        else:
            assert answer.status in (200, 404), answer.body
        return answer


async def upgrade(stage: Stage) -> None:
    made, tree = stage.world, stage.world.home.parent / "next version"
    await stage.in_thread(successor, tree)
    await stage.in_thread(ensure_zone, made.servers.database_url, ZONE)
    notes = Notes(stage)
    async with stage.traffic.flowing(people=4):
        writing = asyncio.create_task(notes.write())
        await stage.traffic.more(BETWEEN)
        await stage.in_thread(fogbook, made, tree, "migrate", "--step", "expand")
        turns = [*made.workers, *made.apis]
        if stage.long:  # The last API goes back, and comes again.
            turns += 2 * [made.apis[-1]]
        for number, name in enumerate(turns):
            back = number == len(turns) - 2 and stage.long
            await replaced(stage, name, ROOT if back else tree)
            await stage.traffic.more(BETWEEN)
            if name == made.apis[0] and not back:  # The other one meets what it cannot know, and says so.
                await until(lambda: len(notes.noted) > 1 and bool(stage.counts["older than the log"]))
        await stage.in_thread(fogbook, made, tree, "migrate", "--step", "contract")
        await stage.traffic.more(BETWEEN)
        notes.enough = len(notes.noted) + 3
        await writing
    await stage.in_thread(folded_anew, made, tree)
    await stage.in_thread(check_notes, made, notes)
    stage.counts["noted"] += len(notes.noted)


async def replaced(stage: Stage, name: str, tree: Path) -> None:
    """Ask a process to end; its place is taken by one of the other version."""
    process = stage.world.processes[name]
    process.tree = tree
    before = process.child
    assert process.send(signal.SIGTERM)
    await until(lambda: process.child is not before and process.runs)
    stage.counts[f"{name.rstrip('0123456789')} replaced"] += 1


def fogbook(made: World, tree: Path, *arguments: str) -> str:
    env = made.processes["api"].env | {
        "DATABASE_URL": made.servers.database_url,
        "FOGBOOK_MIGRATE_DATABASE_URL": made.servers.superuser_url,
    }
    argv = [sys.executable, "-m", "ops.cli", *arguments, "--home", str(made.home)]
    code, said = run(argv, timeout_s=WITHIN_S, env=env, cwd=tree)
    assert code == 0, said
    return said


def folded_anew(made: World, tree: Path) -> None:
    """Read models are those of the next version, and equal what its code makes of the log by itself."""
    end = time.monotonic() + WITHIN_S
    with made.connect() as connection:
        while connection.execute(
            "SELECT 1 FROM checkpoints WHERE live AND projection = 'ledger' AND code NOT LIKE '1000.%'"
        ).fetchone():
            assert time.monotonic() < end, "the next version's workers do not fold their read models anew"
            time.sleep(0.05)
    caught_up(made)
    assert "All is well" in fogbook(made, tree, "verify")


def check_notes(made: World, notes: Notes) -> None:
    """Each acknowledged command of the zone has its one effect, whichever version took it."""
    with made.connect() as connection:
        fates = dict(
            connection.execute("SELECT key, status FROM commands WHERE zone = %s", (ZONE,)).fetchall()
        )
        kinds = Counter(
            dict(
                connection.execute(
                    "SELECT type, count(*) FROM events WHERE zone = %s AND stream = %s GROUP BY type",
                    (ZONE, WALLET),
                ).fetchall()
            )
        )
        row = connection.execute(
            "SELECT b.posted, a.note FROM read.ledger_accounts a JOIN checkpoints c USING (zone, generation)"
            " JOIN read.ledger_balances b USING (zone, generation, account)"
            " WHERE c.projection = 'ledger' AND c.live AND a.zone = %s AND a.account = %s",
            (ZONE, WALLET),
        ).fetchone()
    accepted = sorted(key for key, status in fates.items() if status == 200 and key.endswith("-note"))
    assert set(notes.noted) <= set(accepted)
    assert kinds["WalletNoted"] == len(accepted)
    assert kinds["Credited"] == notes.minted
    assert row is not None
    assert row[0] == notes.minted
    assert f"{row[1]}-note" in accepted


def run_upgrade(turn: Turn) -> Counter[str]:
    with world(turn.folder / "fog home", apis=2, workers=2) as made:
        return perform(made, upgrade, turn.seed, turn.long, turn.folder / "acks", turn.ends_at)


SCENARIOS["upgrade"] = Scenario(
    "upgrade",
    (1,),
    ("api replaced", "worker replaced", "not known yet", "older than the log", "noted", "acknowledged"),
    (),
    run_upgrade,
)
