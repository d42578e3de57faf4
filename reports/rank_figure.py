"""Critical-difference diagram (Demšar 2006): mean ranks on an axis, bars joining what cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from harness.metrics import CLASS_MEASURES, metric
from harness.records import CONTROL_SUFFIX, Row, Table
from reports.artifacts import NotDrawn
from reports.captions import counted_label, join_words, replicates_words, split_label
from reports.comparison_notes import stated_p
from reports.drawing import Drawing, new_figure, wrapped
from reports.rank_blocks import Blocks, rank_blocks
from reports.ranks import MIN_BLOCKS, MIN_VARIANTS, Ranks, mean_ranks
from reports.results import Results
from reports.significance import ALPHA
from reports.style import COLUMN_WIDTH, INK, PAGE_WIDTH, house_style

LONG_LABEL = 16
"""Characters from which labels need both columns of the page."""

# inches
RULER, AXIS = 0.2, 0.52
LABEL_HEIGHT, LINE_HEIGHT = 0.19, 0.12
BAR_STEP = 0.06
ELBOW = 0.34
"""Between a label and the axis, for the rank beside it."""

SIDE = 0.29
"""Share of the width that the labels of one side take."""


def alike(mean: Sequence[float], *, critical_difference: float) -> list[tuple[int, ...]]:
    """Largest sets of variants, by position and from best to worst, none two of which can be told apart."""
    order = sorted(range(len(mean)), key=lambda i: mean[i])
    found: list[tuple[int, ...]] = []
    end = 0
    for start in range(len(order)):
        reach = [i for i in order[start:] if mean[i] - mean[order[start]] <= critical_difference]
        if len(reach) > 1 and start + len(reach) > end:
            found.append(tuple(reach))
            end = start + len(reach)
    return found


def ranked(results: Results, table: Table) -> tuple[Blocks, Ranks]:
    """The blocks of a table and the mean ranks of its rows on them.

    Raises:
        NotDrawn: Fewer than three rows or two complete blocks.
    """
    found = rank_blocks(results, table)
    better = metric(results.plan.deciding_metric(table)).higher_is_better
    ranks = mean_ranks([block.scores for block in found.blocks], higher_is_better=better)
    if ranks is None:
        complete = sum(None not in block.scores for block in found.blocks)
        raise NotDrawn(
            f"ranks take {MIN_VARIANTS} rows with scores and {MIN_BLOCKS} blocks (categories or classes of splits) on "
            f"which all of them have one; rows: {len(found.rows)}, such blocks: {complete}"
        )
    return found, ranks


def draw_ranks(results: Results, table: Table) -> Sequence[Drawing]:
    """The diagram of a table."""
    found, ranks = ranked(results, table)
    labels = [_label(results, row) for row in found.rows]
    sets = (
        alike(ranks.mean, critical_difference=ranks.critical_difference)
        if ranks.p < ALPHA
        else [tuple(sorted(range(len(labels)), key=lambda i: ranks.mean[i]))]
    )
    width = PAGE_WIDTH if max(map(len, labels)) > LONG_LABEL else COLUMN_WIDTH
    texts = [wrapped(label, 34 if width == PAGE_WIDTH else LONG_LABEL) for label in labels]
    with house_style():
        figure = _diagram(texts, ranks, sets, width=width)
    lines = [
        (block.label, block.metric, None not in block.scores, row.label, score)
        for block in found.blocks
        for row, score in zip(found.rows, block.scores, strict=True)
    ]
    data = pd.DataFrame(lines, columns=["block", "metric", "complete", "variant", "score"])
    data["mean_rank"] = data["variant"].map(dict(zip([r.label for r in found.rows], ranks.mean, strict=True)))
    data["critical_difference"], data["friedman_p"] = ranks.critical_difference, ranks.p
    caption = _caption(results, table, found, ranks)
    return [Drawing(f"ranks_{table.name}", figure, data, caption, results.run_ids(found.rows))]


def _label(results: Results, row: Row) -> str:
    return counted_label(row.label, n=len(results.runs(row)), expected=len(row.trial_ids))


def _diagram(labels: Sequence[str], ranks: Ranks, sets: Sequence[tuple[int, ...]], *, width: float) -> Figure:
    """Everything stands at inches from the upper left corner."""
    order = sorted(range(len(labels)), key=lambda i: ranks.mean[i])
    half = math.ceil(len(order) / 2)
    first = AXIS + 0.12 + BAR_STEP * len(sets)
    sides = [_heights([labels[i] for i in side], first) for side in (order[:half], order[half:][::-1])]
    figure = new_figure(width, max(bottom for _, bottom in sides) + 0.05)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(figure.get_figheight(), 0))
    axes.set_axis_off()
    margin = width * SIDE
    left, right = margin + ELBOW, width - margin - ELBOW

    def place(rank: float) -> float:
        return left + (right - left) * (rank - 1) / (len(labels) - 1)

    axes.plot([left, right], [AXIS, AXIS], color=INK, linewidth=0.8)
    for rank in range(1, len(labels) + 1):
        axes.plot([place(rank)] * 2, [AXIS - 0.05, AXIS], color=INK, linewidth=0.8)
        axes.text(place(rank), AXIS - 0.07, f"{rank}", ha="center", va="bottom", fontsize=7)
    beyond = " (longer than the axis)" if ranks.critical_difference > len(labels) - 1 else ""
    end = place(min(1 + ranks.critical_difference, len(labels)))
    axes.plot([left, end], [RULER, RULER], color=INK, linewidth=0.8, marker="|", markersize=4)
    axes.text(left, RULER - 0.04, f"CD = {ranks.critical_difference:.2f}{beyond}", va="bottom", fontsize=7)
    for j, members in enumerate(sets):
        ends = [place(min(ranks.mean[i] for i in members)) - 0.03, place(max(ranks.mean[i] for i in members)) + 0.03]
        axes.plot(ends, [AXIS + 0.07 + BAR_STEP * j] * 2, color=INK, linewidth=2.6, solid_capstyle="butt")
    for side, (heights, _), edge, align in zip(
        (order[:half], order[half:][::-1]), sides, (margin, width - margin), ("right", "left"), strict=True
    ):
        for i, y in zip(side, heights, strict=True):
            x, inwards = place(ranks.mean[i]), 1 if align == "right" else -1
            axes.plot([x, x, edge + 0.04 * inwards], [AXIS, y, y], color=INK, linewidth=0.7)
            axes.text(edge, y, labels[i], ha=align, va="center", fontsize=7)
            away = {"right": "left", "left": "right"}[align]
            axes.text(edge + 0.06 * inwards, y - 0.015, f"{ranks.mean[i]:.2f}", ha=away, va="bottom", fontsize=6)
    return figure


def _heights(labels: Sequence[str], first: float) -> tuple[list[float], float]:
    """Where the middle of each label stands, from top to bottom, and where the last one ends."""
    middles, y = [], first
    for label in labels:
        height = LABEL_HEIGHT + LINE_HEIGHT * label.count("\n")
        middles.append(y + height / 2)
        y += height
    return middles, y


def _caption(results: Results, table: Table, found: Blocks, ranks: Ranks) -> str:
    splits = join_words(split_label(split) for split in table.splits if not split.endswith(CONTROL_SUFFIX))
    datasets = dict.fromkeys(str(results.plan.trial(t).data.get("name")) for row in found.rows for t in row.trial_ids)
    score = _score_words(found, results.plan.deciding_metric(table))
    groups = {"category": "categories", "class": "classes"}.get(found.by)
    blocks = f"the {groups} of {splits}" if groups else splits
    lacking = f"; {ranks.left_out} more, in which a row has no score, are left out" if ranks.left_out else ""
    told = (
        f"Bars join rows that cannot be told apart (Nemenyi's test, critical difference CD = "
        f"{ranks.critical_difference:.2f}, 5 %; Friedman's test, {stated_p(ranks.p)})."
        if ranks.p < ALPHA
        else f"Friedman's test finds no difference ({stated_p(ranks.p)}), so that all are joined; CD is Nemenyi's "
        "critical difference, 5 %."
    )
    missing = f" Not ranked, without a score: {join_words(row.label for row in found.absent)}." if found.absent else ""
    replicates = replicates_words(len(row.trial_ids) for row in found.rows)
    return (
        f"Mean ranks by {score}, 1 is best, over {ranks.blocks} blocks: {blocks} of {join_words(datasets)}{lacking}. "
        f"In a block a row stands for its mean over {replicates}. {told} Blocks of one dataset share images and "
        "trained weights and are not independent, as both tests take them to be: they show consistency over blocks, "
        f"not that training again would agree.{missing}"
    )


def _score_words(found: Blocks, name: str) -> str:
    """By what blocks are scored: single classes by the measure that the metric is a mean of."""
    labels = dict.fromkeys(
        CLASS_MEASURES[block.metric.partition(".")[0]] if "." in block.metric else metric(name).label
        for block in found.blocks
    )
    return join_words(labels)
