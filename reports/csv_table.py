"""CSV: one line per figure of a table, for programs; values in the stored unit (fractions), unrounded."""

from __future__ import annotations

import csv
import io

from reports.table_model import CellState, Emphasis, TableModel

COLUMNS = (
    "table", "row", "split", "metric", "mean", "std", "low", "high", "n", "expected_n", "p", "best", "state",
    "published", "verdict", "source", "stale", "trial_ids", "run_ids",
)  # fmt: skip

DELTA = "delta_"
"""Prefix of a metric whose line gives the difference to the reference."""


def render_csv(table: TableModel) -> str:
    """The figures of a table in reading order; an empty mean is a score that does not exist.

    `low` and `high` bound the 95 % interval; `p` is of a difference to the reference, corrected for those of the table.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    lines: dict[tuple[str, ...], None] = {}
    for row, cell in table.cells():
        if cell.state in (CellState.NOT_REPORTED, CellState.REFERENCE) or (row.is_published and cell.value is None):
            continue
        metric = f"{DELTA if cell.is_delta else ''}{cell.metric}"
        numbers = [_number(v) for v in (cell.value, cell.std, *(cell.interval or (None, None)))]
        tests = [_number(cell.p), "true" if cell.emphasis is Emphasis.BEST else ""]
        counts = ["", ""] if row.is_published else [str(cell.n), str(cell.expected_n)]
        ids = [" ".join(cell.trial_ids), " ".join(cell.run_ids)]
        published = "true" if row.is_published else "false"
        place = (table.name, row.label, cell.split, metric)
        state = cell.failure if cell.state is CellState.FAILED else cell.state
        lines[*place, *numbers, *counts, *tests, state, published, cell.verdict, cell.source, cell.stale, *ids] = None
    writer.writerows(lines)  # costs once, though a table of panels shows them in each
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
