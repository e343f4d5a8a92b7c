"""Spans as OpenTelemetry's SDK makes them and sends them, in batches, from a thread of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import Request
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

SEND_EVERY_MS = 1_000
SEND_WITHIN_S = 5
MOST_LINKS = 128
"""A batch of more commands names the first ones."""

Attributes = Mapping[str, Any]

_propagator = TraceContextTextMapPropagator()


class Spans:
    """Makes the spans of this process. At most so many requests a second are traced, whoever asks for it."""

    def __init__(self, url: str, most_a_second: int, service: str) -> None:
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME") or service,
                "service.version": version("fogbook"),
                "process.pid": os.getpid(),
            }
        )
        exporter = OTLPSpanExporter(url.rstrip("/") + "/v1/traces", timeout=SEND_WITHIN_S)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
        self._tracer = self._provider.get_tracer("fogbook")
        self._most_a_second = most_a_second
        self._second, self._begun = 0, 0

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()

    def request(self, request: Request, route: str) -> Traced | None:
        """A request's span: part of its client's trace, unless the client says that this one is not recorded."""
        traceparent = request.headers.get("traceparent", "")
        if traceparent.endswith("-00") or not self._within_rate():
            return None
        context = _propagator.extract({"traceparent": traceparent} if traceparent else {})
        attributes = {"http.request.method": request.method, "http.route": route}
        span = self._tracer.start_span(
            f"{request.method} {route}", context, kind=SpanKind.SERVER, attributes=attributes
        )
        return Traced(span)

    def _within_rate(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._begun = second, 0
        self._begun += 1
        return self._begun <= self._most_a_second

    def begin(
        self,
        name: str,
        parent: Traced | str | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Traced | str] = (),
        attributes: Attributes | None = None,
        begun_ns: int | None = None,
    ) -> Traced:
        """A span under `parent` (a traceparent stands for a span of another process); a trace of its own without."""
        context = None if parent is None else set_span_in_context(_span_of(parent))
        linked = [Link(_span_of(each).get_span_context()) for each in links[:MOST_LINKS]]
        return Traced(
            self._tracer.start_span(
                name, context, kind=kind, links=linked, attributes=attributes, start_time=begun_ns
            )
        )


class Traced:
    """A span that was begun."""

    __slots__ = ("span",)

    def __init__(self, span: Span) -> None:
        self.span = span

    @property
    def context(self) -> SpanContext:
        return self.span.get_span_context()

    @property
    def trace_id(self) -> str:
        return format_trace_id(self.context.trace_id)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{format_span_id(self.context.span_id)}-01"

    def end(self, status: int) -> None:
        """End a request's span."""
        self.span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self.span.set_status(StatusCode.ERROR)
        self.span.end()


def _span_of(traced: Traced | str) -> Span:
    if isinstance(traced, Traced):
        return traced.span
    return get_current_span(_propagator.extract({"traceparent": traced}))
