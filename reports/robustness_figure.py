"""How a score falls as one modality is disturbed: a panel per disturbance, a line per variant.

Scores are those of the stress splits: the same trained weights, tested on a modality that is shifted, noisy or replaced
by its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.metrics import metric
from harness.records import Stress, Table
from reports.artifacts import NotDrawn
from reports.captions import split_label
from reports.drawing import Drawing, most_lines, new_figure, wrapped
from reports.evidence import Evidence
from reports.results import Results
from reports.stats import Summary, summarize
from reports.style import COLUMN_WIDTH, PAGE_WIDTH, Series, house_style, legend_columns, light_grid, series

BASE = "test"
"""The split that is disturbed."""

MAX_COLUMNS = 3
PANEL_HEIGHT = 2.0
"""Inches."""

KINDS = ("shift", "noise", "drop")
"""Order of the panels; kinds that are not listed come last."""


class Point(NamedTuple):
    """One variant at one level."""

    level: float
    """0 is undisturbed; 1 is dropped."""
    split: str
    values: tuple[float, ...]
    """One per replicate that has the score, stored unit."""
    run_ids: tuple[str, ...]

    @property
    def summary(self) -> Summary:
        """Mean and standard deviation over replicates."""
        found = summarize(self.values)
        if found is None:
            raise ValueError("a point must have at least one value, it has none")
        return found


class Line(NamedTuple):
    """One variant under one disturbance."""

    label: str
    points: tuple[Point, ...]
    """By level, the undisturbed one first."""


class Panel(NamedTuple):
    """One way to disturb one modality."""

    kind: str
    modality: str
    lines: tuple[Line, ...]


def robustness(results: Results, table: Table) -> list[Panel]:
    """The primary metric of every row under every disturbance that was recorded.

    Raises:
        NotDrawn: No complete run has the metric on a stress split.
    """
    evidence = results.evidence(table.rows)
    name = results.plan.primary_metric
    recorded = {split for e in evidence.values() for split, found in e.scores if found == name}
    stresses = {split: stress for split in recorded if (stress := Stress.of_split(split))}
    if not stresses:
        raise NotDrawn(
            f"no complete run has {name} on a disturbed {BASE} split; ask for some with evaluate.stress in the study"
        )
    ways = sorted({(s.kind, s.modality) for s in stresses.values()}, key=_panel_order)
    panels = []
    for kind, modality in ways:
        mine = [
            (1.0 if kind == "drop" else s.level, x)
            for x, s in stresses.items()
            if (s.kind, s.modality) == (kind, modality)
        ]
        levels = sorted([(0.0, BASE), *mine])
        lines = [Line(r.label, _points(r.trial_ids, evidence, levels, name)) for r in table.rows]
        panels.append(Panel(kind, modality, tuple(lines)))
    return panels


def draw_robustness(results: Results, table: Table) -> Sequence[Drawing]:
    """One figure of all disturbances."""
    panels = robustness(results, table)
    shown = metric(results.plan.primary_metric)
    rows = math.ceil(len(panels) / MAX_COLUMNS)
    columns = math.ceil(len(panels) / rows)
    looks = series(len(table.rows))
    width = 48 if columns == 1 else 100
    labels = [wrapped(row.label, width) for row in table.rows]
    num_columns = legend_columns(labels, narrow=columns == 1)
    lines = most_lines(labels)
    legend = (0.16 + 0.12 * (lines - 1)) * math.ceil(len(labels) / num_columns)
    with house_style():
        figure = new_figure(COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, PANEL_HEIGHT * rows + legend)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, looks, shown.scale)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(f"{shown.label} ({shown.unit})")
        _add_legend(figure, grid.flat[0], columns=num_columns, width=width)
        figure.set_layout_engine("constrained", w_pad=0.06)
    caption = (
        f"{shown.label} on {split_label(BASE)} when one modality is disturbed at test time; 0 is undisturbed. "
        "A shift moves the modality to the right, noise is Gaussian in units of its standard deviation, and a modality "
        "left out is replaced by its mean. The line is the mean over replicates, the bar one standard deviation."
    )
    runs = dict.fromkeys(r for p in panels for line in p.lines for point in line.points for r in point.run_ids)
    return [Drawing(f"robustness_{table.name}", figure, _numbers(panels, shown.name), caption, tuple(runs))]


def _points(
    trial_ids: Sequence[str], evidence: dict[str, Evidence], levels: Sequence[tuple[float, str]], name: str
) -> tuple[Point, ...]:
    points = []
    for level, split in levels:
        scored = [evidence[t] for t in trial_ids if t in evidence and (split, name) in evidence[t].scores]
        if scored:
            values = tuple(e.scores[split, name] for e in scored)
            points.append(Point(level, split, values, tuple(e.run_id for e in scored)))
    return tuple(points)


def _panel_order(way: tuple[str, str]) -> tuple[int, str, str]:
    kind, modality = way
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind, modality)


def _draw_panel(axes: Axes, panel: Panel, looks: Sequence[Series], scale: float) -> None:
    levels = sorted({point.level for line in panel.lines for point in line.points})
    steps = [b - a for a, b in pairwise(levels)]
    spread = 0.12 * min(steps, default=1.0)
    for i, (look, line) in enumerate(zip(looks, panel.lines, strict=True)):
        if not line.points:
            continue
        # side by side, so that bars of equal level do not hide each other
        aside = spread * ((i + 0.5) / len(panel.lines) - 0.5)
        x = [point.level + aside for point in line.points]
        y = [point.summary.mean * scale for point in line.points]
        bars = [(point.summary.std or math.nan) * scale for point in line.points]
        axes.errorbar(x, y, yerr=bars, **look._asdict(), elinewidth=0.8, capsize=1.5, capthick=0.8, label=line.label)
    if panel.kind == "drop":
        axes.set_xticks([0, 1], [f"with {panel.modality}", f"without {panel.modality}"])
        axes.set_xlim(-0.25, 1.25)
    else:
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
    unit = {"shift": f"shift of {panel.modality} (px)", "noise": f"noise on {panel.modality} (std)"}
    axes.set_xlabel(unit.get(panel.kind, "" if panel.kind == "drop" else f"{panel.kind} of {panel.modality}"))
    light_grid(axes, "y")


def _add_legend(figure: Figure, axes: Axes, *, columns: int, width: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, [wrapped(label, width) for label in labels], loc="outside lower center", ncols=columns)


def _numbers(panels: Sequence[Panel], name: str) -> pd.DataFrame:
    lines = [
        (line.label, panel.kind, panel.modality, point.level, point.split, name, run_id, value)
        for panel in panels
        for line in panel.lines
        for point in line.points
        for run_id, value in zip(point.run_ids, point.values, strict=True)
    ]
    return pd.DataFrame(lines, columns=["variant", "kind", "modality", "level", "split", "metric", "run_id", "value"])
