"""Cells: what the trials of a row, or a publication, say of a metric on a split, and what tests say of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.metrics import Metric, metric
from harness.records import CONTROL_SUFFIX, Row, TrialState
from reports.comparisons import Judged, standing
from reports.evidence import Evidence
from reports.intervals import MIN_REPLICATES, interval
from reports.row_scores import RowScore, RowScores
from reports.stats import Summary, paired_differences, summarize
from reports.table_model import TEST_MARKS, Cell, CellState, Emphasis, Flag

MINUS = "\u2212"


def show_value(value: float, shown: Metric, *, signed: bool = False) -> str:
    """A stored value as the table shows it: scaled, rounded, with a true minus sign."""
    rounded = round(value * shown.scale, shown.decimals) + 0.0
    return f"{rounded:{'+' if signed else ''}.{shown.decimals}f}".replace("-", MINUS)


def score_cell(row: Row, evidence: Mapping[str, Evidence], *, split: str, metric_name: str) -> Cell:
    """Mean and spread of a metric over the replicates of a row."""
    values = _values(row, evidence, split, metric_name)
    scored = [t for t, v in zip(row.trial_ids, values, strict=True) if v is not None]
    cell = Cell(split, metric_name, CellState.MISSING, expected_n=len(row.trial_ids), trial_ids=row.trial_ids)
    known_values = tuple(v for v in values if v is not None)
    summary = summarize(known_values)
    if summary is None:
        known = [evidence[t] for t in row.trial_ids if t in evidence]
        failed = bool(known) and len(known) == len(row.trial_ids) and all(e.state is TrialState.FAILED for e in known)
        state = CellState.FAILED if failed else CellState.MISSING
        faults = {e.fault for e in known}
        fault = faults.pop() if failed and len(faults) == 1 else ""
        return replace(cell, state=state, run_ids=tuple(e.run_id for e in known), fault=fault)
    return _filled(replace(cell, values=known_values), summary, run_ids=tuple(evidence[t].run_id for t in scored))


def delta_cell(row: Row, reference: Row, evidence: Mapping[str, Evidence], *, split: str, metric_name: str) -> Cell:
    """Mean and spread of the difference to the reference, paired by replicate."""
    cell = Cell(
        split, metric_name, CellState.MISSING, is_delta=True, expected_n=len(row.trial_ids), trial_ids=row.trial_ids
    )
    if row.trial_ids == reference.trial_ids:
        return replace(cell, state=CellState.REFERENCE)
    ours = _values(row, evidence, split, metric_name)
    theirs = _values(reference, evidence, split, metric_name)
    values = tuple(paired_differences(ours, theirs))
    summary = summarize(values)
    if summary is None:
        return cell
    trials = [
        trial
        for a, b, x, y in zip(row.trial_ids, reference.trial_ids, ours, theirs, strict=False)
        if x is not None and y is not None
        for trial in (a, b)
    ]
    return _filled(replace(cell, values=values), summary, run_ids=tuple(evidence[t].run_id for t in trials))


def published_cell(
    split: str, metric_name: str, printed: float, *, source: str, marks: tuple[str, ...] = (), is_delta: bool = False
) -> Cell:
    """A figure as somebody else printed it, in the unit of the table."""
    shown = metric(metric_name)
    value = printed / shown.scale
    cell = Cell(split, metric_name, CellState.PUBLISHED, is_delta=is_delta, value=value, marks=marks, source=source)
    return replace(cell, figure=show_value(value, shown, signed=is_delta))


def rank_cells(cells: Sequence[Cell], scores: Sequence[RowScore | None]) -> tuple[Cell, ...]:
    """The cells of a column with their intervals; those that cannot be told from the best in bold, where others can.

    A column of a control split is not ranked: a high score for the wrong sentence is no merit.
    """
    known = [_with_interval(cell, score) for cell, score in zip(cells, scores, strict=True)]
    if not known or known[0].split.endswith(CONTROL_SUFFIX):
        return tuple(known)
    found = standing(scores, higher_is_better=metric(known[0].metric).higher_is_better)
    everywhere = range(len(known)) if found.alike else ()
    flags = {Flag.ALL_ALIKE: everywhere, Flag.UNTESTED: found.untested, Flag.WORSE: found.worse}
    return tuple(
        replace(
            cell,
            flags=(*cell.flags, *(flag for flag, places in flags.items() if i in places)),
            emphasis=Emphasis.BEST if i in found.best else Emphasis.NONE,
        )
        for i, cell in enumerate(known)
    )


def ranked_scores(
    rows: Sequence[Row],
    evidence: Mapping[str, Evidence],
    *,
    split: str,
    metric_name: str,
    scores: RowScores | None = None,
) -> tuple[Cell, ...]:
    """A metric of several rows, compared; by replicates alone without `scores`."""
    scores = scores or RowScores(evidence)
    cells = [score_cell(row, evidence, split=split, metric_name=metric_name) for row in rows]
    return rank_cells(cells, [scores.of(row, split=split, metric_name=metric_name) for row in rows])


def judged_cell(cell: Cell, judged: Judged | None) -> Cell:
    """A difference with what the tests say of it."""
    if judged is None or judged.p is None:
        return cell
    flag = Flag.DIFFERS if judged.differs else Flag.NOT_SIGNIFICANT
    alone = () if judged.comparison.on_samples else (Flag.REPLICATES_ONLY,)
    return replace(
        cell, interval=judged.comparison.interval, p=judged.p, flags=(flag, *alone), marks=(TEST_MARKS[flag],)
    )


def _with_interval(cell: Cell, score: RowScore | None) -> Cell:
    if score is None or len(score.replicates) < MIN_REPLICATES:
        return cell
    holding = {Flag.REPLICATES_ONLY: score.found.draws is None, Flag.BLOCKED: score.found.blocked}
    return replace(cell, interval=interval(score.found), flags=tuple(flag for flag, holds in holding.items() if holds))


def hoist_count(cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], str]:
    """Say `n=2/3` once for a row when all its scores lack equally many replicates, else in each cell that does."""
    scores = [c for c in cells if not c.is_delta]
    counts = {(c.n, c.expected_n) for c in scores}
    if len(counts) == 1 and scores[0].state is CellState.PARTIAL:
        n, expected = counts.pop()
        same = tuple(c if c.n == n else replace(c, count=_count(c)) for c in cells)
        return same, f"n={n}/{expected}"
    return tuple(replace(c, count=_count(c)) for c in cells), ""


def _count(cell: Cell) -> str:
    return f"n={cell.n}/{cell.expected_n}" if cell.state is CellState.PARTIAL else ""


def _filled(cell: Cell, summary: Summary, *, run_ids: tuple[str, ...]) -> Cell:
    shown = metric(cell.metric)
    return replace(
        cell,
        state=CellState.COMPLETE if summary.n == cell.expected_n else CellState.PARTIAL,
        value=summary.mean,
        std=summary.std,
        n=summary.n,
        figure=show_value(summary.mean, shown, signed=cell.is_delta),
        spread="" if summary.std is None else show_value(summary.std, shown),
        run_ids=run_ids,
    )


def _values(row: Row, evidence: Mapping[str, Evidence], split: str, metric_name: str) -> list[float | None]:
    found = [evidence.get(t) for t in row.trial_ids]
    return [e.scores.get((split, metric_name)) if e else None for e in found]
