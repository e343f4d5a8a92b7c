"""Events as a Parquet file, for tools that read columns; amounts stay exact: DECIMAL(38,0).

DuckDB writes it from CSV that runs through a pipe, so memory stays bounded however long the log is. The manifest
(ops/export.py) lies in the file's key-value metadata, as JSON under `fogbook`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import duckdb
import msgspec

from commands._codec import cache, decode_event, encode_json, stored_types
from ops.export import TICK_EVERY, Entry, ExportRefused, Manifest, Tick
from ops.files import replacing
from queries._events import Event, rfc3339, stored

COLUMNS = {
    "position": "BIGINT",
    "stream": "VARCHAR",
    "version": "BIGINT",
    "type": "VARCHAR",
    "recorded_at": "TIMESTAMPTZ",
    "data": "VARCHAR",
    "meta": "VARCHAR",
    "leaf": "VARCHAR",
    "asset": "VARCHAR",
    "amount": "DECIMAL(38,0)",
}
"""What the CSV holds; `asset` and `amount` are an event's posting, if it has one."""

WRITE = """
COPY (
    SELECT * REPLACE (unhex(leaf) AS leaf)
    FROM read_csv(?, columns = ?, header = false, auto_detect = false, delim = ',', quote = '"', escape = '"',
                  nullstr = '', allow_quoted_nulls = false, parallel = false)
) TO {file} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{fogbook: {manifest}}})
"""
LIMITS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "512MB",
    "autoinstall_known_extensions": False,
}


def write_parquet(path: Path, manifest: Manifest, entries: Iterable[Entry], tick: Tick) -> None:
    """Write the events, or no file at all. Raises ExportRefused."""
    with replacing(path) as unfinished:
        statement = WRITE.format(
            file=literal(str(unfinished)), manifest=literal(encode_json(manifest.shown()).decode())
        )
        written = 0
        with piped(path, statement, COLUMNS) as pipe:
            for entry in entries:
                if isinstance(entry, Event):
                    pipe.write(_line(entry).encode())
                    written += 1
                    if written % TICK_EVERY == 0:
                        tick(written, manifest.events)
        if written != manifest.events:
            raise ExportRefused(
                f"Zone {manifest.zone} should hold {manifest.events} events and holds {written}: run `fogbook verify`."
            )


@contextmanager
def piped(path: Path, statement: str, columns: Mapping[str, str]) -> Iterator[BinaryIO]:
    """What is written goes to a statement of DuckDB, which makes the file of it. Raises ExportRefused.

    The statement runs in a thread of its own, so that whoever reads the log is the one that an interrupt ends.
    """
    reading, writing = os.pipe()
    failed: list[duckdb.Error] = []
    writer = Thread(target=_run, args=(statement, reading, columns, failed))
    try:
        # Whoever reads gives up with a reason, which is told below.
        with suppress(BrokenPipeError), open(writing, "wb") as pipe:
            writer.start()
            yield pipe
    finally:
        writer.join()
    if failed:
        raise ExportRefused(f"{path} cannot be written: {failed[0]}") from failed[0]


def _run(statement: str, reading: int, columns: Mapping[str, str], failed: list[duckdb.Error]) -> None:
    try:
        with duckdb.connect(config=LIMITS) as connection:
            connection.execute(statement, [f"/dev/fd/{reading}", columns])
    except duckdb.Error as error:
        failed.append(error)
    finally:
        os.close(reading)


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _line(event: Event) -> str:
    asset, amount = _posting(event) or ("", "")
    return (
        f"{event.position},{_quoted(event.stream)},{event.version},{_quoted(event.type)},"
        f"{rfc3339(event.recorded_at)},{_json(event.data)},{_json(event.meta)},{event.leaf.hex()},{asset},{amount}\n"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _json(data: bytes) -> str:
    """Stored JSON verbatim, other bytes as an object with their base64."""
    shown = stored(data)
    return _quoted((data if isinstance(shown, msgspec.Raw) else encode_json(shown)).decode())


def _posting(event: Event) -> tuple[str, int] | None:
    if not _has_posting(event.type):
        return None
    try:
        posting: tuple[str, int] | None = decode_event(event.type, event.data).posting  # type: ignore[union-attr]
    except msgspec.MsgspecError:
        return None  # Somebody altered it; `fogbook verify` says so.
    return posting


@cache
def _has_posting(type: str) -> bool:
    return hasattr(stored_types().get(type), "posting")
