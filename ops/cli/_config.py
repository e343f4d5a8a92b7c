"""The settings in effect."""

from __future__ import annotations

from ops.cli._common import Home, Json, print_json


def config(home: Home = None, as_json: Json = False) -> None:
    """The settings in effect, each with its source; secrets are masked."""
    from ops.effective import effective
    from ops.settings import Settings
    from ops.status import show_rows

    settings = Settings() if home is None else Settings(home=home)
    shown = effective(settings)
    if as_json:
        print_json({"settings": shown})
    else:
        show_rows(
            [{name: row[name] for name in ("variable", "value", "source")} for row in shown], "Settings"
        )
