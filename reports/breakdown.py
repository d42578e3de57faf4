"""Scores by group: of samples, by category, by size of the object, by length of the sentence; or by class.

A row is a group, a column a variant; within a group a score is computed per replicate, as it is for the whole split,
and shown as mean ± std over replicates.

Sizes are shares of the image, not COCO's pixel counts (32² and 96²): shares stay the same when images are resized, and
mean the same for datasets of different ground resolution. At stride 32, the coarsest map of every backbone here, an
image of 480 pixels has 225 cells: below 1 % an object covers about two cells or fewer, above 5 % eleven or more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.metrics import metric, referring_scores
from harness.records import CONTROL_SUFFIX, Table
from reports.artifacts import NotDrawn
from reports.breakdown_parts import Breakdown, breakdown_csv, breakdown_name, counted_cells, group_aggregation
from reports.captions import metric_head, split_label
from reports.cells import ranked_scores
from reports.class_breakdown import CLASS, build_class_breakdown
from reports.comparison_notes import tested_on
from reports.cost_breakdown import COST, build_cost_breakdown
from reports.costs import SPLIT
from reports.evidence import Evidence
from reports.results import Results, distinct_tables
from reports.row_scores import RowScores
from reports.table_model import Block, Column, TableModel, TableRow

METRICS = ("miou", "oiou", "p50")


class Grouping(NamedTuple):
    """A way to group samples."""

    stub: str
    """Head of the column of groups."""
    caption: str
    assign: Callable[[pd.DataFrame], pd.Series[str]]
    """Per-sample table -> group of each sample; missing for a sample that belongs to none."""
    order: tuple[str, ...] = ()
    """Groups from top to bottom; alphabetical where empty."""


SIZES = ("small (< 1 %)", "medium (1–5 %)", "large (> 5 %)")
LENGTHS = ("1–4 words", "5–8 words", "9 or more words")


def object_size(table: pd.DataFrame) -> pd.Series[str]:
    """Group by the share of the image that the ground truth covers; an empty mask belongs to no size."""
    share = table["area"] / (table["height"] * table["width"])
    # 1 % itself is medium, and so is 5 %
    place = np.where(share < 0.01, 0, np.where(share <= 0.05, 1, 2))
    return pd.Series(np.array(SIZES)[place], index=table.index).where(table["area"] > 0)


def sentence_length(table: pd.DataFrame) -> pd.Series[str]:
    """Group by the number of words between white space."""
    words = table["sentence"].map(lambda sentence: len(sentence.split()))
    place = np.where(words <= 4, 0, np.where(words <= 8, 1, 2))
    return pd.Series(np.array(LENGTHS)[place], index=table.index)


GROUPINGS: Mapping[str, Grouping] = {
    "category": Grouping("Category", "by category of the object", lambda table: table["category"]),
    "size": Grouping("Object size", "by share of the image that the object covers", object_size, SIZES),
    "length": Grouping("Sentence", "by number of words in the sentence", sentence_length, LENGTHS),
}
"""Name in `report.breakdowns` -> grouping."""


def build_breakdowns(results: Results) -> tuple[list[Breakdown], list[str]]:
    """The break-downs that the plan asks for, one per table and split, and a note for each that cannot be made."""
    made, notes = [], []
    for by in results.plan.breakdowns:
        for table in distinct_tables(results.plan):
            splits = [s for s in table.splits if not s.endswith(CONTROL_SUFFIX)] if by != COST else [SPLIT]
            for split in splits:
                try:
                    made.append(_build(results, table, by=by, split=split))
                except NotDrawn as reason:
                    notes.append(f"break-down by {by} of table {table.name} on {split}: {reason}")
    return made, notes


def _build(results: Results, table: Table, *, by: str, split: str) -> Breakdown:
    if by == COST:
        return build_cost_breakdown(results, table)
    if by == CLASS:
        return build_class_breakdown(results, table, split=split)
    return build_breakdown(results, table, by=by, split=split)


def build_breakdown(results: Results, table: Table, *, by: str, split: str) -> Breakdown:
    """Group the samples of a split and score every variant in every group.

    Raises:
        NotDrawn: No run has left per-sample results, or no sample belongs to a group.
    """
    grouping = GROUPINGS[by]
    sizes, evidence = group_evidence(results, table, grouping, split=split)
    if not sizes:
        raise NotDrawn("no complete run has left per-sample results that can be grouped so")
    groups = [g for g in grouping.order or sorted(sizes) if g in sizes]
    scores = {g: RowScores(evidence[g], results.samples, within=partial(_members, grouping, g)) for g in groups}
    cells = {
        (name, group): ranked_scores(table.rows, evidence[group], split=split, metric_name=name, scores=scores[group])
        for name in METRICS
        for group in groups
    }
    blocks = tuple(
        Block(metric_head(name), tuple(TableRow(f"{g}, N = {sizes[g]}", counted_cells(cells[name, g])) for g in groups))
        for name in METRICS
    )
    model = TableModel(
        name=breakdown_name(by, table, split),
        caption=_caption(results, table, grouping, split, tested_on([c for of in cells.values() for c in of])),
        stub=grouping.stub,
        switch_heads=(),
        columns=tuple(Column(row.label) for row in table.rows),
        blocks=blocks,
    )
    return Breakdown(model, breakdown_csv(results, table, by, sizes=sizes, cells=cells))


def group_evidence(
    results: Results, table: Table, grouping: Grouping, *, split: str
) -> tuple[dict[str, int], dict[str, dict[str, Evidence]]]:
    """Group -> number of samples, and group -> trial -> its scores in that group."""
    sizes: dict[str, int] = {}
    found: dict[str, dict[str, Evidence]] = {}
    known = results.evidence(table.rows)
    for row in table.rows:
        for run in results.runs(row):
            samples = results.samples.counted(run, split)
            if samples is None:
                continue
            empty = results.plan.trial(run.trial_id).evaluate.get("empty", "zero")
            for group, mine in samples.groupby(grouping.assign(samples), sort=True):
                counts = [mine[name].to_numpy(np.int64) for name in ("intersection", "union")]
                scores = {(split, name): value for name, value in referring_scores(*counts, empty=empty).items()}
                evidence = replace(known[run.trial_id], scores=scores)
                found.setdefault(str(group), {})[run.trial_id] = evidence
                sizes[str(group)] = max(len(mine), sizes.get(str(group), 0))
    return sizes, found


def _members(grouping: Grouping, group: str, samples: pd.DataFrame) -> pd.DataFrame:
    """The samples of a group."""
    return samples[grouping.assign(samples) == group]


def _caption(results: Results, table: Table, grouping: Grouping, split: str, tested: str) -> str:
    labels = [metric(name).label for name in METRICS]
    return (
        f"Scores {grouping.caption}, {split_label(split)} (study “{results.plan.study}”, rows of table {table.name}). "
        f"{group_aggregation(table, tested)} N is the number of samples; {', '.join(labels)} in "
        f"{metric(METRICS[0]).unit}."
    )
