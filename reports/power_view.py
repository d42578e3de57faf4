"""What a study's replicates can resolve: per row the difference seen, the least that would be found, replicates needed.

The level is 5 % over the number of comparisons that the table tests as one family, which is what Holm's correction asks
of the first of them: differences to the reference on all splits where it shows them, else all pairs of rows of the
column.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from rich import box
from rich.table import Table as Grid

from harness.metrics import Metric, metric
from harness.records import Plan, Row, Table
from reports.captions import split_label
from reports.cells import show_value
from reports.comparisons import judge_deltas, pool, pool_of_deltas
from reports.intervals import MIN_REPLICATES, RESOLUTION, Pooled, Replicated, precision
from reports.power import MAX_REPLICATES, POWER, Conditions, replicates_needed, smallest_resolvable
from reports.results import Results, distinct_tables
from reports.row_scores import RowScore, RowScores, difference
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
    family: int
    """Comparisons that the table tests together; 0 where nothing has two replicates."""
    pairs: bool
    """Whether these are all pairs of rows of the column; else differences to the reference on all splits."""
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
    plan, split, name = results.plan, results.plan.deciding_split(table), results.plan.deciding_metric(table)
    reference = _reference(plan, table)
    to = reference or _best(table, results.scores, split=split, metric_name=name)
    if to is None:
        return None
    rows = {row.trial_ids: row for row in (*table.rows, to)}
    scores = {key: results.scores.of(row, split=split, metric_name=name) for key, row in rows.items()}
    deltas = {key: difference(score, scores[to.trial_ids]) for key, score in scores.items() if key != to.trial_ids}
    pooled = pool(list(scores.values()))
    if table.kind == "ablation" and reference:
        # How many replicates rows share needs no per-sample results, which are slow to resample on every split.
        judged = judge_deltas(table, reference, RowScores(results.known), metric_name=name)
        pooled = pool_of_deltas(pooled, deltas.values())
        pairs, family = False, sum(found.p is not None for found in judged.values())
    else:
        pairs, family = True, _tested_pairs(list(scores.values()))
    alpha = ALPHA / max(1, family)
    found = tuple(_of_row(rows[key], delta, pooled, alpha) for key, delta in deltas.items())
    return TableResolution(table.name, metric(name), split, to.label, family, pairs, alpha, found)


def _reference(plan: Plan, table: Table) -> Row | None:
    """What a table's differences are taken to, beforehand: in a comparison only one of its own rows."""
    if table.kind == "ablation":
        return plan.reference(table)
    return next((row for row in table.rows if row.is_reference), None)


def _best(table: Table, scores: RowScores, *, split: str, metric_name: str) -> Row | None:
    sign = 1 if metric(metric_name).higher_is_better else -1
    found = [(row, scores.of(row, split=split, metric_name=metric_name)) for row in table.rows]
    known = [(row, sign * score.found.mean) for row, score in found if score is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None


def _tested_pairs(scores: list[RowScore | None]) -> int:
    """Pairs of rows that share the replicates which a test needs."""
    known = [set(score.replicates) for score in scores if score is not None]
    return sum(len(a & b) >= MIN_REPLICATES for a, b in itertools.combinations(known, 2))


def _of_row(row: Row, between: Replicated | None, pooled: Pooled | None, alpha: float) -> Resolution:
    if between is None:
        return Resolution(row.label, 0, None, None, None, on_samples=False)
    n, on_samples = len(between.values), between.draws is not None
    if n < MIN_REPLICATES:
        return Resolution(row.label, n, between.mean, None, None, on_samples)
    known = precision(between, pooled)
    found = (n * known.replicate_variance) ** 0.5
    conditions: Conditions = {
        "std": found if found > RESOLUTION else 0.0,
        "sample_se": known.sample_variance**0.5,
        "units": between.units,
        "contrasts": known.replicate_df / (n - 1),
        "alpha": alpha,
    }
    smallest = smallest_resolvable(replicates=n, **conditions)
    return Resolution(row.label, n, between.mean, smallest, replicates_needed(between.mean, **conditions), on_samples)


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
    if not found.family:
        return "nothing is tested: that needs two rows with two common replicates"
    return (
        f"chance to find a difference {100 * POWER:.0f} %, level {100 * found.alpha:.2g} % each "
        f"({100 * ALPHA:.0f} % over {_family(found)}), t test over {_tested_over(found)}; the spread, the larger of a "
        "difference's own and that pooled over rows, is estimated from these replicates, few of which estimate it badly"
    )


def _family(found: TableResolution) -> str:
    """What the table tests together, in words."""
    one = found.family == 1
    if found.pairs:
        return f"{found.family} {'pair' if one else 'pairs'} of rows of this column"
    return f"{found.family} {'difference' if one else 'differences'} to the reference, on all splits of the table"


def _tested_over(found: TableResolution) -> str:
    on = [row.on_samples for row in found.rows if row.replicates >= MIN_REPLICATES]
    if any(on) and not all(on):
        return "replicates and, where both rows left the same ones, test samples"
    return "replicates and test samples" if any(on) else "replicates"


def _needed(row: Resolution) -> str:
    if row.needed is not None:
        return str(row.needed)
    return "--" if row.smallest is None else f"> {MAX_REPLICATES}"
