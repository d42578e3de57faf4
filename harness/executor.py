"""Running a plan's missing trials: what executors offer, and a local one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from harness.faults import fault_of, traceback_of
from harness.records import Trial, TrialResult, TrialState
from harness.trial import run_trial
from harness.trial_folder import (
    STOP,
    EpochScores,
    append_history,
    clear_failure,
    read_history,
    read_result,
    trial_folder,
    write_result,
)


class Listener(Protocol):
    """Told what happens to trials."""

    def started(self, trial: Trial) -> None:
        """The trial has been given its workers or waits for them in the scheduler."""
        ...

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """An epoch is done; after a restart, epochs are told again from the first."""
        ...

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """The trial has ended; its files are in `folder`."""
        ...


class Observer(Listener, Protocol):
    """Told by an executor what happens, from the thread that called `Executor.run`."""

    def refresh(self) -> None:
        """Called a few times a second while trials run."""
        ...


class Executor(Protocol):
    """Runs trials; a trial that raises ends as FAILED and the others go on."""

    def run(self, trials: Sequence[Trial], storage: Path, observer: Observer) -> None:
        """Run every trial to its end and tell the observer."""
        ...


def deliver_finished(trials: Iterable[Trial], storage: Path, listener: Listener) -> list[Trial]:
    """Tell a listener of trials that ended while nobody was listening; return those still to run."""
    missing = []
    for trial in trials:
        folder = trial_folder(storage, trial)
        clear_failure(folder)
        result = read_result(folder)
        if result is None:
            missing.append(trial)
            continue
        listener.started(trial)
        for epoch in read_history(folder):
            listener.reported(trial, epoch)
        listener.finished(trial, result, folder)
    return missing


class LocalContext:
    """A trial in this process."""

    def __init__(self, trial: Trial, storage: Path, observer: Observer) -> None:
        self.device = torch.device("cuda" if trial.resources.gpus_per_worker > 0 else "cpu")
        self.storage = storage
        self.folder = trial_folder(storage, trial)
        self._trial, self._observer = trial, observer

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write the epoch down and tell the observer."""
        found = EpochScores(epoch, dict(scores), time.time())
        append_history(self.folder, found)
        self._observer.reported(self._trial, found)
        self._observer.refresh()

    def stop_requested(self) -> bool:
        """Whether somebody asked the trial to end."""
        return (self.folder / STOP).exists()


class LocalExecutor:
    """One trial after the other in this process, without Ray: for tests and for debugging a model."""

    def run(self, trials: Sequence[Trial], storage: Path, observer: Observer) -> None:
        """Run every trial to its end and tell the observer."""
        for trial in trials:
            observer.started(trial)
            context = LocalContext(trial, storage, observer)
            try:
                result = run_trial(trial, context)
            except Exception as error:  # noqa: BLE001 -- whatever a trial raises must not end the study
                result = TrialResult(trial.id, TrialState.FAILED, error=traceback_of(error), fault=fault_of(error))
            write_result(context.folder, result)
            observer.finished(trial, result, context.folder)
