"""What each part of a method contributes: up a ladder of parts (`waterfall`), and over all orders (`shapley`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pandas as pd

from harness.metrics import metric
from harness.records import Table
from reports.artifacts import OtherDesign
from reports.bars import Bar, draw_bars
from reports.captions import replicates_words, split_label
from reports.comparison_notes import rests_on, tests_on
from reports.comparisons import Judged, judge, pool
from reports.drawing import Drawing
from reports.factorial import Factorial
from reports.factors import complete, factorial, full_factorial, level_text
from reports.results import Results
from reports.row_scores import RowScore, difference
from reports.significance import ALPHA, holm_known
from reports.table_model import TEST_MARKS, Flag

LADDER = "cumulative"
"""The design whose rows each add to the one before."""

SWITCHED = "all of them off to all on"
ARROWS = "all of them off, or at the left of their arrow, to all on, or at its right"

MARKS_MEAN = "* differs from 0, n.s. cannot be told from it"


@dataclass(frozen=True)
class Ladder:
    """Scores of a cumulative table, over the replicates that every row has."""

    labels: tuple[str, ...]
    scores: tuple[RowScore, ...]
    """From the start to the end."""
    steps: tuple[Judged, ...]
    """Each row but the first less the one before it; all steps are one family."""
    left_out: int
    """Replicates that not every row has."""


def ladder(results: Results, table: Table) -> Ladder:
    """What every step of a cumulative design adds.

    Raises:
        OtherDesign: The rows are no ladder.
        NotDrawn: No replicate is complete in every row.
    """
    if table.design != LADDER:
        raise OtherDesign(f"it takes rows that each add to the one before (design: {LADDER})")
    scores, left_out = complete(results, table)
    pooled = pool(scores)
    judged = judge([(difference(above, below), pooled) for below, above in pairwise(scores)])
    labels = tuple(row.label for row in table.rows)
    return Ladder(labels, scores, tuple(j for j in judged if j is not None), left_out)


def draw_waterfall(results: Results, table: Table) -> Sequence[Drawing]:
    """From the first row of a cumulative table to its last, a bar for what each step adds."""
    found = ladder(results, table)
    shown, split = metric(results.plan.deciding_metric(table)), results.plan.deciding_split(table)
    means = [score.found.mean for score in found.scores]
    bars = [Bar(found.labels[0], None, means[0], is_total=True)]
    for label, below, step in zip(found.labels[1:], means, found.steps, strict=False):
        bars.append(Bar(label, below, step.comparison.difference, step.comparison.interval, _mark(step.p)))
    bars.append(Bar("all", None, means[-1], is_total=True))
    replicates = len(found.scores[0].replicates)
    caption = (
        f"{shown.label} on {split_label(split)} as parts are added one after the other, "
        f"{_over(replicates, found.left_out)}. A bar in between is the mean difference to the row above, paired by "
        "replicate; hatched bars are losses. What a part adds depends on the order. The axis does not begin at 0."
    )
    if replicates > 1:
        rest = tests_on(step.comparison for step in found.steps)
        caption += (
            f" Whiskers are 95 % intervals of differences: Student's t over {rest}, with the spread pooled over all "
            f"pairs of rows; {MARKS_MEAN} (Holm's correction over all steps, 5 %)."
        )
    what = ["start", *(["step"] * len(found.steps)), "end"]
    ps = [None, *(step.p for step in found.steps), None]
    data = _numbers(bars, what, ps, {"split": split, "metric": shown.name, "n": replicates, "left_out": found.left_out})
    figure = draw_bars(bars, shown, x_label=f"{shown.label} ({shown.unit})")
    return [Drawing(f"waterfall_{table.name}", figure, data, caption, results.run_ids(table.rows))]


def draw_shapley(results: Results, table: Table) -> Sequence[Drawing]:
    """Each component's share of the whole gain, where every subset of components was trained."""
    design = full_factorial(results.plan, table)
    many = [name for name, levels in design.factors.items() if len(levels) != 2]
    if many:
        raise OtherDesign(f"shares are of components that are on or off; {many[0]} has more than two levels")
    scores, left_out = complete(results, table)
    found = factorial(design, scores)
    shown, split = metric(results.plan.deciding_metric(table)), results.plan.deciding_split(table)
    shares, gain = found.shapley(), found.gain()
    corrected = holm_known([e.p for e in shares])
    labels = [_component(name, found.factors[name]) for e in shares for name in e.name]
    bars = [
        Bar(label, 0.0, e.value, e.interval, _mark(p)) for label, e, p in zip(labels, shares, corrected, strict=True)
    ]
    bars.append(Bar("all components", 0.0, gain.value, gain.interval, is_total=True))
    is_switched = labels == list(found.factors)
    gain_of = f"{shown.label} on {split_label(split)} from " + (SWITCHED if is_switched else ARROWS)
    caption = _shapley_caption(found, gain_of, left_out)
    what, ps = ["share"] * len(shares) + ["gain"], [*corrected, gain.p]
    about: dict[str, str | int] = {"split": split, "metric": shown.name}
    about |= {"n": found.replicates, "left_out": left_out}
    figure = draw_bars(bars, shown, x_label=f"share of the gain in {shown.label} ({shown.delta_unit})")
    return [
        Drawing(f"shapley_{table.name}", figure, _numbers(bars, what, ps, about), caption, results.run_ids(table.rows))
    ]


def _shapley_caption(found: Factorial, what: str, left_out: int) -> str:
    text = (
        f"Share of each component in the gain in {what}: what it adds, averaged over "
        f"all orders of adding (Shapley 1953), from all {len(found.settings)} subsets, "
        f"{_over(found.replicates, left_out)}. Shares add up to the gain; hatched bars are losses."
    )
    if found.replicates < 2:
        return text
    over = rests_on([(found.on_samples, found.blocked)])
    return (
        f"{text} Whiskers are 95 % intervals over {over}: least squares with a level per "
        f"subset and a block per replicate; {MARKS_MEAN} (Holm's correction over components, 5 %)."
    )


def _component(name: str, levels: Sequence[str]) -> str:
    """A component that is off, then on, by its name; of others both levels are said."""
    words = [level_text(level) for level in levels]
    return name if words == ["off", "on"] else f"{name}: {' → '.join(words)}"


def _mark(p: float | None) -> str:
    return "" if p is None else TEST_MARKS[Flag.DIFFERS if p < ALPHA else Flag.NOT_SIGNIFICANT]


def _over(replicates: int, left_out: int) -> str:
    total = replicates + left_out
    lost = f" (n={replicates}/{total}: replicates that not every row has are left out)" if left_out else ""
    return f"{replicates_words([replicates])}{lost}"


def _numbers(
    bars: Sequence[Bar], what: Sequence[str], ps: Sequence[float | None], about: Mapping[str, str | int]
) -> pd.DataFrame:
    lines = [
        (bar.label, kind, bar.value, *(bar.interval or (None, None)), p)
        for bar, kind, p in zip(bars, what, ps, strict=True)
    ]
    data = pd.DataFrame(lines, columns=["label", "what", "value", "low", "high", "p"])
    for name, value in about.items():
        data[name] = value
    return data
