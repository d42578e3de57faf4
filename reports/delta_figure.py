"""Forest of differences to the reference: a row per variant, a point per replicate, a mark at the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from harness.metrics import metric
from harness.records import Row, Table
from reports.artifacts import FigureRequest, NotDrawn
from reports.captions import split_label
from reports.drawing import Drawing, new_figure
from reports.stats import paired_differences
from reports.style import COLUMN_WIDTH, FAINT, INK, house_style, light_grid

ROW_HEIGHT = 0.24
"""Inches."""


class Differences(NamedTuple):
    """Differences of one variant to the reference."""

    label: str
    values: tuple[float, ...]
    """One per replicate that both have, stored unit."""
    expected: int
    """Replicates that the plan asks for."""


def differences(request: FigureRequest, table: Table) -> list[Differences]:
    """Paired differences of the primary metric to the reference, for every other row of a table.

    Raises:
        NotDrawn: There is no reference, or no replicate that it shares with another row.
    """
    reference = request.plan.reference()
    if reference is None:
        raise NotDrawn("no table trains the reference, so there is nothing to take differences to")
    others = [row for row in table.rows if not row.is_reference]
    evidence = request.evidence([*others, reference])
    key = (request.plan.deciding_split(table), request.plan.primary_metric)

    def values(row: Row) -> list[float | None]:
        return [evidence[t].scores.get(key) if t in evidence else None for t in row.trial_ids]

    found = [
        Differences(row.label, tuple(paired_differences(values(row), values(reference))), len(row.trial_ids))
        for row in others
    ]
    if not any(d.values for d in found):
        raise NotDrawn("no replicate is complete in both the reference and another row")
    return found


def draw_delta(request: FigureRequest, table: Table) -> Sequence[Drawing]:
    """The forest of a table."""
    found = differences(request, table)
    shown, split = metric(request.plan.primary_metric), request.plan.deciding_split(table)
    with house_style():
        figure = new_figure(COLUMN_WIDTH, 0.75 + ROW_HEIGHT * len(found))
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8)
        for y, line in enumerate(found):
            points = [v * shown.scale for v in line.values]
            if not points:
                axes.annotate("no pair", (0, y), (4, 0), textcoords="offset points", va="center", color=FAINT)
                continue
            mean = sum(points) / len(points)
            axes.plot([min(points), max(points)], [y, y], color=FAINT, linewidth=2.4, solid_capstyle="butt", zorder=2)
            axes.plot(points, [y] * len(points), "o", mfc="white", mec=INK, mew=0.7, markersize=3.6, zorder=3)
            axes.plot([mean], [y], "D", color=INK, markersize=4.6, zorder=4)
        axes.set_yticks(range(len(found)), [_label(line) for line in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlabel(f"Δ {shown.label} to the reference ({shown.delta_unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        light_grid(axes, "x")
        figure.set_layout_engine("constrained")
    lines = [(line.label, split, shown.name, i, v) for line in found for i, v in enumerate(line.values)]
    data = pd.DataFrame(lines, columns=["variant", "split", "metric", "pair", "delta"])
    reference = request.plan.reference()
    label = reference.label if reference else ""
    caption = (
        f"Difference in {shown.label} to the reference, “{label}”, on {split_label(split)}. A circle is one replicate, "
        "paired with the same replicate of the reference; the diamond is their mean, the bar their range."
    )
    rows = [*table.rows, *([reference] if reference else [])]
    runs = tuple(dict.fromkeys(run.run_id for row in rows for run in request.runs(row)))
    return [Drawing(f"delta_{table.name}", figure, data, caption, runs)]


def _label(line: Differences) -> str:
    return line.label if len(line.values) == line.expected else f"{line.label} (n={len(line.values)}/{line.expected})"
