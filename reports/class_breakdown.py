"""IoU of every class: a row is a class, a column a variant, the mean over classes below them.

It is read from the scores of each run, which come from one confusion matrix per split; per-sample results take part in
tests where runs have left them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.metrics import metric
from harness.records import Table
from reports.artifacts import NotDrawn
from reports.breakdown_parts import Breakdown, breakdown_csv, breakdown_name, counted_cells, group_aggregation
from reports.captions import as_sentence, metric_head, split_label
from reports.cells import ranked_scores
from reports.class_scores import IOU, averaging_notes, class_slugs
from reports.comparison_notes import mark_footnotes, tested_on
from reports.comparisons import Judged, Shown, judge_columns
from reports.results import Results
from reports.table_model import TEST_MARKS, Block, Cell, Column, Flag, Footnote, TableModel, TableRow

CLASS = "class"
"""Name in `report.breakdowns`."""

MEAN = "miou"


def build_class_breakdown(results: Results, table: Table, *, split: str) -> Breakdown:
    """The IoU of every class that occurs in a split, and their mean.

    Raises:
        NotDrawn: No run has recorded the score of a class.
    """
    evidence = results.evidence(table.rows)
    slugs = class_slugs(evidence.values(), split)
    if not slugs:
        raise NotDrawn("no complete run has recorded scores of single classes")
    scores = results.scores
    cells = {
        (name, group): ranked_scores(table.rows, evidence, split=split, metric_name=name, scores=scores)
        for name, group in [*((f"{IOU}{slug}", slug) for slug in slugs), (MEAN, "mean")]
    }
    reference = results.plan.reference(table) if table.kind == "ablation" else None
    columns = [(split, name) for name, _ in cells]
    judged = judge_columns(table, reference, scores, columns) if reference else {}
    cells = {key: _marked(table, of, judged) for key, of in cells.items()}
    rows = [TableRow(slug.replace("_", " "), counted_cells(cells[f"{IOU}{slug}", slug])) for slug in slugs]
    mean = TableRow("mean over classes", counted_cells(cells[MEAN, "mean"]))
    notes = averaging_notes(evidence, [split], [MEAN])
    tested = tested_on([c for of in cells.values() for c in of])
    model = TableModel(
        name=breakdown_name(CLASS, table, split),
        caption=_caption(results, table, split, tested, marked=bool(judged)),
        stub="Class",
        switch_heads=(),
        columns=tuple(Column(row.label) for row in table.rows),
        blocks=(Block(f"IoU {metric_head(MEAN)[-1]}", tuple(rows)), Block("", (mean,))),
        footnotes=(*mark_footnotes(judged), *(Footnote("", text) for text in notes)),
    )
    sizes = dict.fromkeys([*slugs, "mean"])
    return Breakdown(model, breakdown_csv(results, table, CLASS, sizes=sizes, cells=cells))


def _marked(table: Table, cells: Sequence[Cell], judged: Mapping[Shown, Judged]) -> tuple[Cell, ...]:
    """Scores of a class with what the tests say of their differences to the reference."""
    marked = []
    for row, cell in zip(table.rows, cells, strict=True):
        found = judged.get(Shown(row.variant, cell.split, cell.metric))
        if found is None or found.p is None:
            marked.append(cell)
            continue
        flag = Flag.DIFFERS if found.differs else Flag.NOT_SIGNIFICANT
        flags, marks = (*cell.flags, flag), (*cell.marks, TEST_MARKS[flag])
        marked.append(replace(cell, p=found.p, flags=flags, marks=marks))
    return tuple(marked)


def _caption(results: Results, table: Table, split: str, tested: str, *, marked: bool) -> str:
    reference = results.plan.reference(table) if marked else None
    marks = f" Marks tell what differs from the reference, “{reference.label}”." if reference else ""
    text = (
        f"IoU by class, {split_label(split)} (study “{results.plan.study}”, rows of table {table.name}). "
        f"{group_aggregation(table, tested)} In {metric(MEAN).unit}.{marks}"
    )
    return f"{text} {as_sentence(results.plan.data_note)}" if results.plan.data_note else text
