"""The README's index is what the code says."""

from pathlib import Path

from ops import slices

README = Path(__file__).parents[2] / "README.md"
MARK = "<!-- slices: python -m ops.slices -->"


def test_the_index_of_slices_is_current() -> None:
    index = README.read_text().partition(MARK)[2].partition("<!-- /slices -->")[0]
    assert index.strip() == slices.table(), "run python -m ops.slices and put its table into the README"


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
