"""Interactions of a full factorial: a panel for each two factors, a line for each level of the second."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from harness.metrics import Metric, metric
from harness.records import Table
from reports.captions import replicates_words, split_label
from reports.cells import show_value
from reports.comparison_notes import rests_on, stated_p
from reports.drawing import Drawing, most_lines, new_figure, wrapped
from reports.factorial import Effect, Factorial
from reports.factors import complete, factorial, full_factorial, level_text
from reports.results import Results
from reports.significance import holm_known
from reports.style import COLUMN_WIDTH, PAGE_WIDTH, house_style, light_grid, series

MAX_COLUMNS = 3

# inches
PANEL_HEIGHT = 2.0
LINE = 0.13

FONT_SIZE = 7.0
"""Points, of a legend."""

SPREAD = 0.1
"""By how much of the distance of two levels lines stand beside each other, so that their bars show."""

COLUMNS = ("factor", "other", "level", "other_level", "what", "value", "low", "high", "p", "p_panel", "n", "left_out")


class Pair(NamedTuple):
    """Two factors."""

    names: tuple[str, str]
    means: tuple[Effect, ...]
    """Of every combination of their levels."""
    effects: tuple[Effect, ...]
    """By how much the first's effect is larger with the second's level, for all levels but the first ones."""
    p: float | None
    """Of no interaction at all, corrected by Holm over the pairs of the figure."""


def interactions(found: Factorial) -> list[Pair]:
    """Every two factors of a design, in its order."""
    names = list(itertools.combinations(found.factors, 2))
    corrected = holm_known([found.interaction_p(pair) for pair in names])
    effects = found.interactions()
    return [
        Pair(pair, tuple(found.means(pair)), tuple(e for e in effects if e.name == pair), p)
        for pair, p in zip(names, corrected, strict=True)
    ]


def draw_interaction(results: Results, table: Table) -> Sequence[Drawing]:
    """All pairs of factors of a table that is a full factorial."""
    design = full_factorial(results.plan, table)
    scores, left_out = complete(results, table)
    found = factorial(design, scores)
    pairs = interactions(found)
    shown, split = metric(results.plan.deciding_metric(table)), results.plan.deciding_split(table)
    rows = math.ceil(len(pairs) / MAX_COLUMNS)
    columns = math.ceil(len(pairs) / rows)
    below = LINE * max(most_lines(_ticks(found.factors[a])) + 1.2 * len(found.factors[b]) for (a, b), *_ in pairs)
    with house_style():
        figure = new_figure(COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, (PANEL_HEIGHT + below) * rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, pair in zip(grid.flat, pairs, strict=False):
            _draw_pair(axes, pair, found, shown)
        for axes in grid.flat[len(pairs) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"{shown.label} ({shown.unit})")
        figure.set_layout_engine("constrained", w_pad=0.06)
    caption = _caption(found, f"{shown.label} on {split_label(split)}", left_out)
    data = _numbers(pairs, found.replicates, left_out)
    return [Drawing(f"interaction_{table.name}", figure, data, caption, results.run_ids(table.rows))]


def _draw_pair(axes: Axes, pair: Pair, found: Factorial, shown: Metric) -> None:
    first, second = (found.factors[name] for name in pair.names)
    for i, (look, other) in enumerate(zip(series(len(second)), second, strict=True)):
        of_line = [effect for effect in pair.means if effect.levels[1] == other]
        aside = SPREAD * ((i + 0.5) / len(second) - 0.5)
        y = [effect.value * shown.scale for effect in of_line]
        reach = [shown.scale * (e.interval.high - e.value) if e.interval else math.nan for e in of_line]
        x = [place + aside for place in range(len(first))]
        label = wrapped(f"{pair.names[1]}: {level_text(other)}", 36)
        axes.errorbar(x, y, yerr=reach, **look._asdict(), elinewidth=0.8, capsize=1.5, capthick=0.8, label=label)
    ticks = _ticks(first)
    axes.set_xticks(range(len(first)), ticks)
    axes.set_xlim(-0.3, len(first) - 0.7)
    axes.set_xlabel(pair.names[0])
    axes.set_title("\n".join([" × ".join(pair.names), _size(pair, shown)]))
    below = (22 + 8.5 * most_lines(ticks)) / FONT_SIZE  # points: ticks and the label below them
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=below)
    light_grid(axes, "y")


def _ticks(levels: Sequence[str]) -> list[str]:
    return [wrapped(level_text(level), max(8, 30 // len(levels))) for level in levels]


def _size(pair: Pair, shown: Metric) -> str:
    """The interaction in words: its size where it is one number, and p."""
    p = "" if pair.p is None else stated_p(pair.p)
    if len(pair.effects) > 1:
        return f"F test, {p}" if p else "not tested"
    (effect,) = pair.effects
    size = f"{show_value(effect.value, shown, signed=True)} {shown.delta_unit}"
    if effect.interval is None:
        return f"{size}, not tested"
    low, high = (show_value(edge, shown, signed=True) for edge in effect.interval)
    return f"{size}\n[{low}, {high}], {p}"


def _caption(found: Factorial, what: str, left_out: int) -> str:
    expected = found.replicates + left_out
    lost = f" ({left_out} of {expected}, which not every row has, left out)" if left_out else ""
    text = (
        f"{what} for every two of {len(found.factors)} factors, all {len(found.settings)} combinations trained, "
        f"{replicates_words([found.replicates])}{lost}. A point is the mean over all levels of the other factors. "
    )
    if found.replicates < 2:
        return f"{text}One replicate: no spread is known, and nothing is tested."
    over = rests_on([(found.on_samples, found.blocked)])
    return (
        f"{text}Bars are 95 % intervals over {over} for comparing points with each other: they "
        "leave out what is added to all rows alike (Loftus and Masson 1994). A title has the interaction, by how much "
        "the effect of one factor is larger with the other's second level, where each has two, and p of no interaction "
        "(least squares with a level per row and a block per replicate; Holm's correction over panels)."
    )


def _numbers(pairs: Sequence[Pair], replicates: int, left_out: int) -> pd.DataFrame:
    lines = []
    for pair in pairs:
        for what, effects in (("mean", pair.means), ("interaction", pair.effects)):
            for effect in effects:
                levels = [level_text(str(level)) for level in effect.levels]
                numbers = [effect.value, *(effect.interval or (None, None)), effect.p, pair.p]
                lines.append([*pair.names, *levels, what, *numbers, replicates, left_out])
    return pd.DataFrame(lines, columns=list(COLUMNS))
