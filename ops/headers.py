"""Headers that keep browsers from doing more with an answer than to show it, and the page that is made for them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from fastapi.openapi.docs import get_swagger_ui_html

Header = tuple[bytes, bytes]

NOTHING = "default-src 'none'; frame-ancestors 'none'"
SAFE: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", NOTHING.encode()),
    (b"cache-control", b"no-store"),
)
"""What every answer has where it does not say otherwise itself; queries let the asker keep answers by their ETag."""

SCRIPTS = "https://cdn.jsdelivr.net"


class SafeHeaders:
    def __init__(self, hsts_s: int = 0) -> None:
        hsts = ((b"strict-transport-security", b"max-age=%d" % hsts_s),) if hsts_s else ()
        self._every = (*SAFE, *hsts)
        self.block = head(self._every)
        """All of them as they stand in an answer's head."""

    def complete(self, headers: list[Header]) -> list[Header]:
        """The headers, with those of ours that they lack."""
        names = {name.lower() for name, _ in headers}
        return [*headers, *(each for each in self._every if each[0] not in names)]


def head(headers: Iterable[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % each for each in headers])


def docs_page(title: str, openapi_url: str) -> tuple[bytes, bytes]:
    """The documentation as a page, and the policy that lets a browser show it: its own inline script and no other."""
    page = bytes(get_swagger_ui_html(openapi_url=openapi_url, title=title).body)
    inline = page.rpartition(b"<script>")[2].partition(b"</script>")[0]
    script = base64.b64encode(hashlib.sha256(inline).digest()).decode()
    policy = (
        f"default-src 'none'; frame-ancestors 'none'; connect-src 'self'; script-src {SCRIPTS} 'sha256-{script}';"
        f" style-src {SCRIPTS} 'unsafe-inline'; img-src data: https://fastapi.tiangolo.com"
    )
    return page, policy.encode()
