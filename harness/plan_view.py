"""What `harness plan` shows: trials by table, how they differ from the reference, what is shared, done, skipped."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from harness.records import Plan, Row, Table
from harness.search_view import search_lines
from harness.tuning import Search


@dataclass(frozen=True)
class PlanCounts:
    """Totals of a plan."""

    variants: int
    replicates: int
    trials: int
    shared: int
    """Trials that more than one table shows."""
    done: int
    skipped: int

    @property
    def missing(self) -> int:
        """Trials that will run."""
        return self.trials - self.done


def plan_counts(plan: Plan, done: Collection[str]) -> PlanCounts:
    """Count what a plan holds; `done` are ids of COMPLETE trials."""
    places = _places(plan)
    return PlanCounts(
        variants=len({trial.variant for trial in plan.trials}),
        replicates=plan.replicates,
        trials=len(plan.trials),
        shared=sum(len(found) > 1 for found in places.values()),
        done=sum(trial.id in done for trial in plan.trials),
        skipped=len(plan.skipped),
    )


def plan_json(plan: Plan, done: Collection[str]) -> dict[str, Any]:
    """The plan for programs: `trials`, `skipped` and the counts.

    Args:
        plan: An expanded study.
        done: Ids of COMPLETE trials.
    """
    places = _places(plan)
    counts = plan_counts(plan, done)
    return {
        "study": plan.study,
        "question": plan.question,
        "spec_sha": plan.spec_sha,
        "counts": {**vars(counts), "missing": counts.missing},
        "trials": [
            {
                "id": trial.id,
                "variant": trial.variant,
                "tables": [table.name for table, _ in places[trial.id]],
                "labels": [row.label for _, row in places[trial.id]],
                "replicate": trial.replicate,
                "changes": dict(places[trial.id][0][1].changes),
                "state": _state(trial.id, done),
            }
            for trial in plan.trials
        ],
        "searches": [_search_json(search) for search in plan.searches],
        "skipped": [vars(skipped) for skipped in plan.skipped],
    }


def _search_json(search: Search) -> dict[str, Any]:
    outcome = search.outcome
    return {
        "variant": search.variant,
        "key": search.key,
        "trials": search.trials,
        "metric": search.metric,
        "done": search.is_done,
        "spent": {**vars(outcome.spent), "trials": outcome.spent.trials},
        "best": None if outcome.values is None else {"values": dict(outcome.values), "score": outcome.score},
        "reason": search.reason,
    }


def plan_lines(plan: Plan, done: Collection[str]) -> list[str]:
    """The plan as plain text, with the id of every trial.

    Args:
        plan: An expanded study.
        done: Ids of COMPLETE trials.
    """
    lines = [_title(plan), *_totals(plan, done)]
    for table in plan.tables:
        lines += ["", _heading(table)]
        width = max((len(row.label) for row in table.rows), default=0)
        for row in table.rows:
            trials = " ".join(f"{i} {_state(i, done)}" for i in row.trial_ids) or _to_be_tuned(plan, row)
            lines += [f"  {row.label:{width}}  {_difference(plan, table, row)}", f"  {'':{width}}  {trials}"]
    lines += ["", "searches", *search_lines(plan.searches)] if plan.searches else []
    return lines + (["", "skipped", *_skipped(plan)] if plan.skipped else [])


def render_plan(plan: Plan, done: Collection[str]) -> RenderableType:
    """The plan for a terminal.

    Args:
        plan: An expanded study.
        done: Ids of COMPLETE trials.
    """
    parts: list[RenderableType] = [Text(_title(plan), style="bold"), *(Text(line) for line in _totals(plan, done))]
    for table in plan.tables:
        grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("row", "differs from the reference in", "trials"):
            grid.add_column(column)
        for row in table.rows:
            count = sum(i in done for i in row.trial_ids)
            state = Text(f"{count}/{len(row.trial_ids)} done", style="green" if count == len(row.trial_ids) else "")
            state = state if row.trial_ids else Text(_to_be_tuned(plan, row), style="dim")
            grid.add_row(Text(row.label), Text(_difference(plan, table, row)), state)
        parts += [Text(""), Text(_heading(table), style="bold"), Padding(grid, (0, 0, 0, 2))]
    if plan.searches:
        parts += [Text(""), Text("searches", style="bold"), *(Text(line) for line in search_lines(plan.searches))]
    if plan.skipped:
        parts += [Text(""), Text("skipped", style="bold"), *(Text(line) for line in _skipped(plan))]
    return Group(*parts)


def _places(plan: Plan) -> dict[str, list[tuple[Table, Row]]]:
    """Trial id -> every row that shows it."""
    found: dict[str, list[tuple[Table, Row]]] = {trial.id: [] for trial in plan.trials}
    for table in plan.tables:
        for row in table.rows:
            for trial_id in row.trial_ids:
                found[trial_id].append((table, row))
    return found


def _state(trial_id: str, done: Collection[str]) -> str:
    return "done" if trial_id in done else "missing"


def _title(plan: Plan) -> str:
    return f"{plan.study}: {plan.question}"


def _totals(plan: Plan, done: Collection[str]) -> list[str]:
    c = plan_counts(plan, done)
    return [
        f"{c.trials} trials = {c.variants} variants x {c.replicates} replicates, {c.shared} shared by several tables",
        f"{c.done} done, {c.missing} to run, {c.skipped} skipped",
        *_searching(plan),
    ]


def _searching(plan: Plan) -> list[str]:
    """How much tuning is left; the trials of a variant are known when its search has ended."""
    waiting = [search for search in plan.searches if not search.is_done]
    left = sum(max(0, search.trials - search.outcome.spent.trials) for search in waiting)
    count = f"{len(waiting)} variant{'s' * (len(waiting) > 1)}"
    return [f"{left} search trials to run first, for {count} still to be tuned"] if waiting else []


def _to_be_tuned(plan: Plan, row: Row) -> str:
    """For example `to be tuned: 20 trials`."""
    return next((f"to be tuned: {s.trials} trials" for s in plan.searches if s.variant == row.variant), "")


def _heading(table: Table) -> str:
    return f"{table.name}: {table.kind}, {', '.join(table.metrics)} on {', '.join(table.splits)}"


def _difference(plan: Plan, table: Table, row: Row) -> str:
    """What makes the row different, and where else its trials are shown."""
    others = [t.name for t in plan.tables if t is not table and any(r.variant == row.variant for r in t.rows)]
    text = "the reference" if row.is_reference else _changes(row)
    named = f" (variant {row.variant})" if row.variant != row.label else ""
    return f"{text}{named}" + (f"; shared with {', '.join(others)}" if others else "")


def _changes(row: Row) -> str:
    """`path = value` of every change; of another model only the name, as all its fields differ."""
    if "model.name" not in row.changes:
        return ", ".join(f"{path} = {_text(value)}" for path, value in row.changes.items())
    shown = {p: v for p, v in row.changes.items() if p == "model.name" or not p.startswith("model.")}
    return ", ".join(f"{path} = {_text(value)}" for path, value in shown.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _skipped(plan: Plan) -> list[str]:
    return [f"  {f'{s.table}: ' if s.table else ''}{s.variant}: {s.reason}" for s in plan.skipped]
