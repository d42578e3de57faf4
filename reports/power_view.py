"""What a study's replicates can resolve: per row the difference seen, the least that would be found, replicates needed.

Differences are taken to the reference; in a table of a study without one, to the row with the best score. The level is
5 % over the number of differences of the table, which is what Holm's correction asks of the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.table import Table as Grid

from harness.metrics import Metric, metric
from harness.records import Row, Table
from reports.captions import split_label
from reports.cells import show_value
from reports.comparisons import pool
from reports.intervals import MIN_REPLICATES, RESOLUTION, Pooled, Replicated, precision
from reports.power import MAX_REPLICATES, POWER, replicates_needed, smallest_resolvable
from reports.results import Results, distinct_tables
from reports.row_scores import RowScores, difference
from reports.significance import ALPHA


@dataclass(frozen=True)
class Resolution:
    """What is known of one row's difference."""

    label: str
    replicates: int
    """That both sides have."""
    difference: float | None
    """Stored unit; None without a common replicate."""
    smallest: float | None
    """Least difference found with a chance of 80 %; None for fewer than two replicates, or without spread."""
    needed: int | None
    """Replicates that find the difference seen with that chance; None where it is not known or out of reach."""
    on_samples: bool


@dataclass(frozen=True)
class TableResolution:
    """What a table can resolve."""

    table: str
    metric: Metric
    split: str
    to: str
    """Label of the row that differences are taken to."""
    alpha: float
    """Level of each comparison."""
    rows: tuple[Resolution, ...]


def resolutions(results: Results) -> list[TableResolution]:
    """For every distinct table of the plan with a score; the metric and split are those that figures show."""
    found = []
    for table in distinct_tables(results.plan):
        made = _resolution(results, table)
        if made is not None:
            found.append(made)
    return found


def _resolution(results: Results, table: Table) -> TableResolution | None:
    plan, split = results.plan, results.plan.deciding_split(table)
    name, reference = plan.deciding_metric(table), plan.reference()
    scores = results.scores
    to = reference or _best(table, scores, split=split, metric_name=name)
    if to is None:
        return None
    others = [row for row in table.rows if row.trial_ids != to.trial_ids]
    alpha = ALPHA / max(1, len(others))
    theirs = scores.of(to, split=split, metric_name=name)
    ours = [scores.of(row, split=split, metric_name=name) for row in others]
    pooled = pool([*ours, theirs])
    spread = _Spread(pooled, len(others) + 1, alpha)
    rows = [_of_row(row, difference(score, theirs), spread) for row, score in zip(others, ours, strict=True)]
    return TableResolution(table.name, metric(name), split, to.label, alpha, tuple(rows))


def _best(table: Table, scores: RowScores, *, split: str, metric_name: str) -> Row | None:
    sign = 1 if metric(metric_name).higher_is_better else -1
    found = [(row, scores.of(row, split=split, metric_name=metric_name)) for row in table.rows]
    known = [(row, sign * score.found.mean) for row, score in found if score is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None


class _Spread(NamedTuple):
    """What a table's rows have in common."""

    pooled: Pooled | None
    rows: int
    alpha: float


def _of_row(row: Row, between: Replicated | None, spread: _Spread) -> Resolution:
    if between is None:
        return Resolution(row.label, 0, None, None, None, on_samples=False)
    n, on_samples = len(between.values), between.draws is not None
    if n < MIN_REPLICATES:
        return Resolution(row.label, n, between.mean, None, None, on_samples)
    known = precision(between, spread.pooled)
    found = (n * known.replicate_variance) ** 0.5
    std, sample_se = found if found > RESOLUTION else 0.0, known.sample_variance**0.5
    smallest = smallest_resolvable(std=std, replicates=n, sample_se=sample_se, alpha=spread.alpha, rows=spread.rows)
    needed = replicates_needed(between.mean, std=std, sample_se=sample_se, alpha=spread.alpha, rows=spread.rows)
    return Resolution(row.label, n, between.mean, smallest, needed, on_samples)


def render_resolution(found: TableResolution) -> Grid:
    """The table for the terminal."""
    shown = found.metric
    title = f"{found.table}: {shown.label}, {split_label(found.split)}, difference to “{found.to}” ({shown.delta_unit})"
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("row", "replicates", "difference", "smallest resolvable", "replicates needed"):
        grid.add_column(head, justify="left" if head == "row" else "right")
    for row in found.rows:
        seen = "--" if row.difference is None else show_value(row.difference, shown, signed=True)
        smallest = "--" if row.smallest is None else show_value(row.smallest, shown)
        grid.add_row(row.label, str(row.replicates), seen, smallest, _needed(row))
    return grid


def explain_resolution(found: TableResolution) -> str:
    """How to read the table, on one line."""
    tested = "replicates and test samples" if all(row.on_samples for row in found.rows) else "replicates"
    return (
        f"chance to find a difference {100 * POWER:.0f} %, level {100 * found.alpha:.2g} % each "
        f"({100 * ALPHA:.0f} % over {len(found.rows)} differences), t test over {tested}; the spread, pooled over "
        "rows, is estimated from these replicates, few of which estimate it badly"
    )


def _needed(row: Resolution) -> str:
    if row.needed is not None:
        return str(row.needed)
    return "--" if row.smallest is None else f"> {MAX_REPLICATES}"
