"""What variants are ranked on: every category (referring) or class (semantic) of every split that a table shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import CONTROL_SUFFIX, Row, Table
from reports.breakdown import GROUPINGS, group_evidence
from reports.captions import split_label
from reports.class_scores import IOU, class_slugs
from reports.evidence import Evidence, values_of
from reports.results import Results

OF_ONE_CLASS = {"mpa": "recall.", "mf1": "f1."}
"""Mean over classes -> how the scores of one class that it is a mean of begin; those of any other metric are IoUs."""


@dataclass(frozen=True)
class Block:
    """What all variants were measured on."""

    label: str
    """`validation, harbor`."""
    metric: str
    """What it was scored by."""
    scores: tuple[float | None, ...]
    """Of each row the mean over its replicates, stored unit; None where it has none."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of a table and the rows that can be ranked on them."""

    rows: tuple[Row, ...]
    absent: tuple[Row, ...]
    """Those without a score on any block: they would leave no block complete."""
    blocks: tuple[Block, ...]
    by: str
    """What splits are divided into: `category`, `class`, or nothing."""


def rank_blocks(results: Results, table: Table) -> Blocks:
    """Every group of every split, without controls; a split that was not measured by group is one block."""
    splits = [split for split in table.splits if not split.endswith(CONTROL_SUFFIX)]
    found: list[Block] = []
    by = ""
    for split in splits:
        groups = _classes(results, table, split) or _categories(results, table, split)
        if groups:
            by = "class" if any("." in block.metric for block in groups) else "category"
        found += groups or [_whole(results, table, split)]
    kept = [i for i in range(len(table.rows)) if any(block.scores[i] is not None for block in found)]
    blocks = tuple(Block(b.label, b.metric, tuple(b.scores[i] for i in kept)) for b in found)
    absent = tuple(row for i, row in enumerate(table.rows) if i not in kept)
    return Blocks(tuple(table.rows[i] for i in kept), absent, blocks, by)


def _classes(results: Results, table: Table, split: str) -> list[Block]:
    evidence = results.evidence(table.rows)
    measure = OF_ONE_CLASS.get(results.plan.deciding_metric(table), IOU)
    return [
        _block(f"{split_label(split)}, {slug.replace('_', ' ')}", table.rows, evidence, key=(split, f"{measure}{slug}"))
        for slug in class_slugs(evidence.values(), split)
    ]


def _categories(results: Results, table: Table, split: str) -> list[Block]:
    sizes, evidence = group_evidence(results, table, GROUPINGS["category"], split=split)
    key = (split, results.plan.deciding_metric(table))
    return [_block(f"{split_label(split)}, {g}", table.rows, evidence[g], key=key) for g in sorted(sizes)]


def _whole(results: Results, table: Table, split: str) -> Block:
    key = (split, results.plan.deciding_metric(table))
    return _block(split_label(split), table.rows, results.evidence(table.rows), key=key)


def _block(label: str, rows: Sequence[Row], evidence: Mapping[str, Evidence], *, key: tuple[str, str]) -> Block:
    scores = []
    for row in rows:
        values = values_of(row.trial_ids, evidence, split=key[0], metric_name=key[1])
        scores.append(statistics.fmean(values) if values else None)
    return Block(label, key[1], tuple(scores))
