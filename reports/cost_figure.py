"""Score over cost, and the rows that no other row beats at no more cost (the Pareto front).

What a model costs (multiply-adds, parameters) is one figure; what running it took on the machines at hand (latency,
GPU-hours of training) is another, where it was recorded.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from harness.metrics import Metric, metric
from harness.records import Row, Table
from reports.artifacts import NotDrawn
from reports.captions import counted_label, mean_words, split_label
from reports.costs import recorded_cost
from reports.drawing import Drawing, most_lines, new_figure, wrapped
from reports.results import Results
from reports.stats import Summary, summarize
from reports.style import COLUMN_WIDTH, FAINT, PAGE_WIDTH, house_style, legend_columns, light_grid, points

MIN_ROWS = 2
"""Fewer rows have nothing to be compared with."""

LOG_FROM = 10.0
"""Costs whose largest is more than so many times the smallest stand on a logarithmic axis."""

COLUMNS = ("variant", "cost", "value", "split", "metric", "mean", "std", "n", "expected_n", "on_front")


class CostAxis(NamedTuple):
    """A recorded cost and how it is drawn."""

    name: str
    """As it is stored."""
    label: str
    scale: float = 1.0
    """Factor from the stored value to the drawn one."""


MODEL_COSTS = (
    CostAxis("gmacs", "multiply-adds per sample (10⁹)"),
    CostAxis("parameters", "parameters (10⁶)", 1e-6),
)
MACHINE_COSTS = (CostAxis("latency_ms", "latency (ms per sample)"), CostAxis("gpu_hours", "GPU-hours of one training"))


class Point(NamedTuple):
    """One row: what it costs and how well it does."""

    position: int
    """Of the row in its table."""
    row: Row
    cost: float
    """Mean over replicates, stored unit."""
    score: Summary
    on_front: bool
    """Whether no other row is at least as good at no more cost, and better in one of the two."""


class Panel(NamedTuple):
    """All rows over one cost."""

    axis: CostAxis
    points: tuple[Point, ...]


def on_front(places: Sequence[tuple[float, float]], *, higher_is_better: bool = True) -> list[bool]:
    """Which of (cost, score) no other one dominates; of equal ones, all or none."""
    sign = 1 if higher_is_better else -1

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b

    return [not any(beats(other, place) for other in places) for place in places]


def cost_panels(results: Results, table: Table, axes: Sequence[CostAxis]) -> list[Panel]:
    """A panel for each of some costs that at least two scored rows have recorded, and that is not 0 for all."""
    better = metric(results.plan.deciding_metric(table)).higher_is_better
    panels = []
    for axis in axes:
        found = [(i, row, *known) for i, row in enumerate(table.rows) if (known := _known(results, table, row, axis))]
        if len(found) < MIN_ROWS or not any(cost for _, _, cost, _ in found):
            continue
        front = on_front([(cost, score.mean) for _, _, cost, score in found], higher_is_better=better)
        panels.append(Panel(axis, tuple(Point(*known, on) for known, on in zip(found, front, strict=True))))
    return panels


def draw_cost(results: Results, table: Table) -> Sequence[Drawing]:
    """The figure of the models' costs and, where they were recorded, that of the machines'."""
    models, machines = (cost_panels(results, table, axes) for axes in (MODEL_COSTS, MACHINE_COSTS))
    if not models and not machines:
        raise NotDrawn(f"it takes at least {MIN_ROWS} rows with a score and a recorded cost")
    found = []
    if models:
        found.append(_drawing(results, table, models, name=f"cost_{table.name}", note=""))
    if machines:
        note = " Times are those of the machines that ran the trials: compare them only where those were the same."
        found.append(_drawing(results, table, machines, name=f"cost_time_{table.name}", note=note))
    return found


def _known(results: Results, table: Table, row: Row, axis: CostAxis) -> tuple[float, Summary] | None:
    costs = recorded_cost(row, results.evidence([row]), axis.name)
    split, name = results.plan.deciding_split(table), results.plan.deciding_metric(table)
    score = summarize(results.values(row, split=split, metric_name=name))
    return (statistics.fmean(costs.values()), score) if costs and score else None


def _drawing(results: Results, table: Table, panels: Sequence[Panel], *, name: str, note: str) -> Drawing:
    shown, split = metric(results.plan.deciding_metric(table)), results.plan.deciding_split(table)
    rows = {point.position: point for panel in panels for point in panel.points}
    labels = {
        i: wrapped(counted_label(p.row.label, n=p.score.n, expected=len(p.row.trial_ids)), 52)
        for i, p in sorted(rows.items())
    }
    narrow = len(panels) == 1
    columns = legend_columns(list(labels.values()), narrow=narrow)
    lines = most_lines(labels.values())
    legend = (0.17 + 0.12 * (lines - 1)) * math.ceil(len(labels) / columns)
    looks = points(len(table.rows))
    with house_style():
        figure = new_figure(COLUMN_WIDTH if narrow else PAGE_WIDTH, 2.3 + legend)
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            _draw_panel(axes, panel, looks, shown)
        grid[0].set_ylabel(f"{shown.label} ({shown.unit})")
        handles = [_handle(*looks[i]) for i in labels]
        figure.legend(handles, list(labels.values()), loc="outside lower center", ncols=columns, handlelength=1.2)
        figure.set_layout_engine("constrained", w_pad=0.06)
    spread = mean_words((len(row.trial_ids) for row in table.rows), mark="point", spread="bar")
    caption = (
        f"{shown.label} on {split_label(split)} over cost. Filled: no other row is at least as good at no more cost; "
        f"the line is the best score that a cost buys. Open: another row is. {spread} The front goes by means and "
        f"is no test.{note}"
    )
    runs = results.run_ids(point.row for point in rows.values())
    return Drawing(name, figure, _numbers(panels, shown.name, split), caption, runs)


def _draw_panel(axes: Axes, panel: Panel, looks: Sequence[tuple[str, str]], shown: Metric) -> None:
    for point in panel.points:
        color, marker = looks[point.position]
        x, y = point.cost * panel.axis.scale, point.score.mean * shown.scale
        bar = (point.score.std or math.nan) * shown.scale
        axes.errorbar(x, y, yerr=bar, color=color, elinewidth=0.8, capsize=1.5, capthick=0.8, zorder=3)
        face = color if point.on_front else "white"
        axes.plot([x], [y], color=color, marker=marker, mfc=face, mec=color, markersize=5, zorder=4)
    front = sorted({(p.cost * panel.axis.scale, p.score.mean * shown.scale) for p in panel.points if p.on_front})
    axes.step(*zip(*front, strict=True), where="post", color=FAINT, linewidth=1.0, zorder=2)
    costs = [p.cost * panel.axis.scale for p in panel.points]
    if min(costs) > 0 and max(costs) > LOG_FROM * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(panel.axis.label)
    axes.margins(x=0.08)
    light_grid(axes, "both")


def _handle(color: str, marker: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="", markersize=5)


def _count(point: Point) -> tuple[int, int]:
    return point.score.n, len(point.row.trial_ids)


def _numbers(panels: Sequence[Panel], name: str, split: str) -> pd.DataFrame:
    lines = [
        (p.row.label, panel.axis.name, p.cost, split, name, p.score.mean, p.score.std, *_count(p), p.on_front)
        for panel in panels
        for p in panel.points
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))
