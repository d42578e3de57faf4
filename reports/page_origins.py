"""What a page says behind its figures: each figure's replicates, and once per trial where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.canonical import canonical_json
from harness.metrics import metric
from harness.records import Plan, Trial, TrialState
from reports.cells import show_value
from reports.origins import Origin, origin_facts
from reports.page_parts import RunLink, Runs
from reports.table_model import Cell

Facts = tuple[tuple[str, str], ...]


class Behind(NamedTuple):
    """One replicate behind a figure."""

    run: RunLink
    value: str
    """Its score or difference; empty for a run that failed, and for costs."""
    less: RunLink | None = None
    """Of a difference, the run of the reference."""


class TrialView(NamedTuple):
    """A trial as the page describes it."""

    trial: Trial
    state: TrialState
    run: RunLink | None
    facts: Facts


class MethodView(NamedTuple):
    """A variant with its trials."""

    name: str
    changes: str
    """What it differs from the reference in; empty where that is not known."""
    is_stale: bool
    facts: Facts
    """What all its trials share."""
    trials: tuple[TrialView, ...]


def behind(cell: Cell, runs: Sequence[RunLink]) -> tuple[Behind, ...]:
    """The replicates of a cell, from the links to its runs."""
    if not cell.values:
        return tuple(Behind(run, "") for run in runs)
    values = [show_value(value, metric(cell.metric), signed=cell.is_delta) for value in cell.values]
    if cell.is_delta:
        return tuple(Behind(run, value, less) for run, less, value in zip(runs[::2], runs[1::2], values, strict=True))
    return tuple(Behind(run, value) for run, value in zip(runs, values, strict=True))


def methods(plan: Plan, runs: Runs, origins: Mapping[str, Origin]) -> list[MethodView]:
    """Every variant of the plan, in its order."""
    compared = plan.reference() is not None
    changes = {t: row.changes for table in plan.tables for row in table.rows for t in row.trial_ids}
    trials: dict[str, list[Trial]] = {}
    for trial in plan.trials:
        trials.setdefault(trial.variant, []).append(trial)
    found = []
    for name, mine in trials.items():
        facts = [dict(_facts(origins.get(trial.id))) for trial in mine]
        shared = [(key, text) for key, text in facts[0].items() if all(f.get(key) == text for f in facts)]
        rest = [tuple(item for item in f.items() if item not in shared) for f in facts]
        differs = "; ".join(f"{path} = {canonical_json(value)}" for path, value in changes.get(mine[0].id, {}).items())
        differs = (differs or "nothing") if compared and mine[0].id in changes else ""
        stale = any(origins[trial.id].stale for trial in mine if trial.id in origins)
        views = tuple(_view(trial, runs, own) for trial, own in zip(mine, rest, strict=True))
        found.append(MethodView(name, differs, stale, tuple(shared), views))
    return found


def _view(trial: Trial, runs: Runs, facts: Facts) -> TrialView:
    known = runs.trial(trial.id)
    if known is None:
        return TrialView(trial, TrialState.WAITING, None, facts)
    failed = (("Failed", known.note),) if known.state is TrialState.FAILED and known.note else ()
    return TrialView(trial, known.state, runs.link(known.run_id), (*failed, *facts))


def _facts(origin: Origin | None) -> Facts:
    if origin is None:
        return ()
    said = {name.capitalize(): text for name, text in origin_facts(origin).items()}
    changed = {"Stale": "; ".join(origin.stale), "Note": "; ".join(origin.also)}
    return (*said.items(), *((name, text) for name, text in changed.items() if text))
