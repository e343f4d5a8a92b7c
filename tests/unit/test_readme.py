"""The README's index is what the code says."""

from pathlib import Path

from ops import limited, slices
from ops.settings import Settings

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- slices: python -m ops.slices -->"


def test_the_index_of_slices_is_current() -> None:
    index = README.read_text().partition(MARK)[2].partition("<!-- /slices -->")[0]
    assert index.strip() == slices.table(), "run python -m ops.slices and put its table into the README"


def test_the_table_of_limits_is_current() -> None:
    shown = (
        README.read_text()
        .partition("<!-- limits: python -m ops.limited -->")[2]
        .partition("<!-- /limits -->")[0]
    )
    assert shown.strip() == limited.table(), "run python -m ops.limited and put its table into the README"


def test_every_limit_that_is_a_setting_stands_in_the_table() -> None:
    named = {limit.setting.strip("`").removeprefix("FOGBOOK_").lower() for limit in limited.limits()}
    assert {name for name in Settings.model_fields if name.startswith(("most_", "rate_"))} <= named


def test_every_context_has_the_same_file_in_every_layer() -> None:
    root = README.parent
    for context in ("ledger", "staking"):
        for layer in ("domain", "commands", "projections", "queries"):
            assert (root / layer / f"{context}.py").exists(), f"{layer}/{context}.py"


def test_the_index_says_what_follows_also_where_a_handler_calls_another_function_for_it() -> None:
    (row,) = [line for line in slices.table().splitlines() if "`harvest/validate-contribution`" in line]
    assert "when a contribution is validated its reward is paid" in row
    (row,) = [line for line in slices.table().splitlines() if "`ledger/release-hold`" in line]
    assert "nothing expires" not in row
