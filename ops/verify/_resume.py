"""A file that remembers how far a verification came, so that the next one goes on there.

It is good for what it was made of only: a resumed run first checks that the logs begin with the roots that are
remembered. What lies before them is not read again (a flipped byte there shows in a run without this file).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from ops.home import Refused, write_private
from ops.verify._book import Standing

FORMAT = "fogbook-verified/v1"


class Remembered(msgspec.Struct):
    format: str
    zones: dict[str, Standing]


class Memory:
    """What is verified, zone by zone; nothing is kept where no file was named."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._zones: dict[str, Standing] = {}
        if path is not None and path.exists():
            try:
                found = msgspec.json.decode(path.read_bytes(), type=Remembered)
            except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise Refused(f"{path} does not say how far a verification came: {error}.") from error
            if found.format != FORMAT:
                raise Refused(f"{path} is of format {found.format}, {FORMAT} is the one that is known here.")
            self._zones = found.zones

    def __bool__(self) -> bool:
        return self._path is not None

    def begin(self, zone: str) -> Standing:
        return self._zones.get(zone, Standing())

    def keep(self, zone: str, standing: Standing) -> None:
        if self._path is not None:
            self._zones[zone] = standing
            write_private(self._path, msgspec.json.encode(Remembered(FORMAT, self._zones)).decode() + "\n")

    def forget(self, zone: str) -> None:
        if self._zones.pop(zone, None) is not None and self._path is not None:
            write_private(self._path, msgspec.json.encode(Remembered(FORMAT, self._zones)).decode() + "\n")
