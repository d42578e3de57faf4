"""The one look of all figures: sizes of a two-column paper, series that survive greyscale and colour blindness.

A series is told by colour, line style and marker at once. Colours are those of Okabe and Ito
(https://jfly.uni-koeln.de/color/), ordered so that neighbours differ in luminance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

COLUMN_WIDTH = 3.5
"""Inches of one column of a two-column page."""
PAGE_WIDTH = 7.16
"""Inches of both."""

INK = "#222222"
FAINT = "#9a9a9a"
SEQUENTIAL = "cividis"
"""Colour map whose luminance rises evenly, the same to readers who see no red or no green."""

COLOURS = ("#000000", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "/////", ".....", "\\\\\\\\\\", "xxxxx", "-----")
GAIN = "#8cc3e3"
LOSS = "#efb68a"
"""Pale, so that a whisker shows on them."""

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a $ in a label or a sentence is a $
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 250,
}


class Series(NamedTuple):
    """How one line of a figure looks."""

    color: str
    linestyle: str
    marker: str


class Fill(NamedTuple):
    """How the bars of one variant look."""

    facecolor: tuple[float, float, float]
    edgecolor: str
    hatch: str


@contextmanager
def house_style() -> Iterator[None]:
    """Draw and save inside this block."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nothing of the user's own settings
        for name, value in SETTINGS.items():
            matplotlib.rcParams[name] = value
        yield


def series(count: int) -> list[Series]:
    """Looks of `count` lines; the first 28 differ, and neighbours in all three ways."""
    return [Series(COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]) for i in range(count)]


def points(count: int) -> list[tuple[str, str]]:
    """Colour and marker of `count` points without lines; the first 49 differ."""
    n = len(COLOURS)
    return [(COLOURS[i % n], MARKERS[(i + i // n) % n]) for i in range(count)]


def fills(count: int) -> list[Fill]:
    """Looks of `count` bars; the first 42 differ, and neighbours in colour and hatch."""
    return [Fill(_lighter(COLOURS[i % len(COLOURS)]), INK, HATCHES[i % len(HATCHES)]) for i in range(count)]


def _lighter(color: str) -> tuple[float, float, float]:
    red, green, blue = (0.5 + 0.5 * channel for channel in to_rgb(color))  # so that a hatch shows on it
    return red, green, blue


def legend_columns(labels: Sequence[str], *, narrow: bool) -> int:
    """How many columns of a legend fit below a figure of one column of the page, or of both."""
    widest = max(len(label) for label in labels)
    return max(1, min(len(labels), (54 if narrow else 118) // (widest + 10)))


def light_grid(axes: Axes, axis: str) -> None:
    """Faint lines behind the data, along `x` or `y`."""
    axes.set_axisbelow(True)
    axes.grid(axis=axis, color="#dddddd", linewidth=0.5)  # type: ignore[arg-type]
