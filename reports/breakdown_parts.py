"""What break-downs share: how they are named, aggregated, counted and written as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.records import BREAKDOWN, Table
from reports.captions import aggregation
from reports.results import Results
from reports.stale import stale_text
from reports.table_model import Cell, TableModel


@dataclass(frozen=True)
class Breakdown:
    """A filled break-down: the table, and what its CSV says."""

    table: TableModel
    csv: str


def breakdown_name(by: str, table: Table, split: str) -> str:
    """Stem of its files; a level such as the 0.5 of a stress split has no dot in it."""
    return f"{BREAKDOWN}_{by}_{table.name}_{split.replace('.', '_')}"


def counted_cells(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Each cell says how many replicates it lacks."""
    return tuple(replace(c, count=f"n={c.n}/{c.expected_n}") if 0 < c.n < c.expected_n else c for c in cells)


def group_aggregation(table: Table, tested: str) -> str:
    """How captions say what a cell is; `tested` is what the tests rest on."""
    return aggregation(max(len(row.trial_ids) for row in table.rows), of="row", tested=tested)


COLUMNS = (
    "table", "by", "group", "samples", "variant", "split", "metric", "mean", "std", "n", "expected_n", "stale",
    "run_ids",
)  # fmt: skip


def breakdown_csv(
    results: Results,
    table: Table,
    by: str,
    *,
    sizes: Mapping[str, int | None],
    cells: Mapping[tuple[str, str], Sequence[Cell]],
) -> str:
    """One line per figure: the cells of each (metric, group), one per row of the study's table; sizes where known."""
    text = io.StringIO()
    stale = stale_text(results.plan, results.sources.origins)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (_, group), of_group in cells.items():
        for row, cell in zip(table.rows, of_group, strict=True):
            numbers = ["" if v is None else f"{v:.10g}" for v in (cell.value, cell.std)]
            place = [table.name, by, group, sizes[group] or "", row.label, cell.split, cell.metric]
            writer.writerow([*place, *numbers, cell.n, cell.expected_n, stale(cell), " ".join(cell.run_ids)])
    return text.getvalue()
