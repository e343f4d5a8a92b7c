"""The sequencer where traces are on: the same, with a span for each batch and each command in it that is traced.

A batch is many commands' work, so it is a trace of its own that names them; in a command's own trace stands how long it
was with the sequencer, and which batch had it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode

from commands._deciding import Command, Decided, Outcome
from commands._sequencer import Sequencer
from ops import traces
from ops.traces import current
from ops.traces._otel import Spans, Traced
from ops.traces._trail import Trail
from workers._broker import Waker, client_of


class TracedSequencer(Sequencer):
    def __init__(self, spans: Spans, trail: Trail, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._spans = spans
        self._trail = trail
        self._traced: dict[Command, Traced] = {}
        self._of_batch: Traced | None = None

    def submit(self, command: Command) -> asyncio.Future[Outcome]:
        outcome = super().submit(command)
        request = current.get()
        if isinstance(request, Traced):
            named = {"fogbook.zone": self.zone, "fogbook.command": command.name}
            self._traced[command] = self._spans.begin("sequence", request, attributes=named)
            outcome.add_done_callback(lambda done: self._answered(command, done))
        return outcome

    def _answered(self, command: Command, outcome: asyncio.Future[Outcome]) -> None:
        span = self._traced.pop(command).span
        if outcome.cancelled():
            span.set_attribute("error.type", "client-left")
        else:
            came = outcome.result()
            span.set_attributes({"fogbook.status": came.status, "fogbook.position": came.position})
            if came.status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end()

    async def _sequence(self, batch: list[Command]) -> None:
        traced = [span for command in batch if (span := self._traced.get(command)) is not None]
        if not traced:
            await super()._sequence(batch)
            return
        size = {"fogbook.zone": self.zone, "fogbook.commands": len(batch), "fogbook.traced": len(traced)}
        self._of_batch = self._spans.begin("batch", links=traced, attributes=size)
        for each in traced:
            each.span.add_link(self._of_batch.context)
        token = current.set(self._of_batch)
        try:
            await super()._sequence(batch)
        except BaseException as error:
            self._of_batch.span.set_attribute("error.type", type(error).__name__)
            self._of_batch.span.set_status(StatusCode.ERROR)
            raise
        finally:
            current.reset(token)
            self._of_batch.span.end()
            self._of_batch = None

    async def _append(self, decided: Decided) -> bool:
        if self._of_batch is None:
            return await super()._append(decided)
        stored = {"db.system.name": "postgresql", "fogbook.events": len(decided.batch.streams)}
        span = self._spans.begin("append", self._of_batch, kind=SpanKind.CLIENT, attributes=stored).span
        try:
            appended = await super()._append(decided)
            span.set_attribute("fogbook.appended", appended)
            return appended
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.end()

    def _commit(self, decided: Decided) -> None:
        if self._of_batch is not None:
            first, appended = decided.head.position, len(decided.batch.streams)
            self._of_batch.span.set_attributes(
                {"fogbook.after": first, "fogbook.position": first + appended, "fogbook.events": appended}
            )
            accepted = [
                (outcome.position, self._traced[command].traceparent)
                for command, outcome in zip(decided.commands, decided.outcomes, strict=True)
                if command in self._traced and outcome.status == 200 and outcome.position > first
            ]
            if accepted:
                self._trail.note(self.zone, accepted)
        super()._commit(decided)


class TracedWaker(Waker):
    """Wake-ups, each under the batch that it follows from."""

    def __init__(self, spans: Spans, redis_url: str) -> None:
        super().__init__(redis_url)
        self._spans = spans
        self._waking: dict[str, Traced] = {}

    def moved(self, zone: str, position: int) -> None:
        batch = current.get()
        if isinstance(batch, Traced) and zone not in self._waking:
            said = {"fogbook.zone": zone, "fogbook.position": position, "messaging.system": "dramatiq"}
            self._waking[zone] = self._spans.begin("wake up", batch, kind=SpanKind.PRODUCER, attributes=said)
        super().moved(zone, position)

    def _send(self, zones: set[str]) -> None:
        try:
            super()._send(zones)
        finally:
            for zone in zones:
                if (waking := self._waking.pop(zone, None)) is not None:
                    waking.span.end()


def traced_writing(redis_url: str) -> tuple[TracedWaker, Callable[..., Sequencer], Trail]:
    """What wakes followers, what makes sequencers, and the trail that both leave, to be closed."""
    spans = traces.active
    assert isinstance(spans, Spans), "traces are on"
    trail = Trail(client_of(redis_url))
    return TracedWaker(spans, redis_url), functools.partial(TracedSequencer, spans, trail), trail
