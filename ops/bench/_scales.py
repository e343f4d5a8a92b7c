"""How much of everything: for a test, for a minute, and for figures that stand in README."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """Of the part `growth`."""

    events: tuple[int, ...]
    """The sizes of logs, the smallest first; a tenth of each in streams."""
    rounds: int
    round_s: float
    """Short ones: the smallest log grows meanwhile."""
    queries: int
    lag_s: float
    long_stream: int
    """Events of one stream."""
    loads: int
    """Of it, in turns with a short one."""
    open_timers: int
    sweeps: int
    """Of the timers' worker, in turns with one that has no open timers."""


@dataclass(frozen=True)
class Scale:
    """How much of everything. `limit_s` is when the whole bench must be over: late parts run fewer rounds."""

    name: str
    wallets: int
    connections: int
    rounds: int
    round_s: float
    append_rounds: int
    batches: int
    """Of each side in each round of the append part."""
    lag_s: float
    """Of each round at each rate."""
    lag_rounds: int
    lag_rates: tuple[int, ...]
    """Commands a second."""
    events: int
    """That the rebuild part folds, at least."""
    rebuilds: int
    peer_events: int
    """That other libraries fold for a rebuild: of theirs, only the rate counts."""
    streams: int
    """Wallets of the memory part."""
    memory_s: float
    devices: int
    """Of the mixed part and of commands about devices."""
    command_rounds: int
    command_s: float
    """Of each side in each round of the commands part."""
    command_connections: tuple[int, ...]
    panel_asks: int
    """Of each panel of the console."""
    live_pages: int
    """Open at once."""
    growth: Growth
    limit_s: float | None = None


TINY = Scale(
    name="tiny",
    wallets=50,
    connections=8,
    rounds=1,
    round_s=0.2,
    append_rounds=1,
    batches=5,
    lag_s=0.5,
    lag_rounds=1,
    lag_rates=(100, 500),
    events=500,
    rebuilds=1,
    peer_events=300,
    streams=200,
    memory_s=0.2,
    devices=100,
    panel_asks=3,
    live_pages=20,
    growth=Growth((500, 1_500), 1, 0.2, 5, 0.5, 1_200, 2, 300, 3),
    command_rounds=1,
    command_s=0.2,
    command_connections=(8, 32),
)
QUICK = Scale(
    name="quick",
    wallets=1_000,
    connections=32,
    rounds=5,
    round_s=0.7,
    append_rounds=5,
    batches=40,
    lag_s=4.0,
    lag_rounds=1,
    lag_rates=(500,),
    events=100_000,
    rebuilds=2,
    peer_events=2_000,
    streams=20_000,
    memory_s=2.0,
    devices=500,
    panel_asks=50,
    live_pages=500,
    growth=Growth((10_000, 100_000), 4, 0.7, 200, 4.0, 100_000, 10, 10_000, 50),
    command_rounds=2,
    command_s=0.5,
    command_connections=(1, 8, 128, 32),
    limit_s=46.0,
)
FULL = Scale(
    name="full",
    wallets=1_000,
    connections=32,
    rounds=10,
    round_s=3.0,
    append_rounds=15,
    batches=100,
    lag_s=10.0,
    lag_rounds=3,
    lag_rates=(100, 500, 2_000),
    events=1_000_000,
    rebuilds=3,
    peer_events=20_000,
    streams=1_000_000,
    memory_s=30.0,
    devices=1_000,
    panel_asks=200,
    live_pages=500,
    growth=Growth((10_000, 1_000_000, 10_000_000), 8, 1.0, 400, 10.0, 1_000_000, 20, 100_000, 100),
    command_rounds=5,
    command_s=2.0,
    command_connections=(1, 8, 128, 32),
)
