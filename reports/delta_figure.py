"""Forest of differences to the reference: a row per variant, a point per replicate, the mean with its interval.

Means, intervals and tests are those of the table's column of differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from harness.metrics import Metric, metric
from harness.records import Row, Table
from reports.artifacts import NotDrawn
from reports.captions import counted_label, replicates_words, split_label
from reports.comparison_notes import tests_on
from reports.comparisons import Judged, Shown, judge_deltas
from reports.drawing import Drawing, new_figure, wrapped
from reports.results import Results
from reports.row_scores import difference
from reports.style import COLUMN_WIDTH, FAINT, INK, house_style, light_grid

# inches
ROW_HEIGHT = 0.27
"""Of a row whose label has up to two lines."""
LINE_HEIGHT = 0.12
"""Of every further line."""

ASIDE = 0.24
"""By how much of a row circles stand below the mean, which would hide them."""

COLUMNS = ("variant", "split", "metric", "replicate", "delta", "mean", "low", "high", "p", "n", "expected_n")
"""Of the CSV: a line per replicate that both sides have; from `mean` on what concerns the variant."""


class Difference(NamedTuple):
    """Difference of one variant to the reference, stored unit."""

    row: Row
    replicates: tuple[int, ...]
    """Those that both have."""
    values: tuple[float, ...]
    """One for each of them."""
    judged: Judged | None
    """None without a replicate."""

    @property
    def differs(self) -> bool:
        """Whether it can be told from 0."""
        return self.judged is not None and self.judged.differs

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean; None for fewer than two replicates."""
        return self.judged.comparison.interval if self.judged else None


def differences(results: Results, table: Table) -> list[Difference]:
    """Paired differences of the deciding metric to the reference, for every other row of a table.

    Raises:
        NotDrawn: There is no reference, or no replicate that it shares with another row.
    """
    reference = results.plan.reference(table)
    if reference is None:
        raise NotDrawn("no table trains the reference, so there is nothing to take differences to")
    scores = results.scores
    split, name = results.plan.deciding_split(table), results.plan.deciding_metric(table)
    judged = judge_deltas(table, reference, scores, metric_name=name)
    theirs = scores.of(reference, split=split, metric_name=name)
    found = []
    for row in (row for row in table.rows if row.trial_ids != reference.trial_ids):
        ours = scores.of(row, split=split, metric_name=name)
        paired = difference(ours, theirs)
        shared = [place for place in ours.replicates if place in theirs.replicates] if ours and theirs else []
        values = tuple(paired.values.tolist()) if paired else ()
        found.append(Difference(row, tuple(shared), values, judged.get(Shown(row.variant, split, name))))
    if not any(d.values for d in found):
        raise NotDrawn("no replicate is complete in both the reference and another row")
    return found


def draw_delta(results: Results, table: Table) -> Sequence[Drawing]:
    """The forest of a table."""
    found = differences(results, table)
    shown, split = metric(results.plan.deciding_metric(table)), results.plan.deciding_split(table)
    labels = [wrapped(counted_label(d.row.label, n=len(d.values), expected=len(d.row.trial_ids))) for d in found]
    height = ROW_HEIGHT + LINE_HEIGHT * max(0, *(label.count("\n") - 1 for label in labels))
    with house_style():
        figure = new_figure(COLUMN_WIDTH, 0.75 + height * len(found))
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8)
        _draw_rows(axes, found, scale=shown.scale)
        axes.set_yticks(range(len(found)), labels)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlabel(f"Δ {shown.label} ({shown.delta_unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        light_grid(axes, "x")
        figure.set_layout_engine("constrained")
    reference = results.plan.reference(table)
    rows = [*table.rows, *([reference] if reference else [])]
    caption = _caption(found, shown, label=reference.label if reference else "", split=split)
    return [Drawing(f"delta_{table.name}", figure, _numbers(found, shown.name, split), caption, results.run_ids(rows))]


def _draw_rows(axes: Axes, found: Sequence[Difference], *, scale: float) -> None:
    lines = list(enumerate(found))
    for y, line in lines:
        if not line.values:
            axes.annotate("no pair", (0, y), (4, 0), textcoords="offset points", va="center", color=FAINT)
    bars = [(y, *line.interval) for y, line in lines if line.interval]
    lows, highs = [scale * low for _, low, _ in bars], [scale * high for _, _, high in bars]
    places = [y for y, _, _ in bars]
    axes.hlines(places, lows, highs, color=INK, linewidth=1.0, zorder=2)
    axes.plot([*lows, *highs], [*places, *places], "|", color=INK, markersize=5, zorder=2)
    points = [(scale * value, y + ASIDE) for y, line in lines for value in line.values]
    _draw_points(axes, points, "o", mfc="white", mec=FAINT, mew=0.7, markersize=3.4, zorder=3)
    for differs, face in ((True, INK), (False, "white")):
        means = [(scale * fmean(d.values), y) for y, d in lines if d.values and d.differs is differs]
        _draw_points(axes, means, "D", mfc=face, mec=INK, mew=0.9, markersize=4.8, zorder=4)


def _draw_points(axes: Axes, points: Sequence[tuple[float, float]], marker: str, **look: Any) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], marker, **look)


def _caption(found: Sequence[Difference], shown: Metric, *, label: str, split: str) -> str:
    tested = [d.judged for d in found if d.judged and d.judged.p is not None]
    parts = [
        f"Difference in {shown.label} to the reference, “{label}”, on {split_label(split)}, "
        f"{replicates_words([len(d.row.trial_ids) for d in found])}. A circle is one replicate, paired with the same "
        "replicate of the reference; a diamond is their mean."
    ]
    if not tested:
        return f"{parts[0]} No row has two pairs, so there is no interval and no test."
    over = tests_on(judged.comparison for judged in tested)
    parts.append(
        f"Bars are the 95 % intervals of the table: Student's t over {over}, with the spread pooled over rows. A "
        "filled diamond differs from the reference, an open one cannot be told from it (paired t test, Holm's "
        "correction over all differences of the table, 5 %)."
    )
    if any(len(d.values) == 1 for d in found):
        parts.append("One pair has neither interval nor test.")
    return " ".join(parts)


def _numbers(found: Sequence[Difference], name: str, split: str) -> pd.DataFrame:
    lines = []
    for d in found:
        mean = fmean(d.values) if d.values else None
        low, high = d.interval or (None, None)
        about = (mean, low, high, d.judged.p if d.judged else None, len(d.values), len(d.row.trial_ids))
        lines += [(d.row.label, split, name, r, v, *about) for r, v in zip(d.replicates, d.values, strict=True)]
    return pd.DataFrame(lines, columns=list(COLUMNS))
