"""Curves with a band over replicates: precision over the IoU threshold, and scores over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.metrics import METRICS, metric
from harness.records import Row, Table
from reports.artifacts import NotDrawn
from reports.captions import split_label
from reports.drawing import Drawing, new_figure, wrapped
from reports.results import Results
from reports.style import COLUMN_WIDTH, PAGE_WIDTH, house_style, light_grid, series

THRESHOLDS = np.round(np.arange(0.0, 1.0, 0.02), 2)
LOSS = "train/loss"
LABEL = 48
"""Letters of a line of the legend: what one column of the page has room for, or half of both."""
BAND = "the band is the range over replicates"


class Curve(NamedTuple):
    """One variant: x, and a line per replicate."""

    label: str
    x: NDArray[np.float64]
    """`(X,)`."""
    y: NDArray[np.float64]
    """`(R, X)`, NaN where a replicate has no value."""
    run_ids: tuple[str, ...]


def precision_curves(results: Results, table: Table) -> list[Curve]:
    """Share of samples whose IoU reaches a threshold, per variant and replicate."""
    found = []
    for row in table.rows:
        tables = [(run, results.samples.ious(run, results.plan.deciding_split(table))) for run in results.runs(row)]
        kept = [(run, ious) for run, ious in tables if ious is not None and len(ious)]
        if kept:
            y = np.array([(ious.to_numpy()[:, None] >= THRESHOLDS).mean(0) for _, ious in kept])
            found.append(Curve(row.label, THRESHOLDS, y, tuple(run.run_id for run, _ in kept)))
    if not found:
        raise NotDrawn("no complete run has left a per-sample table")
    return found


def draw_precision_curve(results: Results, table: Table) -> Sequence[Drawing]:
    """Precision over thresholds, all variants of a table in one plot."""
    curves = precision_curves(results, table)
    split = results.plan.deciding_split(table)
    with house_style():
        figure = new_figure(COLUMN_WIDTH, 2.7 + 0.13 * sum(_legend_lines(curves)))
        axes = figure.add_subplot()
        _draw_curves(axes, curves, scale=100.0, mark_every=5)
        axes.set(xlim=(0, 1), ylim=(0, 100), xlabel="IoU threshold X", ylabel="P@X (%)")
        reported = [m.threshold for m in METRICS.values() if m.threshold is not None]
        axes.set_xticks([0, *reported, 1])
        light_grid(axes, "both")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1 if _long(curves) else 2)
        figure.set_layout_engine("constrained")
    caption = f"Share of samples with an IoU of at least X on {split_label(split)}; the line is the mean and {BAND}."
    return [_drawing(f"precision_curve_{table.name}", figure, {"p": curves}, "threshold", caption)]


def learning_curves(results: Results, rows: Sequence[Row], name: str) -> list[Curve]:
    """A learning curve per variant and replicate, epochs from 1."""
    found = []
    for row in rows:
        runs = [(run.run_id, results.sources.artifacts.curve(run.run_id, name)) for run in results.runs(row)]
        kept = [(run_id, curve) for run_id, curve in runs if curve]
        if kept:
            x = np.array(sorted({epoch for _, curve in kept for epoch in curve}))
            y = np.array([[curve.get(int(epoch), np.nan) for epoch in x] for _, curve in kept])
            found.append(Curve(row.label, x.astype(np.float64), y, tuple(run_id for run_id, _ in kept)))
    return found


def draw_learning_curves(results: Results, table: Table) -> Sequence[Drawing]:
    """Training loss and the primary metric on validation over epochs."""
    shown = metric(results.plan.primary_metric)
    score = f"val/{shown.name}"
    found = {name: learning_curves(results, table.rows, name) for name in (LOSS, score)}
    if not found[score]:
        raise NotDrawn(f"no complete run has the learning curve {score}")
    columns = 2 if _long(found[score]) else 4
    lines = _legend_lines(found[score])
    wrap = max(lines) * math.ceil(len(lines) / columns) if max(lines) > 1 else len(lines) / 2
    with house_style():
        figure = new_figure(PAGE_WIDTH, 2.5 + 0.14 * wrap)
        left, right = figure.subplots(1, 2)
        _draw_curves(left, found[LOSS], scale=1.0, mark_every=0)
        _draw_curves(right, found[score], scale=shown.scale, mark_every=0)
        left.set(xlabel="epoch", ylabel="training loss")
        right.set(xlabel="epoch", ylabel=f"{shown.label} on validation ({shown.unit})")
        for axes in (left, right):
            axes.locator_params(axis="x", integer=True)
            light_grid(axes, "y")
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        figure.set_layout_engine("constrained")
    caption = f"Training loss and {shown.label} on validation over epochs; the line is the mean and {BAND}."
    return [_drawing(f"learning_curves_{table.name}", figure, found, "epoch", caption)]


def _long(curves: Sequence[Curve]) -> bool:
    return max(len(c.label) for c in curves) > 22


def _legend_label(curve: Curve) -> str:
    count = f" (n={len(curve.y)})" if len(curve.y) > 1 else ""
    return wrapped(curve.label + count, LABEL)


def _legend_lines(curves: Sequence[Curve]) -> list[int]:
    return [_legend_label(curve).count("\n") + 1 for curve in curves]


def _draw_curves(axes: Axes, curves: Sequence[Curve], *, scale: float, mark_every: int) -> None:
    for look, curve in zip(series(len(curves)), curves, strict=True):
        y = curve.y * scale
        every = mark_every or max(1, len(curve.x) // 8)
        axes.plot(curve.x, np.nanmean(y, 0), **look._asdict(), markevery=every, label=_legend_label(curve))
        if len(y) > 1:
            axes.fill_between(curve.x, np.nanmin(y, 0), np.nanmax(y, 0), color=look.color, alpha=0.15, linewidth=0)


def _drawing(name: str, figure: Figure, curves: Mapping[str, Sequence[Curve]], x_name: str, caption: str) -> Drawing:
    lines = [
        (curve.label, what, run_id, x, y)
        for what, found in curves.items()
        for curve in found
        for run_id, values in zip(curve.run_ids, curve.y, strict=True)
        for x, y in zip(curve.x, values, strict=True)
    ]
    data = pd.DataFrame(lines, columns=["variant", "curve", "run_id", x_name, "value"])
    runs = dict.fromkeys(run for found in curves.values() for curve in found for run in curve.run_ids)
    return Drawing(name, figure, data, caption, tuple(runs))
