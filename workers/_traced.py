"""The follower where traces are on: the same, with a span for each batch that holds events of traced commands.

Such a batch is a trace of its own that names the commands; in each command's own trace stands the batch, too, so that
one sees there when the read models had it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import SpanKind

from ops.traces._otel import MOST_LINKS, Spans
from ops.traces._trail import Trail
from projections._engine import Record
from projections._follower import Fed, Follower
from workers._broker import client_of


class TracedFollower(Follower):
    def __init__(self, spans: Spans, trail: Trail, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._spans = spans
        self._trail = trail
        self._begun_ns = 0

    def _lock(self, group: Sequence[Fed]) -> list[Fed]:
        self._begun_ns = time.time_ns()  # Each batch begins so.
        return super()._lock(group)

    def _moved(self, group: Sequence[Fed], records: Sequence[Record]) -> None:
        super()._moved(group, records)
        if records:
            self._folded(group, records[0].position - 1, records[-1].position, len(records))

    def _folded(self, group: Sequence[Fed], after: int, upto: int, events: int) -> None:
        begun_ns, ended_ns = self._begun_ns, time.time_ns()
        attributes = {
            "fogbook.zone": self._zone,
            "fogbook.projections": " ".join(fed.projection.name for fed in group),
            "fogbook.after": after,
            "fogbook.position": upto,
            "fogbook.events": events,
        }

        def found(commands: list[str]) -> None:
            batch = self._spans.begin(
                "project batch",
                kind=SpanKind.CONSUMER,
                links=commands,
                attributes=attributes,
                begun_ns=begun_ns,
            )
            for command in commands:
                own = self._spans.begin("project", command, attributes=attributes, begun_ns=begun_ns)
                own.span.add_link(batch.context)
                own.span.end(ended_ns)
            batch.span.end(ended_ns)

        self._trail.find(self._zone, after, upto, MOST_LINKS, found)


@contextmanager
def traced_followers(spans: Spans, redis_url: str) -> Iterator[Callable[..., Follower]]:
    """What makes followers."""
    trail = Trail(client_of(redis_url))
    try:
        yield functools.partial(TracedFollower, spans, trail)
    finally:
        trail.close()
