"""Whatever bytes come to a parser, it takes them or refuses them as it says: the same targets that atheris runs on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.hostile.targets import CORPUS, TARGETS

RUNS = 150
PIECES = [b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u2028".encode(), "\u212a".encode(), b"9" * 5_000,
          b"[" * 5_000, b"-", b"+", b"=", b".", b"\n", b"\r\n", b" ", b'"', b"\\", b"e9", b"T", b"\xb2"]  # fmt: skip


def seeds(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@st.composite
def changed(draw: st.DrawFn, kept: list[bytes]) -> bytes:
    """Something that is sound or nearly so, with pieces of it replaced."""
    data = draw(st.sampled_from(kept))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)))
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_is_taken_or_refused(name: str) -> None:
    assert seeds(name), "a corpus has something to begin with"
    for data in seeds(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_taken_or_refused(name: str) -> None:
    kept, run = seeds(name), TARGETS[name]

    @seed(1)
    @settings(max_examples=RUNS, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(changed(kept), st.binary(max_size=200)))
    def each(data: bytes) -> None:
        run(data)

    each()


def test_a_target_that_raises_anything_else_fails() -> None:
    from tests.hostile import targets

    def broken(data: bytes) -> None:
        raise KeyError(data)

    try:
        targets.target()(broken)
        with pytest.raises(KeyError):
            TARGETS["broken"](b"")
    finally:
        TARGETS.pop("broken", None)
