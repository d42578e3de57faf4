"""Horizontal bars that say what each part adds, one below the other, with intervals and what the tests say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.metrics import Metric
from reports.cells import show_value
from reports.drawing import new_figure, wrapped
from reports.intervals import RESOLUTION, Interval
from reports.style import COLUMN_WIDTH, FAINT, GAIN, INK, LOSS, house_style, light_grid

ROW_HEIGHT = 0.3
"""Inches."""
MAX_LINES = 2
"""Of a label that such a row has room for."""
LINE_HEIGHT = 0.125
"""Inches that each further line takes."""


class Bar(NamedTuple):
    """One bar, stored unit."""

    label: str
    start: float | None
    """Where it begins; None for a score, which begins at the edge of the axes."""
    value: float
    """What it adds to `start`, or the score."""
    interval: Interval | None = None
    """Of the value."""
    mark: str = ""
    """What the test says of it."""
    is_total: bool = False
    """Whether it is a total and no part."""

    @property
    def end(self) -> float:
        """Where it ends."""
        return (self.start or 0.0) + self.value


def draw_bars(bars: Sequence[Bar], shown: Metric, *, x_label: str) -> Figure:
    """The bars from top to bottom, each joined to the next where it ends."""
    with house_style():
        labels = [wrapped(bar.label) for bar in bars]
        places, rows = _places([label.count("\n") + 1 for label in labels])
        figure = new_figure(COLUMN_WIDTH, 0.65 + ROW_HEIGHT * rows)
        axes = figure.add_subplot()
        low, high = (edge * shown.scale for edge in _range(bars))
        axes.set_xlim(low, high)
        for y, bar in zip(places, bars, strict=True):
            _draw_bar(axes, y, bar, shown, low=low)
        for (y, bar), (next_y, below) in pairwise(zip(places, bars, strict=True)):
            if below.start is None or math.isclose(below.start, bar.end, abs_tol=RESOLUTION):
                axes.plot([bar.end * shown.scale] * 2, [y + 0.3, next_y - 0.3], color=FAINT, linewidth=0.8)
        axes.set_yticks(places, labels)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlabel(x_label)
        axes.tick_params(axis="y", length=0)
        light_grid(axes, "x")
        figure.set_layout_engine("constrained")
    return figure


def _places(lines: Sequence[int]) -> tuple[list[float], float]:
    """Where bars stand, in rows from the first one, and how many rows they take; labels of many lines take more."""
    places, end = [], -0.5
    for count in lines:
        rows = max(1.0, 1 + LINE_HEIGHT * (count - MAX_LINES) / ROW_HEIGHT)
        places.append(end + rows / 2)
        end += rows
    return places, end + 0.5


def _draw_bar(axes: Axes, y: float, bar: Bar, shown: Metric, *, low: float) -> None:
    start = low if bar.start is None else bar.start * shown.scale
    end = bar.end * shown.scale
    # losses are hatched too: both colours have nearly one luminance
    color, hatch = (FAINT, "") if bar.is_total else (GAIN, "") if bar.value >= 0 else (LOSS, "/////")
    axes.barh(y, end - start, 0.6, left=start, color=color, hatch=hatch, edgecolor=INK, linewidth=0.5, zorder=2)
    reach = max(start, end)
    if bar.interval:
        edges = [((bar.start or 0.0) + edge) * shown.scale for edge in bar.interval]
        axes.plot(edges, [y, y], color=INK, linewidth=1.0, marker="|", markersize=4, zorder=3)
        reach = max(reach, *edges)
    text = show_value(bar.value, shown, signed=bar.start is not None)
    label = f"{text} {bar.mark}".rstrip()
    axes.annotate(label, (reach, y), (4, 0), textcoords="offset points", va="center", fontsize=6.5)


def _range(bars: Sequence[Bar]) -> tuple[float, float]:
    """Left and right end of the axes, with room for the figures at the right."""
    starts = [bar.start for bar in bars if bar.start is not None]
    edges = [(bar.start or 0.0) + edge for bar in bars if bar.interval for edge in bar.interval]
    places = [*starts, *(bar.end for bar in bars), *edges]
    low, high = min(places), max(places)
    span = (high - low) or max(abs(high), 1e-3)
    return low - 0.12 * span, high + 0.36 * span
