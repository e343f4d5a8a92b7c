"""Devices and harvest in the simulation's own model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ops.client import Event
from ops.simulate._dues import Dues

SILENT_AFTER = timedelta(minutes=10)
SESSION_SILENT_AFTER = timedelta(hours=3)

Data = dict[str, Any]
Must = Callable[[bool, str], None]


@dataclass(slots=True)
class Device:
    owner: str
    region: str
    cpu_millicores: int
    status: str = "active"
    """active, suspended or retired."""
    suspended_by: set[str] = field(default_factory=set)
    online: bool = False
    enrolled: bool = False
    session: str = ""
    """The open one."""
    rejected: int = 0
    """Contributions, since an operator last had a look."""


@dataclass(slots=True)
class Session:
    device: str
    owner: str
    started_at: datetime
    ends_at: datetime
    heard_at: datetime
    counted_until: datetime
    status: str = "running"
    """running, paused or stopped."""
    seq: int = 0

    @property
    def over_at(self) -> datetime:
        return min(self.ends_at, self.heard_at + SESSION_SILENT_AFTER)


@dataclass(slots=True)
class Contribution:
    session: str
    seq: int
    device: str
    owner: str
    tasks: dict[str, str]
    """Task -> the digest that it claims."""
    at: datetime
    status: str = "pending"
    """pending, validated, rejected or paid."""
    kind: str = ""
    reward: int = 0
    votes: int = 0
    disputed: bool = False
    final: bool = False


class Harvest:
    """Devices, their sessions and contributions, and what evidence was counted of whom."""

    def __init__(self, dues: Dues, must: Must) -> None:
        self._dues, self._must = dues, must
        self.devices: dict[str, Device] = {}
        self.sessions: dict[str, Session] = {}
        """Those that are open, or may still record their last work."""
        self.contributions: dict[str, Contribution] = {}
        """All of them, by `session:seq`; those that wait for something are also among the next three."""
        self.pending: dict[str, Contribution] = {}
        self.disputed: dict[str, Contribution] = {}
        self.rejected: defaultdict[str, dict[str, Contribution]] = defaultdict(dict)
        """By owner, who may dispute them."""
        self.evidence: set[str] = set()
        self.earned: defaultdict[str, int] = defaultdict(int)
        """By owner: rewards paid."""
        self.ended: Counter[str] = Counter()
        """Sessions by the reason for which they stopped."""
        self.folds = {
            "device": self._device,
            "harvester": self._harvester,
            "harvest-session": self._session,
            "contribution": self._contribution,
            "evidence": self._evidence,
            "reputation": self._reputation,
        }

    def _device(self, kind: str, id: str, data: Data, event: Event) -> None:
        if kind == "DeviceRegistered":
            has = data["capabilities"]["cpu_millicores"]
            self.devices[id] = Device(data["owner"], data["region"], has)
            return
        device = self.devices[id]
        match kind:
            case "DeviceCameOnline" | "HeartbeatKept":
                device.online = True
                self._dues.expect(f"silence of {id}", datetime.fromisoformat(data["at"]) + SILENT_AFTER)
            case "DeviceWentOffline":
                device.online = False
                self._dues.settle(f"silence of {id}")
            case "DeviceRetired":
                device.status, device.online = "retired", False
                self._dues.settle(f"silence of {id}")
            case "DeviceSuspended":
                device.suspended_by.add(data["by"])
                device.rejected = 0
                device.status = "suspended"
            case "DeviceResumed":
                device.suspended_by.discard(data["by"])
                device.status = "suspended" if device.suspended_by else "active"
            case "DeviceRelocated":
                device.region = data["region"]
            case "CapabilitiesUpdated":
                device.cpu_millicores = data["capabilities"]["cpu_millicores"]

    def _harvester(self, kind: str, id: str, data: Data, event: Event) -> None:
        device = self.devices[id]
        match kind:
            case "HarvesterEnrolled":
                device.enrolled = True
            case "HarvestBegan":
                self._must(not device.session, f"{id} has two open sessions, one of them {data['session']}.")
                device.session = data["session"]
            case "HarvestEnded":
                self._must(device.session == data["session"], f"{id} ends a session that is not open.")
                device.session = ""
            case "DeviceStateReported" if data["session"]:
                self._hear(data["session"], data["at"])
            case "WorkRejected":
                device.rejected += 1

    def _hear(self, id: str, at: str) -> None:
        session = self.sessions[id]
        session.heard_at = max(session.heard_at, datetime.fromisoformat(at))
        if session.status != "stopped":
            self._dues.expect(f"end of {id}", session.over_at)

    def _session(self, kind: str, id: str, data: Data, event: Event) -> None:
        match kind:
            case "HarvestSessionStarted":
                at, ends_at = datetime.fromisoformat(data["at"]), datetime.fromisoformat(data["ends_at"])
                self.sessions[id] = Session(data["device"], data["owner"], at, ends_at, at, at)
                self._dues.expect(f"end of {id}", self.sessions[id].over_at)
            case "HarvestSessionPaused" | "HarvestSessionResumed":
                self.sessions[id].status = "paused" if kind == "HarvestSessionPaused" else "running"
                self._hear(id, data["at"])
            case "ContributionCounted":
                session = self.sessions[id]
                self._must(data["seq"] > session.seq, f"Contributions of {id} are out of order.")
                session.seq, session.counted_until = data["seq"], datetime.fromisoformat(data["until"])
                self._hear(id, data["until"])
            case "HarvestSessionStopped":
                self.sessions[id].status = "stopped"
                self.ended[data["reason"]] += 1
                self._dues.settle(f"end of {id}")

    def _contribution(self, kind: str, id: str, data: Data, event: Event) -> None:
        if kind == "ContributionRecorded":
            session, _, seq = id.partition(":")
            tasks = {each["task"]: each["result_digest"] for each in data["tasks"]}
            at = datetime.fromisoformat(data["at"])
            known = Contribution(session, int(seq), data["device"], data["owner"], tasks, at)
            self.contributions[id] = self.pending[id] = known
            return
        known = self.contributions[id]
        match kind:
            case "ResultsReceived":
                known.votes += len(data["votes"])
            case "ContributionDisputed":
                known.disputed = True
                self.pending.pop(id, None)
                self.disputed[id] = known
                self._dues.settle(f"reward of {id}")
            case "ContributionDecisionUpheld":
                self._decided(id, known.status, known.kind, event)
            case "ContributionValidated":
                known.reward = int(data["reward"])
                self._decided(id, "validated", "", event)
                self._expect_evidence(event)
            case "ContributionRejected":
                self._decided(id, "rejected", data["kind"], event)
                if data["kind"]:
                    self._expect_evidence(event)
            case "RewardPaid":
                self._must(known.status == "validated", f"{id} is paid while it is {known.status}.")
                self._must(known.reward == int(data["amount"]), f"{id} is not paid what it earned.")
                known.status = "paid"
                self.earned[data["owner"]] += int(data["amount"])
                self._dues.settle(f"reward of {id}")

    def _decided(self, id: str, status: str, kind: str, event: Event) -> None:
        known = self.contributions[id]
        self._must(known.status != "paid", f"{id} was paid before it was decided.")
        known.final = known.final or known.disputed
        known.status, known.kind, known.disputed = status, kind, False
        for kept in (self.pending, self.disputed, self.rejected[known.owner]):
            kept.pop(id, None)
        if status == "validated":
            self._dues.expect(f"reward of {id}", event.recorded_at)
        elif not known.final:
            self.rejected[known.owner][id] = known

    def _expect_evidence(self, event: Event) -> None:
        at = event.recorded_at
        self._dues.expect(f"evidence harvest.{event.position}", at)

    def _evidence(self, kind: str, id: str, data: Data, event: Event) -> None:
        self._must(id not in self.evidence, f"Evidence {id} was counted twice.")
        self.evidence.add(id)

    def _reputation(self, kind: str, id: str, data: Data, event: Event) -> None:
        self._dues.settle(f"evidence {data['evidence_id']}")
