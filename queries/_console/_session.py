"""Sessions of the console: a reader's key, sealed in a cookie that scripts cannot read.

Nothing is stored here. The cookie holds the key, encrypted under a key of its own that follows from the installation's
secret, and until when it may be used; what the key may do is asked anew with each request. A revoked key ends all its
sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from urllib.parse import urlsplit

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import Request
from starlette.responses import Response

from ops.problems import Problem

COOKIE = "fogbook_session"
LIFE_S = 8 * 3600
KEPT_S = 3 * 24 * 3600
"""The cookie outlives its session, so that whoever comes back with it is told that it is over."""
NONCE_BYTES = 12
MOST_KEY = 2_048
"""Characters of a key, so that its cookie is one that browsers keep."""


class Session(msgspec.Struct, frozen=True, array_like=True):
    key: str
    until: int
    """Seconds since 1970."""

    @property
    def authorization(self) -> str:
        return f"Bearer {self.key}"


class Sessions:
    """Seals sessions into cookies and opens them."""

    def __init__(self, pepper: bytes) -> None:
        self._box = AESGCM(hmac.digest(pepper, b"fogbook console session", hashlib.sha256))

    def begin(self, response: Response, key: str, secure: bool) -> None:
        plain = msgspec.json.encode(Session(key, int(time.time()) + LIFE_S))
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = urlsafe_b64encode(nonce + self._box.encrypt(nonce, plain, None)).decode()
        response.set_cookie(
            COOKIE, sealed, max_age=KEPT_S, httponly=True, secure=secure, samesite="strict", path="/"
        )

    def end(self, response: Response) -> None:
        response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")

    def of(self, request: Request) -> Session | None:
        """The session of a request; None where there is none, or it is over or not ours."""
        try:
            sealed = urlsafe_b64decode(request.cookies.get(COOKIE, "").encode())
            plain = self._box.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
            session = msgspec.json.decode(plain, type=Session)
        except (ValueError, InvalidTag, msgspec.MsgspecError):
            return None
        return session if session.until > time.time() else None


def check_origin(request: Request) -> None:
    """Raises Problem 403 where another site's page has sent a form."""
    if not comes_from_here(request):
        raise Problem(403, "sent-from-elsewhere", "Forms are taken from the console's own pages only.")


def comes_from_here(request: Request) -> bool:
    """Whether a request that changes something was sent by one of our own pages, as browsers tell it."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")
