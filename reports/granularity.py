"""A share of N samples is k/N: P@X, published or computed, that no whole number of samples gives, as notes."""

from __future__ import annotations

from collections.abc import Mapping

from harness.metrics import METRICS
from harness.records import Plan
from reports.published import Published, granularity_problems
from reports.results import Results, distinct_tables

TOLERANCE = 1e-6


def published_notes(plan: Plan, files: Mapping[str, Published]) -> list[str]:
    """One note per published row, of those the plan's tables quote, with figures that are not k/N to two decimals."""
    notes: list[str] = []
    for name, published in files.items():
        quoted = {t for table in plan.tables if table.published == name for t in (table.name, table.group)}
        rows: dict[tuple[str, str], list[str]] = {}
        for problem in granularity_problems(published):
            if problem.table in quoted:
                rows.setdefault((problem.label, problem.split), []).append(f"{problem.metric} {problem.printed:.2f}")
        notes += [
            f"published {label}, {split} split of {published.dataset}: {', '.join(figures)} "
            f"must be k/{published.splits[split]} rounded to two decimals and are not"
            for (label, split), figures in rows.items()
        ]
    return notes


def computed_notes(results: Results) -> list[str]:
    """One note per run and split whose P@X is not a whole number of the samples that its per-sample table counts."""
    names = [m.name for m in METRICS.values() if m.threshold is not None]
    shares = results.frame[results.frame["metric"].isin(names)]
    by_run: dict[str, dict[str, list[tuple[str, float]]]] = {}
    for run_id, split, name, value in shares[["run_id", "split", "metric", "value"]].itertuples(index=False):
        by_run.setdefault(str(run_id), {}).setdefault(str(split), []).append((str(name), float(value)))
    notes: list[str] = []
    for row in (row for table in distinct_tables(results.plan) for row in table.rows):
        for run in (run for run in results.runs(row) if run.run_id in by_run):
            for split, named in sorted(by_run[run.run_id].items()):
                table = results.samples.counted(run, split)
                if table is None:
                    continue
                wrong = [f"{name} {100 * value:.4f}" for name, value in named if not _is_whole(value * len(table))]
                if wrong:
                    notes.append(f"run {run.run_id}, {split}: {', '.join(wrong)} must be k/{len(table)} and are not")
    return list(dict.fromkeys(notes))


def _is_whole(count: float) -> bool:
    return abs(count - round(count)) <= TOLERANCE
