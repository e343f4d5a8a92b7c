"""One village for all tests here: what they do to it, only those do that come later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.servers import Servers
from tests.hostile.place import Place, place
from tests.hostile.telling import tell


@pytest.fixture(scope="session")
def here(servers: Servers, _template: str) -> Iterator[Place]:
    with place(servers, _template, "hostile") as made:
        yield made


@pytest.fixture(scope="session")
def told(here: Place) -> list[str]:
    """The story was told here; what was answered otherwise than its rows say."""
    wrong: list[str] = []
    here.run(tell(here, wrong))
    here.catch_up()
    return wrong
