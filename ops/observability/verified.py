"""What `fogbook verify --metrics FILE` found, for node_exporter's textfile collector: a verification is no server."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile


def registry_of_verification() -> tuple[CollectorRegistry, Gauge, Gauge, Gauge]:
    registry = CollectorRegistry()
    differences = Gauge(
        "fogbook_verify_differences", "What `fogbook verify` found to differ", registry=registry
    )
    events = Gauge("fogbook_verify_events", "Events that `fogbook verify` hashed again", registry=registry)
    ended = Gauge(
        "fogbook_verify_ended_seconds",
        "When `fogbook verify` ended, in seconds since 1970",
        registry=registry,
        unit="seconds",
    )
    return registry, differences, events, ended


def write_verification(path: Path, differences: int, events: int) -> None:
    """Write the file whole, or not at all. Raises OSError."""
    registry, found, hashed, ended = registry_of_verification()
    found.set(differences)
    hashed.set(events)
    ended.set(time.time())
    write_to_textfile(str(path), registry)
