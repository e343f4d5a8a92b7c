"""Problem details (RFC 9457): every error that leaves the system is one of these."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from commands._codec import encode_json

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer other than success. `facts` tell the caller what to change."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        position: int | None = None,
        **facts: Any,
    ) -> None:
        self.status = status
        self.name = name
        self.headers = headers or {}
        self.body: dict[str, Any] = {
            "type": f"/problems/{name}",
            "title": name.replace("-", " ").capitalize(),
            "status": status,
            "detail": detail,
        }
        if position is not None:
            self.body["position"] = position
        if facts:
            self.body["facts"] = facts
        super().__init__(detail)

    def response(self) -> Response:
        return Response(encode_json(self.body), self.status, self.headers, MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route in OpenAPI."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


DESCRIPTIONS = {
    400: "The request is not well formed.",
    401: "No valid API key or token came with the request.",
    403: "The key's role or scopes do not allow this.",
    404: "There is no such thing, or it is not yours to see.",
    405: "The path does not take this method.",
    408: "The body did not arrive in time.",
    409: "A rule refused the command; `type` names it.",
    412: "The stream has moved on since the version that If-Match names.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body's media type is not taken here.",
    422: "The body or a parameter is not valid, or its idempotency key was used with another command.",
    421: "The request is for another host.",
    429: "More than this caller may send; `facts` name the limit, Retry-After says when to try again.",
    431: "The head of the request is too large.",
    500: "A defect; nothing was changed.",
    503: "The log cannot be reached or too much is under way; try again with the same key.",
    504: "What was to be waited for, a position or a checkpoint, was not reached in time.",
}

SCHEMA = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Names the rule or problem."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "position": {"type": "integer", "description": "Where in the log it was decided."},
        "facts": {"type": "object", "description": "Limits, values and ids that the caller needs to act."},
    },
}
