"""Plots as SVG: lines over one pair of axes, in greys and colours that stand out on white and on black alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ops.bench._figures import Plot

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 270, 44, 56
GREY = "#808080"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#b8a030", "#3fb0cc", "#aa3377", "#8a8a8a")
DASHES = ("none", "6 4", "2 3")
"""Once the colours are used up, they come again dashed."""
MOST_TICKS = 8

Place = Callable[[float], float]


@dataclass(frozen=True)
class Axis:
    """Where values lie between `begin` and `end`, in pixels."""

    values: Sequence[float]
    log: bool
    begin: float
    end: float

    def ticks(self) -> list[float]:
        """Round values that enclose all others."""
        low, high = min(self.values), max(self.values)
        if self.log:
            return _log_ticks(low, high)
        step = _step(max(high, 1e-9) / 5)
        return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]

    def scale(self, ticks: Sequence[float]) -> Place:
        low, high = self._measure(ticks[0]), self._measure(ticks[-1])
        width = high - low or 1.0
        return lambda value: self.begin + (self._measure(value) - low) / width * (self.end - self.begin)

    def _measure(self, value: float) -> float:
        return math.log10(value) if self.log else value


def write_plots(plots: dict[str, Plot], folder: Path) -> list[Path]:
    """Draw each plot into the folder, which is made; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, plot in plots.items():
        files.append(folder / f"{name}.svg")
        files[-1].write_text(svg(plot))
    return files


def svg(plot: Plot) -> str:
    """Raises ValueError where there is nothing to draw, or a value that a logarithmic axis has no place for."""
    points = [point for line in plot.series.values() for point in line]
    if not points:
        raise ValueError(f"the plot {plot.title!r} has no points")
    across = Axis([x for x, _ in points], plot.log_x, LEFT, WIDTH - RIGHT)
    upward = Axis([y for _, y in points], plot.log_y, HEIGHT - BOTTOM, TOP)
    for axis in (across, upward):
        if axis.log and min(axis.values) <= 0:
            raise ValueError(f"the plot {plot.title!r} has values that have no logarithm")
    ends = _whole(across)
    x, y = across.scale(ends), upward.scale(upward.ticks())
    drawn = [
        *_grid(across, upward, x, y),
        *_labels(plot),
        *(_line(number, line, x, y) for number, line in enumerate(plot.series.values())),
        *(_legend(number, name) for number, name in enumerate(plot.series)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{GREY}">\n'
        f"<title>{escape(plot.title)}</title>\n" + "\n".join(drawn) + "\n</svg>\n"
    )


def _whole(across: Axis) -> list[float]:
    """Where the horizontal axis ends: at its first and last value, or at round ones when there are many."""
    distinct = sorted(set(across.values))
    return distinct if len(distinct) <= MOST_TICKS else across.ticks()


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, or whole decades when those would be too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        first = max((i for i, tick in enumerate(ticks) if tick <= low * 1.000001), default=0)
        last = min((i for i, tick in enumerate(ticks) if tick >= high * 0.999999), default=len(ticks) - 1)
        if last - first < MOST_TICKS:
            break
    return ticks[first : last + 1]


def _step(rough: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not less."""
    decade = 10.0 ** math.floor(math.log10(rough))
    return next(decade * step for step in (1, 2, 5, 10) if decade * step >= rough * 0.999999)


def _grid(across: Axis, upward: Axis, x: Place, y: Place) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = []
    for tick in upward.ticks():
        drawn.append(
            f'<line x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="{GREY}" '
            f'stroke-opacity="0.25"/>'
        )
        drawn.append(_text(LEFT - 8, y(tick) + 4, short(tick), "end"))
    for tick in _whole(across):
        drawn.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="{GREY}"/>'
        )
        drawn.append(_text(x(tick), bottom + 20, short(tick), "middle"))
    drawn.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="{GREY}"/>')
    return drawn


def _labels(plot: Plot) -> list[str]:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return [
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(plot.title)}</text>',
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, plot.x, "middle"),
        f'<text transform="translate(20 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(plot.y)}</text>',
    ]


def _line(number: int, points: Sequence[tuple[float, float]], x: Place, y: Place) -> str:
    placed = [(x(across), y(upward)) for across, upward in sorted(points)]
    path = " ".join(f"{across:.1f},{upward:.1f}" for across, upward in placed)
    colour, dash = _look(number)
    dots = "".join(
        f'<circle cx="{across:.1f}" cy="{upward:.1f}" r="3" fill="{colour}"/>' for across, upward in placed
    )
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        + dots
    )


def _legend(number: int, name: str) -> str:
    left, top = WIDTH - RIGHT + 20, TOP + 12 + number * 20
    colour, dash = _look(number)
    return (
        f'<line x1="{left}" x2="{left + 24}" y1="{top - 4}" y2="{top - 4}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>' + _text(left + 32, top, name, "start")
    )


def _look(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def short(value: float) -> str:
    """10M for ten million, 1k for a thousand."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
