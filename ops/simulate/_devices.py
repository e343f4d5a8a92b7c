"""People's devices: lent at night while they charge, honest or not; and what the operator does about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from zlib import crc32

from ops.simulate._api import Wish
from ops.simulate._book_devices import Contribution, Session
from ops.simulate._view import FIRST_DAYS_STEP, Gadget, View, Village, chance_of, dice, wish

REGIONS = (
    ("eu-west", 0),
    ("us-east", -5),
    ("ap-east", 9),
    ("eu-east", 2),
    ("us-west", -8),
    ("ap-south", 5),
    ("sa-east", -3),
)
"""Names and hours before UTC."""
TYPES = {
    "phone": {"cpu_millicores": 6_000, "memory_mb": 6_000, "storage_mb": 60_000, "bandwidth_kbps": 40_000},
    "tablet": {"cpu_millicores": 4_000, "memory_mb": 4_000, "storage_mb": 60_000, "bandwidth_kbps": 30_000},
    "laptop": {"cpu_millicores": 8_000, "memory_mb": 16_000, "storage_mb": 400_000, "bandwidth_kbps": 80_000},
    "console": {
        "cpu_millicores": 8_000,
        "memory_mb": 12_000,
        "storage_mb": 500_000,
        "bandwidth_kbps": 90_000,
        "gpu": 1,
    },
}
OFTEN = ("phone", "phone", "phone", "phone", "tablet", "laptop", "laptop", "console")
CHARACTERS = (
    ("honest", "faulty", "honest", "cheat", "honest", "careless", "honest")
    + ("honest", "sleepy", "honest", "honest", "honest", "faulty", "honest", "honest", "careless")
    + ("honest",) * 16
)
"""One device after the other has these."""
BEDTIMES = (20, 21, 21, 22, 22, 22, 23, 23, 24, 25)
"""Local hours at which a device is put on its charger."""
RETIRES = 3_000
"""One of so many lent nights is a device's last."""
HOURS = (2, 3, 4, 4, 4, 5, 6)
EVENING, MORNING = 19 * 60, 9 * 60
"""Minutes of the day between which most owners allow it."""
HOUR, MILLISECOND = timedelta(hours=1), timedelta(milliseconds=1)
GOOD: dict[str, Any] = {
    "charging": True,
    "battery_percent": 80,
    "temperature_c": 31,
    "network": "wifi",
    "screen_on": False,
    "cpu_percent": 6,
    "ram_percent": 18,
    "idle_seconds": 2_400,
}
UNFIT: tuple[dict[str, Any], ...] = (
    {"charging": False},
    {"battery_percent": 12},
    {"temperature_c": 47},
    {"temperature_c": None},
    {"network": "lte"},
    {"screen_on": True},
    {"cpu_percent": 80},
    {"ram_percent": 55},
    {"idle_seconds": 60},
)
"""What keeps a session from starting."""
INTERRUPTED: tuple[dict[str, Any], ...] = (
    {"temperature_c": 58},
    {"temperature_c": 58},
    {"temperature_c": 71},
    {"charging": False},
    {"network": "lte"},
)
"""What throttles or ends one."""
CHORES = (0, 6, 8, 17)
"""The hours at which somebody's turn comes."""
MOST_TASKS = 3
CHECKERS = 3


def gadget(run: str, owner: str, number: int, place: int, regions: int) -> Gadget:
    """A person's device; `number` is its own, `place` its place in the village."""
    rng = chance_of(run, owner, number)
    kind = rng.choice(OFTEN)
    region, offset = REGIONS[(crc32(owner.encode()) + (rng.randrange(8) == 0)) % regions]
    character = CHARACTERS[place % len(CHARACTERS)]
    return Gadget(f"{owner}-{kind}-{number}", owner, kind, region, offset, TYPES[kind], character)


def digest(task: str, right: bool = True) -> str:
    """What a task's result is, or some other one."""
    return f"{'r' if right else 'x'}{crc32(task.encode()):08x}"


