"""Running a plan's missing trials: what executors offer and what they share."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from harness.claims import Claims
from harness.records import Limits, Score, Trial, TrialResult, TrialState
from harness.retry import plan_retry, with_attempts
from harness.schedule import TrialSource
from harness.stopping import StopSignal
from harness.trial_folder import (
    PRUNE,
    STOP,
    EpochScores,
    append_attempt,
    read_attempts,
    read_history,
    read_result,
    trial_folder,
    write_json,
    write_result,
)

SECONDS_BETWEEN_LOOKS = 1.0
"""How often the trials of other drivers are looked at."""


class Listener(Protocol):
    """Told what happens to trials."""

    def started(self, trial: Trial) -> None:
        """The trial has been given its workers or waits for them in the scheduler."""
        ...

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """An epoch is done; after a restart of the driver, epochs are told again from the first."""
        ...

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """The trial has ended; its files are in `folder`."""
        ...

    def stopped(self, trial: Trial) -> None:
        """The trial was asked to end before its time; it can go on from its last state."""
        ...


class Observer(Listener, Protocol):
    """Told by an executor what happens, from the thread that called `Executor.run`."""

    def retried(self, trial: Trial, attempt: Mapping[str, Any]) -> None:
        """The trial failed and is tried again; `attempt` is its line in `attempts.jsonl`."""
        ...

    def ended_elsewhere(self, trial: Trial, result: TrialResult) -> None:
        """Another driver has run the trial and recorded it."""
        ...

    def notice(self, text: str) -> None:
        """Something that the user should know, in one line."""
        ...

    def refresh(self) -> None:
        """Called a few times a second while trials run."""
        ...


class Relay:
    """An observer that passes on what happens to trials, to one listener after the other."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

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

    def stopped(self, trial: Trial) -> None:
        """The trial can go on some other time."""
        for listener in self._listeners:
            listener.stopped(trial)


def tell_ended(trial: Trial, result: TrialResult, storage: Path, listener: Listener) -> None:
    """Tell a listener of a trial that ended while nobody listened."""
    folder = trial_folder(storage, trial)
    listener.started(trial)
    for epoch in read_history(folder):
        listener.reported(trial, epoch)
    listener.finished(trial, result, folder)


@dataclass
class Session:
    """What an executor needs of the driver that it runs in."""

    storage: Path
    """Folder of the study's runs."""
    claims: Claims
    stop: StopSignal = field(default_factory=StopSignal)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    @contextmanager
    def opened(cls, storage: Path, study: str = "", limits: Limits | None = None) -> Iterator[Session]:
        """A driver of its own for as long as the block runs."""
        with Claims(storage, study) as claims:
            yield cls(storage, claims, StopSignal(claims.stop_file, _tell), limits or Limits())


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


class Executor(Protocol):
    """Runs trials; a trial that fails does not keep the others from running."""

    def run(self, source: TrialSource, session: Session, observer: Observer) -> None:
        """Run every trial of a source to its end and tell the observer; fewer if asked to stop or out of budget."""
        ...

    def close(self) -> None:
        """Give back what is kept between runs."""
        ...


class Others:
    """Trials that another driver runs: watched until they end, or until that driver is gone."""

    def __init__(self, session: Session, observer: Observer) -> None:
        self._session, self._observer = session, observer
        self._trials: list[Trial] = []
        self._looked = 0.0

    def __len__(self) -> int:
        return len(self._trials)

    def claim(self, trial: Trial) -> bool:
        """Whether the trial is ours to run now; one that is not is watched, or told as ended."""
        folder = trial_folder(self._session.storage, trial)
        if not self._session.claims.take(folder):
            self._trials.append(trial)
            return False
        result = read_result(folder)  # it may have ended between two looks
        if result is None:
            return True
        self._session.claims.release(folder)
        self._observer.ended_elsewhere(trial, result)
        return False

    def poll(self) -> list[Trial]:
        """Trials whose driver is gone: they are claimed and ours to run."""
        if time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return []
        self._looked = time.monotonic()
        watched, self._trials = self._trials, []
        return [trial for trial in watched if self.claim(trial)]


def prepare(trial: Trial, storage: Path) -> Trial:
    """Lay out a trial's folder before it starts; the trial with what earlier attempts found out."""
    folder = trial_folder(storage, trial)
    (folder / STOP).unlink(missing_ok=True)
    found = with_attempts(trial, folder)
    write_json(folder / "trial.json", found.to_json())
    return found


def conclude(trial: Trial, result: TrialResult | None, session: Session, observer: Observer) -> Trial | None:
    """What follows from the end of an attempt: it is recorded, or the trial to run again is returned.

    Args:
        trial: As it was run.
        result: None where the trial was stopped and has saved its state.
        session: The driver.
        observer: Is told.
    """
    folder = trial_folder(session.storage, trial)
    if not session.claims.owns(folder):
        observer.notice(f"{trial.variant} #{trial.replicate} was taken over by another driver")
        return None
    if result is None:
        asked = folder / STOP
        if asked.exists() and asked.read_text(encoding="utf-8").strip() == PRUNE:
            result = _pruned(trial, folder)
        elif asked.exists() or session.stop.level:
            session.claims.release(folder)
            observer.stopped(trial)
            return None
        else:
            return trial  # its node is about to go away
    attempt = plan_retry(trial, result, folder) if result.state is TrialState.FAILED else None
    if attempt is not None and not session.stop.level:
        append_attempt(folder, {**attempt, "time": time.time()})
        observer.retried(trial, attempt)
        return with_attempts(trial, folder)
    if attempts := read_attempts(folder):
        result = replace(result, notes={**result.notes, "restarts": len(attempts)})
    write_result(folder, result)
    observer.finished(trial, result, folder)
    session.claims.release(folder)
    return None


def _pruned(trial: Trial, folder: Path) -> TrialResult:
    """A trial that a search gave up: the scores of its last epoch."""
    history = read_history(folder)
    last = history[-1].scores if history else {}
    scores = tuple(Score("val", k.removeprefix("val/"), v) for k, v in last.items() if k.startswith("val/"))
    return TrialResult(trial.id, TrialState.PRUNED, scores)
