"""IoU of every class: a row is a class, a column a variant, the mean over classes below them.

It is read from the scores of each run, which come from one confusion matrix per split, and needs no per-sample results.
"""

from __future__ import annotations

from harness.metrics import metric
from harness.records import Table
from reports.artifacts import FigureRequest, NotDrawn
from reports.breakdown_parts import Breakdown, breakdown_csv, breakdown_name, counted_cells, group_aggregation
from reports.captions import as_sentence, metric_head, split_label
from reports.cells import ranked_scores
from reports.class_scores import IOU, averaging_notes, class_slugs
from reports.comparison_notes import tested_on
from reports.table_model import Block, Column, Footnote, TableModel, TableRow

CLASS = "class"
"""Name in `report.breakdowns`."""

MEAN = "miou"


def build_class_breakdown(request: FigureRequest, table: Table, *, split: str) -> Breakdown:
    """The IoU of every class that occurs in a split, and their mean.

    Raises:
        NotDrawn: No run has recorded the score of a class.
    """
    evidence = request.evidence(table.rows)
    slugs = class_slugs(evidence.values(), split)
    if not slugs:
        raise NotDrawn("no complete run has recorded scores of single classes")
    cells = {
        (name, group): ranked_scores(table.rows, evidence, split=split, metric_name=name)
        for name, group in [*((f"{IOU}{slug}", slug) for slug in slugs), (MEAN, "mean")]
    }
    rows = [TableRow(slug.replace("_", " "), counted_cells(cells[f"{IOU}{slug}", slug])) for slug in slugs]
    mean = TableRow("mean over classes", counted_cells(cells[MEAN, "mean"]))
    notes = averaging_notes(evidence, [split], [MEAN])
    model = TableModel(
        name=breakdown_name(CLASS, table, split),
        caption=_caption(request, table, split, tested_on([c for of in cells.values() for c in of])),
        stub="Class",
        switch_heads=(),
        columns=tuple(Column(row.label) for row in table.rows),
        blocks=(Block(f"IoU {metric_head(MEAN)[-1]}", tuple(rows)), Block("", (mean,))),
        footnotes=tuple(Footnote("", text) for text in notes),
    )
    sizes = dict.fromkeys([*slugs, "mean"])
    return Breakdown(model, breakdown_csv(table, CLASS, sizes, cells))


def _caption(request: FigureRequest, table: Table, split: str, tested: str) -> str:
    text = (
        f"IoU by class, {split_label(split)} (study “{request.plan.study}”, rows of table {table.name}). "
        f"{group_aggregation(table, tested)} In {metric(MEAN).unit}."
    )
    return f"{text} {as_sentence(request.plan.data_note)}" if request.plan.data_note else text
