"""What every row costs: a row is a variant, a column a cost that some row has recorded; zeros of all are said below."""

from __future__ import annotations

from harness.records import BREAKDOWN, Table
from reports.artifacts import NotDrawn
from reports.breakdown_parts import Breakdown, breakdown_csv, counted_cells
from reports.captions import join_words
from reports.costs import MEANING, RECORDED, Cost, cost_cell
from reports.results import Results
from reports.table_model import Block, Cell, Column, Footnote, TableModel, TableRow

COST = "cost"
"""Name in `report.breakdowns`."""


def build_cost_breakdown(results: Results, table: Table) -> Breakdown:
    """Parameters, multiply-adds, latency, memory, hours and energy of every row of a table.

    Raises:
        NotDrawn: No run has recorded a cost.
    """
    evidence = results.evidence(table.rows)
    cells = {cost: [cost_cell(row, evidence, cost) for row in table.rows] for cost in RECORDED}
    known = {cost: of for cost, of in cells.items() if any(cell.value is not None for cell in of)}
    if not known:
        raise NotDrawn("no run has recorded a cost")
    shown = {cost: of for cost, of in known.items() if any(cell.value for cell in of)}
    zero = [cost.head for cost in known if cost not in shown]
    rows = [
        TableRow(row.label, counted_cells(of_row))
        for row, of_row in zip(table.rows, zip(*shown.values(), strict=True), strict=True)
    ]
    model = TableModel(
        name=f"{BREAKDOWN}_{COST}_{table.name}",
        caption=_caption(results, table, shown),
        stub="Variant",
        switch_heads=(),
        columns=tuple(Column(cost.head) for cost in shown),
        blocks=(Block("", tuple(rows)),),
        footnotes=(Footnote("", f"Zero in every row: {join_words(zero)}."),) if zero else (),
    )
    of_all = {(cost.name, "all"): of for cost, of in known.items()}
    csv = breakdown_csv(results, table, COST, sizes={"all": None}, cells=of_all)
    return Breakdown(model, csv)


def _caption(results: Results, table: Table, shown: dict[Cost, list[Cell]]) -> str:
    measured = [cost for cost in shown if cost.measured]
    spread = any(cell.spread for cost in measured for cell in shown[cost])
    parts = [
        f"What each row costs (study “{results.plan.study}”, rows of table {table.name}).",
        MEANING,
        *(cost.meaning for cost in shown if cost.meaning),
    ]
    if measured:
        how = "mean ± std over replicates" if spread else "mean over replicates"
        parts.append(f"Measured ({how}) on the machines that the trials ran on, which need not be equal: ")
        parts[-1] += f"{join_words(cost.head.partition(' (')[0] for cost in measured)}."
    return " ".join(parts)
