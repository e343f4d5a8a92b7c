"""What a request can come to beside an answer: problems (RFC 9457) as exceptions, by what callers can do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from ops.client._steps import Broken

UNREACHABLE = "unreachable"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem's members, as they came."""

    type: str = ""
    """`/problems/insufficient-funds`; the server explains it at this path."""
    title: str = ""
    status: int = 0
    detail: str = ""
    position: int | None = None
    """Where in the log it was decided."""
    facts: dict[str, Any] = {}
    """Limits, values and ids, such as `{"available": "5", "needed": "9"}`."""


class FogbookError(Exception):
    """A problem that the server named, or `unreachable`."""

    def __init__(self, problem: Problem, retry_after_s: float | None = None) -> None:
        self.problem = problem
        self.retry_after_s = retry_after_s
        """When to try again, in seconds, where the server says so."""
        super().__init__(f"{self.rule}: {self.detail}" if self.rule else self.detail)

    @property
    def rule(self) -> str:
        """The problem's name: `insufficient-funds`."""
        return self.problem.type.rpartition("/")[2]

    @property
    def status(self) -> int:
        """Of HTTP; 0 where no answer came."""
        return self.problem.status

    @property
    def detail(self) -> str:
        """A sentence for people."""
        return self.problem.detail

    @property
    def position(self) -> int | None:
        """Where in the log a rule decided, on exact state."""
        return self.problem.position

    @property
    def facts(self) -> Mapping[str, Any]:
        """Limits, values and ids to act on; amounts are decimal strings."""
        return self.problem.facts


class Refused(FogbookError):
    """A rule refused the command, on exact state. Under the same key it is refused for ever."""


class Stale(FogbookError):
    """The stream is at another version than the one that was named (If-Match)."""


class NotFound(FogbookError):
    """There is no such thing, or it is somebody else's."""


class Invalid(FogbookError):
    """The request itself is wrong; sending it again changes nothing."""


class Unauthenticated(FogbookError):
    """The key is missing, unknown, expired or revoked."""


class Forbidden(FogbookError):
    """The key's role, scopes or zones do not allow this."""


class TooMany(FogbookError):
    """The caller's rate is used up, and waiting for it took too long."""


class Unavailable(FogbookError):
    """No answer in time. What became of a command is unknown until it is sent again under the same key."""


class NotProven(Exception):
    """A receipt does not prove what the server said."""


class Later(Exception):
    """An answer that says: later."""

    def __init__(self, error: FogbookError) -> None:
        super().__init__(error)
        self.error = error


KINDS: dict[int, type[FogbookError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Refused,
    412: Stale,
    429: TooMany,
}
AWAY = frozenset({408, 500, 502, 503, 504})
LATER = AWAY | {429}
"""What passes by itself: the same may be sent again."""


def error_of(status: int, problem: Problem, retry_after_s: float | None = None) -> FogbookError:
    kind = KINDS.get(status) or (Unavailable if status in AWAY or not status else Invalid)
    return kind(msgspec.structs.replace(problem, status=status), retry_after_s)


def error_in(status: int, headers: Mapping[str, str], body: bytes) -> FogbookError:
    """From an answer, which a proxy may have made in its own way."""
    after = headers.get("retry-after", "")
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem(detail=f"The server answered {status}.")
    return error_of(status, problem, float(after) if after.isdecimal() else None)


def again_within(patience_s: float) -> Callable[[Exception], bool | timedelta]:
    """Whether a request is sent once more, and after which pause where the server names one. It is the same request
    with the same idempotency key, so it is safe whatever became of the first."""

    def again(error: Exception) -> bool | timedelta:
        if isinstance(error, Later):
            after = error.error.retry_after_s
            return timedelta(seconds=after) if after and after <= patience_s else not after
        return isinstance(error, Broken)

    return again


def given_up(error: Later | Broken) -> FogbookError:
    """When patience has ended."""
    if isinstance(error, Later):
        return error.error
    detail = f"There was no answer: {error}"
    return error_of(0, Problem(type=f"/problems/{UNREACHABLE}", title="Unreachable", detail=detail))
