"""The sequencer: takes what is queued as one batch, decides on exact state, appends it all at once.

It keeps folded streams in memory, exact as of the log position `head`. Every batch is appended only if the log
still stands there; if another process was faster, the batch is decided again under the head's lock. So all
decisions, refusals included, form one strictly serializable history, and a caller's outcome is never a guess.

While a batch is on its way to the disk, the next one is decided on the states that there will be. It is appended, and
answered, only if these have come about: otherwise it is decided again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from commands._codec import UnknownEventType
from commands._deciding import Command, Decided, Foreseen, Outcome, failed, remembered, unavailable
from commands._log import ClockAhead, Entry, Head, KeyUsed, Log, LogUnavailable, evolve_entries
from domain._kernel import Stream

S = TypeVar("S")

MOST_QUEUED = 4_096
MOST_A_BATCH = 512
MOST_LOAD_ROUNDS = 32
MOST_TAIL = 20_000
"""A log that moved on by more than this is not folded in; the states are loaded anew instead."""
MOST_UNDER_LOCK = 500
"""A process that is behind by more than this catches up before it takes the lock, so that others go on meanwhile."""
MOST_CHASES = 3
MOST_STREAMS = 50_000
DEADLINE_S = 5.0
"""A command that is not decided by then is answered once what is under way is done, or has missed its deadline."""
LATE = 0.5
"""Where the first in the queue has waited for so much of its time, whoever joins it now would not be decided in his."""
LOOK_EVERY_S = 0.05
"""How exactly that is kept while the log is away."""

log = structlog.get_logger("fogbook.sequencer")


class Overloaded(Exception):
    """The queue is full; nothing was decided."""


class LogWentBack(Exception):
    """The log's head is below what this process has seen (failover, restore): it must not go on."""


