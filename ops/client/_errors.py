"""What a request can come to beside an answer: problems (RFC 9457) as exceptions, by what callers can do about them."""

from __future__ import annotations

from typing import Any

import msgspec


class FogbookError(Exception):
    """A problem. `rule` names it (`insufficient-funds`), `facts` hold limit and value, `position` says where in the
    log it was decided."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.rule = str(problem.get("type", "")).rpartition("/")[2]
        self.detail = str(problem.get("detail", ""))
        self.position: int | None = problem.get("position")
        self.facts: dict[str, Any] = dict(problem.get("facts") or {})
        super().__init__(f"{self.rule}: {self.detail}" if self.rule else self.detail)


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


KINDS: dict[int, type[FogbookError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Refused,
    412: Stale,
    429: TooMany,
}
AWAY = frozenset({408, 500, 502, 503, 504})
"""What passes by itself: the same may be sent again."""


def error_of(status: int, problem: dict[str, Any]) -> FogbookError:
    kind = KINDS.get(status) or (Unavailable if status in AWAY else Invalid)
    return kind(status, problem)


def problem_in(status: int, body: bytes) -> FogbookError:
    """From an answer, which a proxy may have made in its own way."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {"detail": f"The server answered {status}."}
    return error_of(status, problem)