class Household:
    """Somebody's devices."""

    def __init__(self, owner: str, gadgets: Sequence[Gadget]) -> None:
        self.owner = owner
        self.gadgets = gadgets
        self._nights: dict[str, tuple[int, tuple[int, int, bool] | None]] = {}

    def plan(self, view: View) -> list[Wish]:
        wishes: list[Wish] = []
        devices = view.book.harvest.devices
        for each in self.gadgets:
            device = devices.get(each.id)
            if device is None:
                wishes += _introduce(view, each)
            elif device.session:
                wishes += self._in_session(
                    view, each, view.book.harvest.sessions[device.session], device.session
                )
            elif device.enrolled and device.status != "retired":
                night = self._night(view.village, each, view.day)
                if night is not None and night[0] == view.step:
                    wishes += _begin(view, each)
                    if night[2]:
                        wishes.append(
                            wish("devices/retire-device", device=each.id, reason="Its screen broke.")
                        )
        if view.hour in CHORES:
            wishes += self._chores(view)
        if view.book.harvest.rejected[self.owner]:
            wishes += self._object(view)
        return wishes

    def _night(self, village: Village, gadget: Gadget, day: int) -> tuple[int, int, bool] | None:
        """At which step of a day it is lent, for how many hours, and whether for the last time; None if it is not."""
        kept = self._nights.get(gadget.id)
        if kept is None or kept[0] != day:
            rng = chance_of(village.run, gadget.id, day)
            night = None
            if rng.randrange(100) < village.lent:
                begins = day * 24 + (rng.choice(BEDTIMES) - gadget.utc_offset) % 24
                night = begins, rng.choice(HOURS), rng.randrange(RETIRES) == 0
            kept = self._nights[gadget.id] = (day, night)
        return kept[1]

    def _in_session(self, view: View, gadget: Gadget, session: Session, id: str) -> list[Wish]:
        age = view.since(session.started_at) // HOUR
        if gadget.character == "sleepy" and dice(id) < 60:
            return []
        if session.status == "paused":
            return [_report(view, gadget), wish("harvest/resume-harvest-session", session=id)]
        night = self._night(view.village, gadget, (view.step - age) // 24)
        if night is None or age >= night[1]:
            return [*_contribute(view, gadget, session, id), wish("harvest/stop-harvest-session", session=id)]
        if age and (age % 2 == 0 or view.hour == 0):
            return _contribute(view, gadget, session, id)
        if gadget.character == "careless" and view.chance(40):
            return [_report(view, gadget, view.rng.choice(INTERRUPTED))]
        if dice(id, age) < 6:
            return [wish("harvest/pause-harvest-session", session=id)]
        return []

    def _chores(self, view: View) -> list[Wish]:
        """What happens once a day in the village, to somebody's devices."""
        if view.step < FIRST_DAYS_STEP:
            return []
        known = view.book.harvest.devices
        mine = [each for each in self.gadgets if each.id in known and known[each.id].status != "retired"]
        if not mine:
            return []
        one = mine[view.day % len(mine)]
        wishes = []
        if view.turn("ready", 0) and not known[one.id].session:
            wishes.append(_report(view, one))
        if view.turn("retire", 6) and view.day % 10 == 1:
            wishes.append(wish("devices/retire-device", device=one.id, reason="It is too old."))
        if view.turn("offline", 8):
            wishes += [heartbeat(view, one.id), wish("devices/mark-offline", device=one.id)]
        if view.turn("policy", 8):
            policy = _policy(one) | {"minimum_battery_percent": 20 + view.day % 5 * 10}
            wishes.append(wish("harvest/update-harvest-policy", device=one.id, policy=policy))
        if view.turn("upgrade", 17):
            more = {**one.capabilities, "storage_mb": one.capabilities["storage_mb"] + 1_000 * (view.day + 1)}
            wishes.append(wish("devices/update-capabilities", device=one.id, capabilities=more))
        if view.turn("move", 17):
            place = wish(
                "devices/relocate-device", device=one.id, region=view.rng.choice(REGIONS)[0], asn=64_512
            )
            wishes.append(place)
        if view.turn("rest", 17):
            reason = "It is needed elsewhere."
            wishes += [
                wish("devices/suspend-device", device=one.id, reason=reason),
                wish("devices/resume-device", device=one.id),
            ]
        return wishes

    def _object(self, view: View) -> list[Wish]:
        """To rejections, when they are fresh."""
        wishes = []
        for each in reversed(view.book.harvest.rejected[self.owner].values()):
            if view.since(each.at) > 12 * HOUR:
                break
            if not each.disputed and dice(each.session, each.seq) < 40:
                reason = "Our result was right."
                body = {"session": each.session, "seq": each.seq, "reason": reason}
                wishes.append(wish("harvest/dispute-contribution", **body))
        return wishes


def _introduce(view: View, gadget: Gadget) -> list[Wish]:
    if view.step == 0:
        return []
    has = dict(gadget.capabilities)
    asn = 64_496 + crc32(gadget.region.encode()) % 16
    registration = {"type": gadget.type, "capabilities": has, "region": gadget.region, "asn": asn}
    return [
        wish("devices/register-device", device=gadget.id, **registration),
        wish("harvest/enrol-harvester", device=gadget.id, capabilities=has, policy=_policy(gadget)),
    ]


def _policy(gadget: Gadget) -> dict[str, int]:
    policy = {"utc_offset_minutes": gadget.utc_offset * 60}
    return policy | ({"from_minute": EVENING, "until_minute": MORNING} if dice(gadget.id) < 60 else {})


def heartbeat(view: View, device: str) -> Wish:
    return wish("devices/heartbeat", device=device, seq=int(view.at.timestamp()))


def _report(view: View, gadget: Gadget, but: dict[str, Any] | None = None) -> Wish:
    readings = GOOD | {"battery_percent": 40 + dice(gadget.id, view.day) // 2} | (but or {})
    seq = int(view.at.timestamp())
    return wish("harvest/report-device-state", device=gadget.id, seq=seq, **readings)


def _begin(view: View, gadget: Gadget) -> list[Wish]:
    unfit = gadget.character == "careless" and view.chance(40)
    return [
        heartbeat(view, gadget.id),
        _report(view, gadget, view.rng.choice(UNFIT) if unfit else None),
        wish("harvest/start-harvest-session", session=view.id("s", gadget.id), device=gadget.id),
    ]


def _contribute(view: View, gadget: Gadget, session: Session, id: str) -> list[Wish]:
    """What it did since it last said so. A cheat says that it did too much, or many tasks of nothing."""
    elapsed_ms = view.since(session.counted_until) // MILLISECOND
    if not elapsed_ms:
        return []
    has, part = gadget.capabilities, view.rng.randrange(8, 40)
    seq, tasks = session.seq + 1, view.rng.randint(1, MOST_TASKS)
    cpu_ms = has["cpu_millicores"] * elapsed_ms // 1_000 * part // 100
    if gadget.character == "cheat":
        if dice(id, seq) < 40:
            cpu_ms *= 20
        else:
            cpu_ms, tasks = 5_000, 20
    elif dice(id, seq, "tasks") < 12:
        tasks = 0
    names = [f"{id}.{seq}.{number}" for number in range(tasks)]
    wrong = gadget.character == "faulty"
    work = {
        "cpu_ms": cpu_ms,
        "memory_mb_ms": has["memory_mb"] * elapsed_ms * part // 100,
        "bandwidth_bytes": has["bandwidth_kbps"] * elapsed_ms // 8_000 * part,
        "gpu_ms": has.get("gpu", 0) * elapsed_ms * part // 200,
    }
    results = [
        {"task": task, "result_digest": digest(task, not (wrong and dice(task) < 60))} for task in names
    ]
    return [wish("harvest/record-contribution", session=id, seq=seq, tasks=results, **work)]


# The operator


def operate(view: View) -> list[Wish]:
    """Collects others' results until a quorum decides, hears disputes, and suspends what is wrong too often."""
    wishes = _validate(view)
    if view.hour % 6 == 4:
        wishes += [_decide(view, each) for each in view.book.harvest.disputed.values()]
    if view.hour == 12:
        wishes += _inspect(view)
    return wishes


def _validate(view: View) -> list[Wish]:
    harvest, wishes = view.book.harvest, []
    pending = [each for each in harvest.pending.values() if _is_its_hour(view, each)]
    serving = [id for id, each in harvest.devices.items() if each.status == "active"] if pending else []
    for each in pending:
        found = _results(view, each, serving) if each.tasks else _attestations(view, each)
        if found:
            body = {"session": each.session, "seq": each.seq}
            wishes.append(wish("harvest/validate-contribution", **body, **found))
    return wishes


def _is_its_hour(view: View, contribution: Contribution) -> bool:
    """At once, and then more and more rarely."""
    age = view.since(contribution.at) // HOUR
    return age < 5 or age % 24 == 0


def _results(view: View, contribution: Contribution, serving: Sequence[str]) -> dict[str, Any]:
    """What devices of others found for the same tasks."""
    harvest, gadgets = view.book.harvest, view.village.gadgets
    owners = {contribution.owner}
    checkers: list[str] = []
    for id in view.rng.sample(serving, min(len(serving), 4 * CHECKERS)):
        owner = harvest.devices[id].owner
        if owner not in owners and len(checkers) < CHECKERS:
            owners.add(owner)
            checkers.append(id)
    results = []
    for id in checkers:
        faulty = id in gadgets and gadgets[id].character == "faulty"
        for task in contribution.tasks:
            found = digest(task, not (faulty and view.chance(25)))
            results.append({"task": task, "device": id, "result_digest": found})
    return {"results": results} if results else {}


def _attestations(view: View, contribution: Contribution) -> dict[str, Any]:
    pools = view.pools()
    attesting = view.rng.sample(pools, min(len(pools), CHECKERS))
    given = [{"validator": id, "confirms": view.chance(92)} for id in attesting]
    return {"attestations": given} if given else {}


def _decide(view: View, contribution: Contribution) -> Wish:
    verdict = view.rng.choice(("valid", "valid", "failure", "fraud"))
    reason = "All results were computed again."
    body = {"session": contribution.session, "seq": contribution.seq, "verdict": verdict, "reason": reason}
    return wish("harvest/decide-contribution", **body)


def _inspect(view: View) -> list[Wish]:
    """Yesterday's suspensions end; who was outvoted too often is suspended, and so is one by chance."""
    wishes, devices = [], view.book.harvest.devices
    for id, each in devices.items():
        if "operator" in each.suspended_by:
            wishes.append(wish("devices/resume-device", device=id))
        elif each.status == "active" and each.rejected >= 3:
            wishes.append(wish("devices/suspend-device", device=id, reason="It is wrong too often."))
    if view.day % 3 == 0 and view.step > FIRST_DAYS_STEP and view.village.gadgets:
        checked = view.rng.choice(list(view.village.gadgets))
        wishes.append(wish("devices/suspend-device", device=checked, reason="It is inspected."))
    return wishes
