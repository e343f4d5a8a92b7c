"""`python -m ops.bench.readme FILE.json ...`: put the figures of a run between README's markers.

Several files are those of one run's parts; of what two of them have measured, the later one counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops.bench._tables import Table, tables

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"

Figures = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    """Exit code 2 without a file, or where README has no markers."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    text = README.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print("README has no place for figures.", file=sys.stderr)
        return 2
    README.write_text(placed(text, together([json.loads(Path(file).read_text()) for file in arguments])))
    return 0


def together(runs: Sequence[Figures]) -> Figures:
    names = dict.fromkeys(name for figures in runs for name in figures)
    return {name: {k: v for figures in runs for k, v in figures.get(name, {}).items()} for name in names}


def placed(text: str, figures: Figures) -> str:
    """The text with the figures between its markers."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{rendered(figures)}\n{END}{rest.partition(END)[2]}"


def rendered(figures: Figures) -> str:
    """All tables of a run, below the terms on which it was taken."""
    found = figures["conditions"]
    terms = (
        f"Taken on {found['taken']} with `make bench` (seed {found['seed']}, scale {found['scale']}): "
        f"{found['cores']} cores shared by client, server,\nworkers and PostgreSQL {found['postgres']} with `fsync` "
        f"{found['fsync']}; Python {found['python']}. The sides of a ratio took turns in one run,\n"
        "with the same authentication; an answer other than 200 fails the run.\n"
    )
    return "\n".join([terms, *map(_drawn, tables(figures))])


def _drawn(table: Table) -> str:
    lines = [f"**{table.title}**", "", _row(table.heads), "|" + "---|" * len(table.heads)]
    return "\n".join([*lines, *map(_row, table.rows), ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
