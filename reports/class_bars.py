"""IoU of every class as bars grouped by class, one bar per variant, whiskers for the spread over replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from harness.metrics import metric
from harness.records import Table
from reports.artifacts import NotDrawn
from reports.captions import counted_label, mean_words, split_label
from reports.class_breakdown import MEAN
from reports.class_scores import IOU, averaging_notes, class_slugs
from reports.drawing import Drawing, new_figure, wrapped
from reports.results import Results
from reports.stats import Summary, summarize
from reports.style import PAGE_WIDTH, fills, house_style, legend_columns, light_grid

# inches
PANEL_HEIGHT = 1.55
MIN_BAR = 0.075
"""Narrower bars do not show their hatch."""
CHARACTER = 0.062
"""Of a class's name."""
PLOT_WIDTH = PAGE_WIDTH - 0.5

GROUP = 0.86
"""Share of a class's place that its bars fill."""


class ClassBars(NamedTuple):
    """A class, or the mean over classes, and its score in every row."""

    name: str
    """As it is shown."""
    metric: str
    scores: tuple[tuple[float, ...], ...]
    """Per row of the table one value per replicate that has it, stored unit."""

    def summaries(self) -> list[Summary | None]:
        """Mean and standard deviation per row."""
        return [summarize(values) for values in self.scores]


def class_bars(results: Results, table: Table) -> list[ClassBars]:
    """The IoU of every class that occurs in the deciding split, then their mean.

    Raises:
        NotDrawn: No run has recorded the score of a class.
    """
    evidence, split = results.evidence(table.rows), results.plan.deciding_split(table)
    slugs = class_slugs(evidence.values(), split)
    if not slugs:
        raise NotDrawn(f"no complete run has recorded scores of single classes on {split}")
    found = []
    for name, shown in [*((f"{IOU}{slug}", slug.replace("_", " ")) for slug in slugs), (MEAN, "mean")]:
        values = (tuple(results.values(row, split=split, metric_name=name)) for row in table.rows)
        found.append(ClassBars(shown, name, tuple(values)))
    return found


def draw_class_bars(results: Results, table: Table) -> Sequence[Drawing]:
    """The bars of a table, on as many lines as they need to be read."""
    found, split = class_bars(results, table), results.plan.deciding_split(table)
    words = max(len(word) for bars in found for word in bars.name.split())
    per_class = max(MIN_BAR * len(table.rows) / GROUP, CHARACTER * words)
    lines = math.ceil(len(found) / max(1, int(PLOT_WIDTH / per_class)))
    length = math.ceil(len(found) / lines)
    labels = [
        wrapped(counted_label(row.label, n=len(results.runs(row)), expected=len(row.trial_ids)), 52)
        for row in table.rows
    ]
    columns = legend_columns(labels, narrow=False)
    with house_style():
        figure = new_figure(PAGE_WIDTH, PANEL_HEIGHT * lines + 0.3 + 0.17 * math.ceil(len(labels) / columns))
        grid = figure.subplots(lines, 1, squeeze=False, sharey=True)[:, 0]
        for i, axes in enumerate(grid):
            _draw_line(axes, found[i * length : (i + 1) * length], length=length)
            axes.set_ylabel(f"IoU ({metric(MEAN).unit})")
        grid[0].set_ylim(bottom=0)
        handles = [Patch(linewidth=0.5, **look._asdict()) for look in fills(len(labels))]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
        figure.set_layout_engine("constrained")
    notes = averaging_notes(results.evidence(table.rows), [split], [MEAN])
    spread = mean_words((len(row.trial_ids) for row in table.rows), mark="bar", spread="whisker")
    caption = f"IoU of every class on {split_label(split)}, and the mean over classes. {' '.join([spread, *notes])}"
    numbers = [
        (row.label, bars.name, bars.metric, split, s.mean, s.std, s.n, len(row.trial_ids))
        for bars in found
        for row, s in zip(table.rows, bars.summaries(), strict=True)
        if s is not None
    ]
    names = ["variant", "class", "metric", "split", "mean", "std", "n", "expected_n"]
    data = pd.DataFrame(numbers, columns=names)
    return [Drawing(f"class_bars_{table.name}", figure, data, caption, results.run_ids(table.rows))]


def _draw_line(axes: Axes, found: Sequence[ClassBars], *, length: int) -> None:
    scale = metric(MEAN).scale
    rows = len(found[0].scores)
    width = GROUP / rows
    for i, look in enumerate(fills(rows)):
        known = [(x, s) for x, bars in enumerate(found) if (s := bars.summaries()[i])]
        if not known:
            continue
        axes.bar(
            [x + width * (i - (rows - 1) / 2) for x, _ in known],
            [s.mean * scale for _, s in known],
            width,
            yerr=[np.nan if s.std is None else s.std * scale for _, s in known],
            error_kw={"elinewidth": 0.8, "capsize": min(1.5, 60 * width / length), "capthick": 0.8},
            linewidth=0.5,
            **look._asdict(),
        )
    axes.set_xticks(range(len(found)), [bars.name.replace(" ", "\n") for bars in found])
    axes.set_xlim(-0.5, length - 0.5)
    axes.tick_params(axis="x", length=0)
    light_grid(axes, "y")
