"""The API is what its OpenAPI document says."""

from __future__ import annotations

import pytest

from tests.hostile import schemas
from tests.hostile.place import Place

pytestmark = pytest.mark.xdist_group("hostile")

SEED = 1


def test_what_is_sound_is_taken_what_is_not_is_refused_and_every_answer_is_documented(
    here: Place, told: list[str]
) -> None:
    counts, wrong = schemas.hold(here, SEED, examples=1, roles=1)
    assert wrong == [], f"{len(wrong)}:\n" + "\n".join(wrong[:20])
    assert counts["operations"] >= len(here.document["paths"])
    assert counts["requests"] > counts["operations"]
