"""A study from plan to record: what is missing is run, everything is written down, failures are listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.executor import Executor, Relay, Session, tell_ended
from harness.faults import cause
from harness.progress import StudyProgress
from harness.records import Fault, Plan, Trial, TrialResult
from harness.schedule import FixedSource
from harness.tracking import MlflowTracker
from harness.trial_folder import clear_failure, read_result, trial_folder


@dataclass(frozen=True)
class Failure:
    """A trial that did not end well."""

    trial: Trial
    fault: Fault
    cause: str
    """Last line of its traceback."""
    folder: Path
    """Where `result.json` has the whole traceback, and `log-0.txt` what it printed."""


@dataclass(frozen=True)
class Outcome:
    """What a run of a study left."""

    failures: Sequence[Failure]
    """Trials that failed, in the order in which they ended."""
    left: Sequence[Trial]
    """Trials that were not started or not finished: a budget was used up, or somebody asked to stop."""


class StudyObserver(Relay):
    """Passes what an executor tells on to the record and to the screen."""

    def __init__(self, tracker: MlflowTracker, progress: StudyProgress, session: Session) -> None:
        super().__init__(tracker, progress)
        self._progress = progress
        self._session = session
        self.failures: list[Failure] = []
        self.ended: set[str] = set()

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """The trial has ended."""
        super().finished(trial, result, folder)
        self._note(trial, result)

    def retried(self, trial: Trial, attempt: Mapping[str, Any]) -> None:
        """The trial is tried again."""
        changes = ", ".join(f"{name} = {value}" for name, value in attempt.get("changes", {}).items())
        self._progress.retried(trial, f"{attempt['fault']}: {attempt['cause']}", changes)

    def ended_elsewhere(self, trial: Trial, result: TrialResult) -> None:
        """Another driver has run the trial."""
        self._progress.finished(trial, result, trial_folder(self._session.storage, trial))
        self._note(trial, result)

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._progress.notice(text)

    def refresh(self) -> None:
        """Redraw."""
        self._progress.refresh()

    def _note(self, trial: Trial, result: TrialResult) -> None:
        self.ended.add(trial.id)
        if result.fault is not None:
            folder = trial_folder(self._session.storage, trial)
            self.failures.append(Failure(trial, result.fault, cause(result.error or ""), folder))


def run_study(
    plan: Plan, *, tracker: MlflowTracker, executor: Executor, progress: StudyProgress, session: Session
) -> Outcome:
    """Run every trial of the plan that is not COMPLETE yet.

    Args:
        plan: The study, expanded.
        tracker: Opened for this plan.
        executor: Runs the trials.
        progress: Shows them.
        session: Storage, claims and limits of this driver.
    """
    done = tracker.complete(t.id for t in plan.trials)
    missing = [t for t in plan.trials if t.id not in done and not _delivered(t, tracker, session)]
    for trial in plan.trials:
        if trial not in missing:
            progress.already_complete(trial.id)
    observer = StudyObserver(tracker, progress, session)
    with progress:
        if missing:
            executor.run(FixedSource(missing), session, observer)
    tracker.close()
    return Outcome(observer.failures, [t for t in missing if t.id not in observer.ended])


def _delivered(trial: Trial, tracker: MlflowTracker, session: Session) -> bool:
    """Record a trial that ended while nobody was listening; False for one that is still to run, here or elsewhere."""
    folder = trial_folder(session.storage, trial)
    if not session.claims.take(folder):
        return False
    clear_failure(folder)
    result = read_result(folder)
    if result is not None:
        tell_ended(trial, result, session.storage, tracker)
    session.claims.release(folder)
    return result is not None
