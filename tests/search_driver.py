"""Tests of searches: a small searched study, and a sequential executor whose trials end as a formula says."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import event
from sqlalchemy.engine import Engine

from harness.claims import Claims
from harness.plan import fingerprint_of
from harness.records import Fault, Plan, Score, Trial, TrialResult, TrialState
from harness.search import SearchSource
from harness.search_phase import SearchObserver, run_searches, search_plan
from harness.search_store import default_url, expand_tuned
from harness.search_view import SearchProgress
from harness.spec import StudySpec, load_study
from harness.trial_folder import (
    PRUNE,
    STOP,
    EpochScores,
    append_history,
    read_history,
    read_result,
    trial_folder,
    write_result,
)
from tests.tiny import write_study

ONE_VARIANT = ("[arc, msrc]", "[msrc]")
SEARCH = """\
search:
  space: {train.lr: {low: 1e-4, high: 1e-1, log: true}, model.kernels: {choices: [[1], [1, 3]]}}
  trials: 6
variants:
"""
Run = Callable[[Trial, "Context"], TrialResult]


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


@dataclass
class Session:
    """What an executor needs of its driver."""

    storage: Path
    claims: Claims


class Context:
    """What a trial's formula may do while it runs."""

    def __init__(self, trial: Trial, folder: Path, observer: SearchObserver) -> None:
        self.folder, self._trial, self._observer = folder, trial, observer
        self.first = len(read_history(folder)) + 1
        """Epoch that a resumed trial goes on with."""
        for epoch in read_history(folder):
            observer.reported(trial, epoch)

    def report(self, epoch: int, value: float) -> bool:
        """Report an epoch; whether the trial must end."""
        found = EpochScores(epoch, {"val/oiou": value, "val/miou": value / 2}, time.time())
        append_history(self.folder, found)
        self._observer.reported(self._trial, found)
        return (self.folder / STOP).exists()


@dataclass
class Sequential:
    """One trial after the other."""

    run_one: Run
    stop_after: int | None = None
    """Trials after which it stops as if it had been asked to."""
    ran: list[str] = field(default_factory=list)

    def run(self, source: SearchSource, session: Session, observer: SearchObserver) -> None:
        while not source.is_done() and (self.stop_after is None or len(self.ran) < self.stop_after):
            trial = source.next(0)
            assert trial is not None, "nothing runs, so there must be a next trial"
            folder = trial_folder(session.storage, trial)
            assert read_result(folder) is None, "a finished trial must not run again"
            observer.started(trial)
            self.ran.append(trial.id)
            result = self.run_one(trial, Context(trial, folder, observer))
            write_result(folder, result)
            observer.finished(trial, result, folder)


def score_of(trial: Trial) -> float:
    """Best at a learning rate of 1e-2, a little better with more kernels."""
    return 0.6 - 0.1 * abs(math.log10(trial.train["lr"]) + 2) + 0.01 * len(trial.model["kernels"])


def formula(trial: Trial, context: Context) -> TrialResult:
    """Train three epochs, each better than the one before; end where asked to."""
    value = score_of(trial)
    for epoch in range(context.first, trial.train["epochs"] + 1):
        if context.report(epoch, value * epoch / trial.train["epochs"]) and epoch < trial.train["epochs"]:
            assert (context.folder / STOP).read_text() == PRUNE
            return TrialResult(trial.id, TrialState.PRUNED)
    return complete(trial, value)


def complete(trial: Trial, value: float) -> TrialResult:
    """A COMPLETE result on the validation split."""
    scores = (Score("val", "oiou", value), Score("val", "miou", value / 2))
    return TrialResult(trial.id, TrialState.COMPLETE, scores, best_epoch=1)


def failing(trial: Trial, context: Context) -> TrialResult:
    """Diverge."""
    context.report(1, 0.1)
    error = "Traceback\nDivergedError: the loss must stay finite, got nan"
    return TrialResult(trial.id, TrialState.FAILED, error=error, fault=Fault.DIVERGED)


def search(
    plan: Plan, storage: Path, run_one: Run = formula, *, stop_after: int | None = None, record: Any = None
) -> Sequential:
    """Run the searches of a plan that have not ended."""
    storage.mkdir(exist_ok=True)
    executor, listener = Sequential(run_one, stop_after), record or Record()
    searches = search_plan(plan).searches
    with Claims(storage, plan.study) as claims:
        source = SearchSource(searches, url=default_url(storage), storage=storage, claims=claims, record=listener)
        progress = SearchProgress(searches, Console(quiet=True))
        session = Session(storage, claims)
        run_searches(source, executor=executor, session=session, record=listener, progress=progress)
    return executor


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

    def slow(trial: Trial, context: Context) -> TrialResult:
        for epoch in range(context.first, trial.train["epochs"] + 1):
            time.sleep(0.1)
            context.report(epoch, score_of(trial) * epoch / trial.train["epochs"])
            print(trial.id, epoch, flush=True)
        return complete(trial, score_of(trial))

    be_quick()
    study, storage = load_study(sys.argv[1], environ={}), Path(sys.argv[2])
    search(plan_of(study, storage), storage, slow)


if __name__ == "__main__":
    main()
