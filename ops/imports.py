"""Reading an export (ops/export.py): whatever is not as it should be is refused, with the number of its line."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn

import msgspec

from commands._codec import ZONE
from ops.export import FORMAT, LOGS, Attestation, Entry, ExportRefused, Fate, Manifest, Slice
from queries._events import Event

MOST_LINE_BYTES = 64 * 2**20
"""No line is longer: an entry has 64 KiB at most, an answer holds the events of one command."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
"""PostgreSQL's texts hold no NUL."""
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Base64(msgspec.Struct, forbid_unknown_fields=True):
    base64: bytes


Stored = str | _Base64


class _Slice(msgspec.Struct, forbid_unknown_fields=True):
    stream: Text | None
    type: Text | None


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    zone: Annotated[str, msgspec.Meta(pattern=f"^{ZONE.pattern}")]
    clock: Annotated[str, msgspec.Meta(pattern=r"^(real|manual)\Z")]
    position: Number
    number: Number
    recorded_at: Time
    slice: _Slice | None
    events: Number
    commands: Number
    attestations: Number
    checkpoints: dict[str, str | None]
    verifier_keys: list[str]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    position: Number
    stream: Text
    version: Number
    type: Text
    data: Stored
    meta: Stored
    recorded_at: Time
    leaf: Hash


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    number: Number
    principal: Text
    act_as: Text
    key: Text
    request: Stored
    if_match: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None
    status: Annotated[int, msgspec.Meta(ge=0, le=999)]
    answer: Stored
    position: Number
    events: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    recorded_at: Time
    leaf: Hash


class _Attestation(msgspec.Struct, forbid_unknown_fields=True):
    ordinal: Number
    after_number: Number
    kind: Text
    body: Stored
    recorded_at: Time
    leaf: Hash


class _End(msgspec.Struct, forbid_unknown_fields=True):
    lines: Number
    sha256: Hash


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """One of these is set."""

    manifest: _Manifest | None = None
    event: _Event | None = None
    command: _Command | None = None
    attestation: _Attestation | None = None
    end: _End | None = None


_decode = msgspec.json.Decoder(_Line).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


@contextmanager
def read_export(path: Path) -> Iterator[tuple[Manifest, Iterator[Entry]]]:
    """An export's manifest and its entries; all of it is proven whole when the last entry was taken.

    Raises ExportRefused, from the iterator as well.
    """
    try:
        with open(path, "rb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as file:
                    reader = _Reader(path, file)
                    yield reader.manifest, reader.entries()
            else:
                reader = _Reader(path, raw)
                yield reader.manifest, reader.entries()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ExportRefused(f"{path} cannot be read: {error.strerror}.") from error


class _Reader:
    """Reads line by line, and remembers how far each log has come."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile) -> None:
        self._path = path
        self._file = file
        self._line = 0
        self._hashed = hashlib.sha256()
        self._position = self._number = self._ordinal = self._events = 0
        self.manifest = self._read_manifest()

    def entries(self) -> Iterator[Entry]:
        take: dict[type, Callable[[Any], Entry]] = {
            _Event: self._event,
            _Command: self._command,
            _Attestation: self._attestation,
        }
        while True:
            before = self._hashed.hexdigest()
            held = self._next()
            if isinstance(held, _End):
                return self._end(held, before)
            if isinstance(held, _Manifest):
                self._refuse("a manifest stands in the first line only")
            yield take[type(held)](held)

    # Lines

    def _read(self) -> bytes:
        """The next line; nothing at the end of the file."""
        try:
            line = self._file.readline(MOST_LINE_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._line += 1
            self._refuse(f"it cannot be unpacked: {error}")
        self._line += 1
        if line and not line.endswith(b"\n"):
            self._refuse("the line is too long" if len(line) == MOST_LINE_BYTES else "the file was cut off")
        return line

    def _next(self) -> Any:
        line = self._read()
        if not line:
            self._refuse("the file was cut off")
        try:
            found = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._refuse(str(error))
        held = [each for name in found.__struct_fields__ if (each := getattr(found, name)) is not None]
        if len(held) != 1:
            self._refuse("it should hold one entry")
        self._hashed.update(line)
        return held[0]

    def _read_manifest(self) -> Manifest:
        line = self._read()
        try:
            format = _decode_any(line)["manifest"]["format"]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
            self._refuse("this is no export of Fogbook")
        if format != FORMAT:
            self._refuse(f"its format is {format}, and {FORMAT} is the one that is known here")
        try:
            found = _decode(line).manifest
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._refuse(str(error))
        assert found is not None
        if set(found.checkpoints) != set(LOGS):
            self._refuse("it should name a checkpoint of each log, or null")
        self._hashed.update(line)
        values = {name: getattr(found, name) for name in Manifest._fields}
        part = None if found.slice is None else Slice(found.slice.stream, found.slice.type)
        return Manifest(**values | {"slice": part})

    # Entries

    def _event(self, found: _Event) -> Event:
        whole = self.manifest.slice is None
        if found.position <= self._position or (whole and found.position != self._position + 1):
            self._refuse(f"position {found.position} comes after {self._position}")
        self._position = found.position
        self._events += 1
        return Event(
            found.position,
            found.stream,
            found.version,
            found.type,
            _bytes(found.data),
            _bytes(found.meta),
            found.recorded_at,
            bytes.fromhex(found.leaf),
        )

    def _command(self, found: _Command) -> Fate:
        if found.number != self._number + 1:
            self._refuse(f"command {found.number} comes after {self._number}")
        if found.position != self._position:
            self._refuse(
                f"command {found.number} was decided at position {found.position} and stands at {self._position}"
            )
        self._number = found.number
        values = {name: getattr(found, name) for name in Fate._fields}
        values |= {name: _bytes(values[name]) for name in ("request", "answer")}
        return Fate(**values | {"leaf": bytes.fromhex(found.leaf)})

    def _attestation(self, found: _Attestation) -> Attestation:
        if found.ordinal != self._ordinal + 1:
            self._refuse(f"attestation {found.ordinal} comes after {self._ordinal}")
        if found.after_number != self._number:
            self._refuse(
                f"attestation {found.ordinal} stands behind command {self._number} instead of {found.after_number}"
            )
        self._ordinal = found.ordinal
        values = {name: getattr(found, name) for name in Attestation._fields}
        return Attestation(**values | {"body": _bytes(found.body), "leaf": bytes.fromhex(found.leaf)})

    def _end(self, end: _End, sha256: str) -> None:
        promised = self.manifest
        if (self._events, self._number, self._ordinal) != (
            promised.events,
            promised.commands,
            promised.attestations,
        ):
            self._refuse(
                f"{self._events} events, {self._number} commands and {self._ordinal} attestations come before "
                f"the end, the manifest counts {promised.events}, {promised.commands} and {promised.attestations}"
            )
        if (end.lines, end.sha256) != (self._line - 1, sha256):
            self._refuse("the lines before it are not those that were written")
        if self._read():
            self._refuse("nothing should come after the end")

    def _refuse(self, what: str) -> NoReturn:
        raise ExportRefused(f"{self._path}, line {self._line}: {what.rstrip('.')}.")


def _bytes(stored: Stored) -> bytes:
    return stored.encode() if isinstance(stored, str) else stored.base64
