"""A study from plan to record: what is missing is run, everything is written down, failures are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.executor import Executor, deliver_finished
from harness.progress import StudyProgress
from harness.records import Plan, Trial, TrialResult, TrialState
from harness.tracking import MlflowTracker, cause
from harness.trial_folder import EpochScores


@dataclass(frozen=True)
class Failure:
    """A trial that did not end well."""

    trial: Trial
    cause: str
    """Last line of its traceback."""
    folder: Path
    """Where `result.json` has the whole traceback."""


class StudyObserver:
    """Passes what an executor tells on to the record and to the screen."""

    def __init__(self, tracker: MlflowTracker, progress: StudyProgress) -> None:
        self._listeners = (tracker, progress)
        self._progress = progress
        self.failures: list[Failure] = []

    def started(self, trial: Trial) -> None:
        """The trial is under way."""
        for listener in self._listeners:
            listener.started(trial)

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """An epoch is done."""
        for listener in self._listeners:
            listener.reported(trial, epoch)

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """The trial has ended."""
        for listener in self._listeners:
            listener.finished(trial, result, folder)
        if result.state is TrialState.FAILED:
            self.failures.append(Failure(trial, cause(result.error or ""), folder))

    def refresh(self) -> None:
        """Redraw."""
        self._progress.refresh()


def run_study(
    plan: Plan, *, tracker: MlflowTracker, executor: Executor, progress: StudyProgress, storage: Path
) -> Sequence[Failure]:
    """Run every trial of the plan that is not COMPLETE yet.

    Args:
        plan: The study, expanded.
        tracker: Opened for this plan.
        executor: Runs the trials.
        progress: Shows them.
        storage: Folder of the study's runs.

    Returns:
        The trials that failed, in the order in which they ended.
    """
    done = tracker.complete(t.id for t in plan.trials)
    missing = deliver_finished([t for t in plan.trials if t.id not in done], storage, tracker)
    for trial in plan.trials:
        if trial not in missing:
            progress.already_complete(trial.id)
    observer = StudyObserver(tracker, progress)
    with progress:
        if missing:
            executor.run(missing, storage, observer)
    tracker.close()
    return observer.failures
