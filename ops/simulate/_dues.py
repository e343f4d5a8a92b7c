"""What timers and reactions still have to settle, and when each falls due."""

from __future__ import annotations

from datetime import datetime
from heapq import heappop, heappush


class Dues:
    """Each thing has one time, the last that was said of it; asking costs only what has fallen due."""

    def __init__(self) -> None:
        self._at: dict[str, datetime] = {}
        self._later: list[tuple[datetime, str]] = []
        """A heap; what was moved or settled since leaves entries behind, which are passed over."""
        self._ripe: set[str] = set()

    def expect(self, what: str, at: datetime) -> None:
        """It falls due then, whatever was said of it before."""
        self._at[what] = at
        heappush(self._later, (at, what))

    def settle(self, what: str) -> None:
        self._at.pop(what, None)

    def by(self, at: datetime) -> list[str]:
        """What has fallen due and is not settled."""
        while self._later and self._later[0][0] <= at:
            self._ripe.add(heappop(self._later)[1])
        self._ripe = {
            what for what in self._ripe if self._at.get(what, None) is not None and self._at[what] <= at
        }
        return sorted(self._ripe)