class Sequencer:
    """One zone's single writer in this process. `submit` from the event loop it was started in."""

    def __init__(
        self,
        zone: str,
        log: Log,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        moved: Callable[[str, int], None] = lambda zone, position: None,
        failed: Callable[[BaseException], None] = lambda error: None,
        most_streams: int = MOST_STREAMS,
    ) -> None:
        self.zone = zone
        self._log = log
        self._clock = clock
        self._moved = moved
        self._failed = failed
        self._most_streams = most_streams
        self._states: OrderedDict[str, Entry] = OrderedDict()
        self._command_streams: list[str] = []
        self._queue: deque[Command] = deque()
        self._batch: list[Command] = []
        self._appending: Decided | None = None
        self._next: list[Command] = []
        """Taken already, and decided as of where the log will stand."""
        self._foreseen: Decided | None = None
        self._back_soon = 0
        """Whom the last batch has answered: they are likely to send again."""
        self._enough = 0
        """So many in the queue are a batch: those who were about to come are there, and wait for no third one."""
        self._alone = True
        """Whether nobody else appended lately. What is foreseen would seldom come about otherwise."""
        self._stopping = False
        self._waiting = asyncio.Event()
        self._head: Head | None = None
        self._task: asyncio.Task[None] | None = None
        self.batches = 0
        self.conflicts = 0
        """Batches that were decided again under the lock, since another process had appended."""
        self.foreseen = 0
        """Batches that were decided while the one before was on its way, and came about so."""

    # Life

    async def start(self, seen: Head | None = None) -> bool:
        """Connect and begin; False when there is no such zone. Raises LogUnavailable, and LogWentBack when the log
        stands below what this process has `seen`."""
        try:
            await self._log.connect()
            self._head = await self._log.head(self.zone)
        except BaseException:
            await self._log.close()
            raise
        if self._head is None:
            await self._log.close()
            return False
        if seen is not None and _is_below(self._head, seen):
            await self._log.close()
            raise LogWentBack
        self._task = asyncio.create_task(self._run(), name=f"sequencer {self.zone}")
        return True

    async def state(self, stream: Stream[S], id: str) -> S:
        """A stream's state at the head; only while no command was submitted yet."""
        name = stream.name(id)
        loaded = await self._log.load(self.zone, {name: stream}, self.head.position)
        return loaded[name].state if loaded else stream.initial

    async def stop(self) -> None:
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._answer_all()  # A loop that had not begun yet did not.
        await self._log.close()

    @property
    def head(self) -> Head:
        assert self._head is not None, "started"
        return self._head

    @property
    def works(self) -> bool:
        """Whether somebody takes what is submitted."""
        return self._task is not None and not self._task.done()

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def streams_in_memory(self) -> int:
        return len(self._states)

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        """Queue a command; the future gets its outcome. Raises Overloaded when the queue is full or late, and
        LogUnavailable when the sequencer has ended."""
        now = time.monotonic()
        if len(self._queue) >= MOST_QUEUED or self._is_late(now):
            raise Overloaded
        if not self.works:
            raise LogUnavailable("the sequencer has ended")
        loop = asyncio.get_running_loop()
        command.deadline = now + DEADLINE_S
        command.outcome = loop.create_future()
        self._queue.append(command)
        self._waiting.set()
        if self._appending is not None and len(self._queue) == self._enough:
            loop.call_soon(self._look_ahead)  # What can be read from the sockets now joins it.
        return command.outcome

    def _is_late(self, now: float) -> bool:
        return bool(self._queue) and self._queue[0].deadline - now < (1 - LATE) * DEADLINE_S

    # The loop

    async def _run(self) -> None:
        ended: BaseException = RuntimeError("the sequencer's loop ended")
        try:
            await self._loop()
        except BaseException as error:
            ended = error
            raise
        finally:
            self._answer_all()
            if not self._stopping:
                log.critical("sequencer_failed", zone=self.zone, seen=self.head.position, exc_info=ended)
                self._failed(ended)

    def _answer_all(self) -> None:
        """Whatever ended the loop, nobody is left without an answer."""
        for command in (*self._batch, *self._next, *self._queue):
            self._answer(command, unavailable("the server is stopping"))
        self._queue.clear()

    async def _loop(self) -> None:
        while True:
            self._batch, self._next = self._next, []
            if not self._batch:
                await self._waiting.wait()
                await asyncio.sleep(0)  # What can be read from the sockets now joins this batch.
                self._batch = self._take()
            if not self._batch:
                self._waiting.clear()
                continue
            try:
                await self._process(self._batch)
            except LogUnavailable as error:
                log.warning("log_unavailable", zone=self.zone, error=str(error), commands=len(self._batch))
                await self._reconnect()

    def _take(self) -> list[Command]:
        """The next batch: one key at most once (its repetition waits for the answer), one named time."""
        batch: list[Command] = []
        keys: set[tuple[str, str]] = set()
        while self._queue and len(batch) < MOST_A_BATCH:
            command = self._queue[0]
            key = (command.principal, command.key)
            if key in keys or (batch and command.at != batch[0].at):
                break
            if not command.dry_run:
                keys.add(key)
            self._queue.popleft()
            assert command.outcome is not None
            if not command.outcome.cancelled():
                batch.append(command)
        return batch

    async def _process(self, batch: list[Command]) -> None:
        """Give every command of the batch its outcome. One that cannot be stored fails alone."""
        try:
            await self._sequence(batch)
        except (LogUnavailable, LogWentBack, asyncio.CancelledError):
            raise
        except ClockAhead as error:
            log.error("clock_ahead", zone=self.zone, error=str(error))
            for command in batch:
                self._answer(command, unavailable("the server's clock is ahead of the database's"))
        except Exception as error:
            if len(batch) == 1 and isinstance(error, UnknownEventType):
                log.error("older_than_log", zone=self.zone, command=batch[0].name, type=str(error))
                self._answer(batch[0], unavailable("this process is of an older version than its log"))
                return
            if len(batch) == 1:
                log.error("command_failed", zone=self.zone, command=batch[0].name, exc_info=error)
                self._answer(batch[0], failed())
                return
            middle = len(batch) // 2
            await self._process(batch[:middle])
            await self._process(batch[middle:])

    async def _sequence(self, batch: list[Command]) -> None:
        self.batches += 1
        self._forget()
        for _ in range(MOST_LOAD_ROUNDS):
            if not batch:
                return
            try:
                decided = await self._decide_all(batch, self.head)
                self._alone = decided is not None and await self._append(decided)
                if decided is None or not self._alone:
                    decided = await self._sequence_under_lock(batch)
                break
            except KeyUsed:
                batch = await self._answer_known(batch)
        else:
            raise RuntimeError("keys of a batch stay in conflict")
        await self._recall(decided)
        self._commit(decided)

    async def _sequence_under_lock(self, batch: list[Command]) -> Decided:
        self.conflicts += 1
        for chases in range(MOST_CHASES + 1):
            async with self._log.locked(self.zone) as head:
                if head.position - self.head.position <= MOST_UNDER_LOCK or chases == MOST_CHASES:
                    await self._catch_up(head)
                    decided = await self._decide_all(batch, head)
                    assert decided is not None, "nobody else writes while the head is locked"
                    appended = await self._append(decided)
                    assert appended, "nobody else writes while the head is locked"
                    return decided
            await self._catch_up(head)
        raise AssertionError("the last round decides")

    async def _append(self, decided: Decided) -> bool:
        if self._alone:
            self._appending = decided
            self._enough = len(self._queue) + self._back_soon
        try:
            return await self._log.append(self.zone, decided.head, decided.at, decided.batch)
        finally:
            self._appending = None

    def _look_ahead(self) -> None:
        """Decide the next batch on what there will be once that is stored which is being appended."""
        before = self._appending
        if before is None or self._next:
            return
        self._next = self._take()
        head, known = before.after, Foreseen(before.states.changed, self._states)
        if self._next:
            self._foreseen = Decided(self.zone, known, head, self._time(self._next, head), self._next)

    async def _recall(self, decided: Decided) -> None:
        """A refusal that is not recorded met no key on its way; but its key may have an answer from before."""
        asked = [decided.commands[i] for i in decided.unrecorded]
        if not asked:
            return
        known = await self._log.fates(self.zone, [(c.principal, c.key) for c in asked])
        for i in decided.unrecorded:
            fate = known.get((decided.commands[i].principal, decided.commands[i].key))
            if fate is not None:
                decided.outcomes[i] = remembered(decided.commands[i], fate)

    def _commit(self, decided: Decided) -> None:
        """The batch is durable: adopt its states, answer its commands, wake the followers."""
        self._head = decided.after
        self._remember(decided.states.changed)
        self._back_soon = len(decided.commands)
        for command, outcome in zip(decided.commands, decided.outcomes, strict=True):
            self._answer(command, outcome)
        if decided.batch.streams:
            self._moved(self.zone, self.head.position)

    async def _answer_known(self, batch: list[Command]) -> list[Command]:
        """Some keys were used before: answer those from what is stored; returns the others."""
        known = await self._log.fates(self.zone, [(c.principal, c.key) for c in batch if not c.dry_run])
        rest = []
        for command in batch:
            fate = None if command.dry_run else known.get((command.principal, command.key))
            if fate is None:
                rest.append(command)
            else:
                self._answer(command, remembered(command, fate))
        if len(rest) == len(batch):
            raise RuntimeError("the log refused a key that it does not know")
        return rest

    def _answer(self, command: Command, outcome: Outcome) -> None:
        if command.outcome is not None and not command.outcome.done():
            command.outcome.set_result(outcome)

    # Deciding

    async def _decide_all(self, batch: Sequence[Command], head: Head) -> Decided | None:
        """Decide the whole batch as of `head`; None when this process turns out to be behind the log.

        A decision that asks for a stream that is not in memory makes the whole batch run again once it is
        loaded: decisions are pure, and the order of the batch is the order of the log.
        """
        self._drop_command_streams()
        decided, self._foreseen = self._foreseen, None
        # Each head is an object of its own: where the log moved otherwise than was foreseen, this is another one.
        if decided is not None and decided.commands is batch and decided.head is head:
            self.foreseen += 1
        else:
            decided = Decided(self.zone, self._states, head, self._time(batch, head), batch)
        for _ in range(MOST_LOAD_ROUNDS):
            if not decided.missing:
                return decided
            loaded = await self._log.load(self.zone, decided.missing, head.position)
            if loaded is None:
                return None
            self._remember(loaded)
            decided = Decided(self.zone, self._states, head, decided.at, batch)
        raise RuntimeError("a decision reads too many streams one after another")

    def _time(self, batch: Sequence[Command], head: Head) -> datetime:
        if head.clock == "manual":
            return max(batch[0].at or head.at, head.at)
        now = self._clock()
        if now < head.at:
            log.warning("clock_behind", zone=self.zone, behind_s=(head.at - now).total_seconds())
        return max(now, head.at)

    def _remember(self, entries: dict[str, Entry]) -> None:
        for name, entry in entries.items():
            self._states[name] = entry
            self._states.move_to_end(name)
            if entry.stream.of_command:
                self._command_streams.append(name)

    def _drop_command_streams(self) -> None:
        """A stream that begins with a command's events does not hear of them by its own name: load it anew."""
        for name in self._command_streams:
            self._states.pop(name, None)
        self._command_streams.clear()

    def _forget(self) -> None:
        while len(self._states) > self._most_streams:
            self._states.popitem(last=False)

    # Catching up

    async def _catch_up(self, head: Head) -> None:
        """Fold in what others appended since, so that the states are exact as of `head`."""
        seen = self.head
        if _is_below(head, seen):
            raise LogWentBack
        if head.position - seen.position > MOST_TAIL:
            self._states.clear()
        else:
            tail = [event async for event in self._log.tail(self.zone, seen.position, head.position)]
            evolve_entries(self._states, tail)
        self._head = head

    async def _reconnect(self) -> None:
        """Find the log again and put the batch back: its keys tell whether its append was done after all.

        Meanwhile whoever has waited for long enough is told so, however long a connection takes.
        """
        taken = (*self._batch, *self._next)
        waiting = [c for c in taken if c.outcome is not None and not c.outcome.done()]
        self._queue.extendleft(reversed(waiting))
        self._batch, self._next = [], []
        finding = asyncio.create_task(self._find_log(), name=f"finding the log {self.zone}")
        try:
            while not finding.done():
                self._expire()
                await asyncio.wait((finding,), timeout=LOOK_EVERY_S)
            await finding
        finally:
            finding.cancel()
            await asyncio.gather(finding, return_exceptions=True)

    async def _find_log(self) -> None:
        pause_s = 0.02
        while True:
            try:
                await self._log.connect()
                head = await self._log.head(self.zone)
                if head is None:
                    raise LogWentBack
                await self._catch_up(head)
                return
            except LogUnavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.5)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0].deadline < now:
            self._answer(self._queue.popleft(), unavailable("the log does not answer"))


def _is_below(head: Head, seen: Head) -> bool:
    return (head.position, head.number) < (seen.position, seen.number)
