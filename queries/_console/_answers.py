"""What the console takes from a request and puts into an answer, whatever it is about."""

from __future__ import annotations

import gzip
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.responses import HTMLResponse, Response

from ops.problems import Problem
from ops.web import body_of, headers_of
from queries._console._export import FORMS, exported

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}


def html(request: Request, text: str, status: int = 200) -> Response:
    body, headers = text.encode(), dict(HEADERS)
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 5)
        headers |= {"content-encoding": "gzip", "vary": "Accept-Encoding"}
    return HTMLResponse(body, status, headers)


def file_of(rows: list[dict[str, Any]], name: str, form: str) -> Response:
    if form not in FORMS:
        raise Problem(404, "not-found", "Tables are exported as csv or ndjson.")
    headers = HEADERS | {"content-disposition": f'attachment; filename="{name}.{form}"'}
    return Response(exported(rows, form), 200, headers, FORMS[form])


async def form_of(request: Request) -> dict[str, str]:
    body = await body_of(request, headers_of(request))
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except (ValueError, UnicodeDecodeError):
        raise Problem(400, "malformed-form", "The form cannot be read.") from None


def inside(path: str | None) -> str:
    """A path of the console to come back to, and never another host."""
    safe = path is not None and path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if safe and path else "/"
