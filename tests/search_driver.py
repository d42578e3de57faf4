"""Tests of searches: a small searched study, run by the local executor, whose trials end as a formula says."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from sqlalchemy import event
from sqlalchemy.engine import Engine

from harness.errors import DivergedError, TrialStopped
from harness.executor import Session
from harness.local_executor import LocalContext, LocalExecutor
from harness.plan import fingerprint_of
from harness.records import Plan, Score, Trial, TrialResult, TrialState
from harness.search import SearchSource
from harness.search_phase import run_searches, search_plan
from harness.search_store import default_url, expand_tuned
from harness.search_view import SearchProgress
from harness.spec import StudySpec, load_study
from harness.trial_folder import EpochScores, read_history, read_result
from tests.tiny import write_study

ONE_VARIANT = ("[arc, msrc]", "[msrc]")
SEARCH = """\
search:
  space: {train.lr: {low: 1e-4, high: 1e-1, log: true}, model.kernels: {choices: [[1], [1, 3]]}}
  trials: 6
variants:
"""
Run = Callable[[Trial, LocalContext], TrialResult]


def searched_study(folder: Path, *changes: tuple[str, str]) -> StudySpec:
    """The tiny study with a search of learning rate and kernels for both of its variants."""
    return load_study(write_study(folder, ("variants:\n", SEARCH), *changes), environ={})


def plan_of(study: StudySpec, storage: Path) -> Plan:
    """The plan with what has been found so far."""
    fingerprint, root = fingerprint_of(study)
    return expand_tuned(study, fingerprint=fingerprint, data_root=root, url=default_url(storage))


class Record:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.trials: dict[str, Trial] = {}

    def started(self, trial: Trial) -> None:
        self.events.append(("started", trial.id))
        self.trials[trial.id] = trial

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        self.events.append((f"epoch {epoch.epoch}", trial.id))

    def finished(self, trial: Trial, result: TrialResult, _folder: Path) -> None:
        self.events.append((result.state.value, trial.id))

    def stopped(self, trial: Trial) -> None:
        self.events.append(("stopped", trial.id))


@dataclass
class Formula:
    """What takes the place of a training: one call per start of a trial, by the executor that runs real ones."""

    run_one: Run
    stop_after: int | None = None
    """Starts after which the process ends as if it had been interrupted."""
    ran: list[str] = field(default_factory=list)

    def __call__(self, trial: Trial, context: LocalContext) -> TrialResult:
        assert read_result(context.folder) is None, "a finished trial must not run again"
        if len(self.ran) == self.stop_after:
            raise KeyboardInterrupt
        self.ran.append(trial.id)
        return self.run_one(trial, context)


def first_epoch(context: LocalContext) -> int:
    """Epoch that a resumed trial goes on with; those before are told again."""
    history = read_history(context.folder)
    for epoch in history:
        context._observer.reported(context._trial, epoch)
    return len(history) + 1


def report(context: LocalContext, epoch: int, value: float) -> None:
    """Report an epoch; end where asked to."""
    context.report(epoch, {"val/oiou": value, "val/miou": value / 2})
    if context.stop_requested():
        raise TrialStopped


def score_of(trial: Trial) -> float:
    """Best at a learning rate of 1e-2, a little better with more kernels."""
    return 0.6 - 0.1 * abs(math.log10(trial.train["lr"]) + 2) + 0.01 * len(trial.model["kernels"])


def formula(trial: Trial, context: LocalContext) -> TrialResult:
    """Train all epochs, each better than the one before."""
    value = score_of(trial)
    for epoch in range(first_epoch(context), trial.train["epochs"] + 1):
        report(context, epoch, value * epoch / trial.train["epochs"])
    return complete(trial, value)


def complete(trial: Trial, value: float) -> TrialResult:
    """A COMPLETE result on the validation split."""
    scores = (Score("val", "oiou", value), Score("val", "miou", value / 2))
    return TrialResult(trial.id, TrialState.COMPLETE, scores, best_epoch=1)


def failing(_: Trial, context: LocalContext) -> TrialResult:
    """Diverge."""
    report(context, 1, 0.1)
    raise DivergedError("the loss must stay finite, got nan")


def search(
    plan: Plan, storage: Path, run_one: Run = formula, *, stop_after: int | None = None, record: Any = None
) -> Formula:
    """Run the searches of a plan that have not ended."""
    storage.mkdir(exist_ok=True)
    made, listener = Formula(run_one, stop_after), record or Record()
    searches = search_plan(plan).searches
    with Session.opened(storage, plan.study) as session, patch("harness.local_executor.run_trial", made):
        source = SearchSource(
            searches, url=default_url(storage), storage=storage, claims=session.claims, record=listener
        )
        progress = SearchProgress(searches, Console(quiet=True))
        with suppress(KeyboardInterrupt) if stop_after is not None else nullcontext():
            run_searches(source, executor=LocalExecutor(), session=session, record=listener, progress=progress)
    return made


def drawn(storage: Path, variant: str) -> list[Mapping[str, Any]]:
    """What Optuna drew for a variant, in order."""
    import optuna

    database = optuna.storages.RDBStorage(default_url(storage))
    for summary in optuna.get_all_study_summaries(database):
        if summary.user_attrs["variant"] == variant:
            return [t.params for t in optuna.load_study(study_name=summary.study_name, storage=database).trials]
    raise KeyError(variant)


def be_quick() -> None:
    """Let sqlite leave it to the kernel when to write, from now on in this process: a machine under load is slow."""

    @event.listens_for(Engine, "connect")
    def set_pragma(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")


def main() -> None:
    """A driver in a process of its own, slow enough to be killed: `python -m tests.search_driver STUDY STORAGE`."""

    def slow(trial: Trial, context: LocalContext) -> TrialResult:
        for epoch in range(first_epoch(context), trial.train["epochs"] + 1):
            time.sleep(0.1)
            report(context, epoch, score_of(trial) * epoch / trial.train["epochs"])
            print(trial.id, epoch, flush=True)
        return complete(trial, score_of(trial))

    be_quick()
    study, storage = load_study(sys.argv[1], environ={}), Path(sys.argv[2])
    search(plan_of(study, storage), storage, slow)


if __name__ == "__main__":
    main()
