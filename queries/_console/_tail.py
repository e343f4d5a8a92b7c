"""The log's end as it grows: rows of the event explorer, newest first."""

from __future__ import annotations

from collections import deque
from typing import Any

from queries._console._render import View, render
from queries._console._screens import Ask

MOST_ROWS = 50
MOST_PAGES = 20
"""Pages that one look reads; a log that moves faster is caught up with by the next looks."""


class Tail:
    """The newest events behind the position that a page shows; of those, the ones that its filters name."""

    def __init__(self, ask: Ask, view: View, seen: int, filters: dict[str, str]) -> None:
        self._ask = ask
        self._view = view
        self._seen = seen
        self._after = seen
        self._filters = filters
        self._rows: deque[dict[str, Any]] = deque(maxlen=MOST_ROWS)
        self._begun = False

    async def renewed(self) -> str | None:
        """The rows as HTML; None where the log is not this reader's to see any longer."""
        if not self._begun and not self._filters:
            self._after = max(0, self._seen - MOST_ROWS)
        self._begun = True
        for _ in range(MOST_PAGES):
            page = await self._ask(
                "/history/events", after=str(self._after), limit=str(MOST_ROWS), **self._filters
            )
            if not page.ok:
                return None
            self._rows.extend(page.lines)
            following = page.headers.get("fogbook-next")
            self._after = int(following or page.headers["fogbook-position"])
            if following is None:
                break
        return render("events.html", self._view, events=list(self._rows)[::-1], seen=self._seen)
