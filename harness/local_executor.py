"""Trials one after the other in this process, without Ray: for tests and for debugging a model."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from harness.errors import TrialStopped
from harness.executor import SECONDS_BETWEEN_LOOKS, Observer, Others, Session, conclude, prepare
from harness.faults import fault_of, traceback_of
from harness.records import Trial, TrialResult, TrialState
from harness.schedule import TrialSource
from harness.trial import run_trial
from harness.trial_folder import STOP, EpochScores, append_history, trial_folder


class LocalContext:
    """A trial in this process."""

    def __init__(self, trial: Trial, session: Session, observer: Observer) -> None:
        self.device = torch.device("cuda" if trial.resources.gpus_per_worker > 0 else "cpu")
        self.storage = session.storage
        self.folder = trial_folder(session.storage, trial)
        self._trial, self._session, self._observer = trial, session, observer

    def report(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Write the epoch down and tell the observer."""
        found = EpochScores(epoch, dict(scores), time.time())
        append_history(self.folder, found)
        self._observer.reported(self._trial, found)
        self._observer.refresh()

    def stop_requested(self) -> bool:
        """Whether somebody asked the trial or its driver to end."""
        return self._session.stop.level > 0 or (self.folder / STOP).exists()

    def check_claim(self) -> None:
        """Stop where another driver has taken the trial over."""
        if not self._session.claims.owns(self.folder):
            raise TrialStopped("another driver has taken the trial over")


class LocalExecutor:
    """One trial after the other in this process, without Ray: for tests and for debugging a model."""

    def run(self, source: TrialSource, session: Session, observer: Observer) -> None:
        """Run every trial of a source to its end and tell the observer; fewer if asked to stop."""
        others = Others(session, observer)
        while session.stop.level == 0:
            ready = others.poll()
            if not ready and (trial := source.next(len(others))) is not None:
                ready = [trial] if others.claim(trial) else []
            elif not ready and not others and source.is_done():
                return
            elif not ready:
                time.sleep(SECONDS_BETWEEN_LOOKS / 4)
            for trial in ready:
                self._run(trial, session, observer)

    def close(self) -> None:
        """Nothing is kept."""

    @staticmethod
    def _run(trial: Trial, session: Session, observer: Observer) -> None:
        """Run one trial until it has ended or was stopped."""
        observer.started(trial)
        again: Trial | None = trial
        while again is not None:
            now = prepare(again, session.storage)
            result: TrialResult | None = None
            try:
                result = run_trial(now, LocalContext(now, session, observer))
            except TrialStopped:
                pass
            except Exception as error:  # noqa: BLE001 -- whatever a trial raises must not end the study
                result = TrialResult(trial.id, TrialState.FAILED, error=traceback_of(error), fault=fault_of(error))
            again = conclude(now, result, session, observer)
