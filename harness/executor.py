"""Running a plan's missing trials: what executors offer, a local one, and the study's main loop.

A trial keeps everything in `<storage>/trials/<id>/`: its checkpoints, `history.jsonl` with the scores of every epoch,
the per-sample tables, and `result.json`, written last and at once. Whoever finds a result there need not train again,
so a driver that dies between the end of a trial and its record in MLflow loses nothing.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from harness.records import Trial, TrialResult, TrialState
from harness.trial import run_trial


@dataclass(frozen=True)
class EpochScores:
    """What a trial reported after an epoch."""

    epoch: int
    """From 1."""
    scores: Mapping[str, float]
    """`train/loss`, `val/miou`, ..."""
    time: float
    """Seconds since 1970."""


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


def trial_folder(storage: Path, trial: Trial) -> Path:
    """Where a trial keeps its files, made if missing."""
    folder = storage / "trials" / trial.id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_result(folder: Path, result: TrialResult) -> None:
    """Write `result.json` so that it is there whole or not at all."""
    draft = folder / "result.json.tmp"
    draft.write_text(json.dumps(result.to_json(), indent=1))
    draft.replace(folder / "result.json")


def read_result(folder: Path) -> TrialResult | None:
    """The result in a trial's folder, or None where the trial has not ended."""
    path = folder / "result.json"
    return TrialResult.from_json(json.loads(path.read_text())) if path.exists() else None


def append_history(folder: Path, epoch: EpochScores) -> None:
    """Add one line to `history.jsonl`, after a line break of its own: a crash may have cut the line before short."""
    with (folder / "history.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"epoch": epoch.epoch, "scores": dict(epoch.scores), "time": epoch.time}))


def read_history(folder: Path) -> list[EpochScores]:
    """The epochs a trial reported, each once, in order; a line that a crash cut short is left out."""
    path = folder / "history.jsonl"
    found: dict[int, EpochScores] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[value["epoch"]] = EpochScores(value["epoch"], value["scores"], value["time"])
    return [found[epoch] for epoch in sorted(found)]


def clear_failure(folder: Path) -> None:
    """Forget an earlier failure so that the trial can be tried again from its checkpoint."""
    result = read_result(folder)
    if result is not None and result.state is not TrialState.COMPLETE:
        (folder / "result.json").unlink()


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


class LocalExecutor:
    """One trial after the other in this process, without Ray: for tests and for debugging a model."""

    def run(self, trials: Sequence[Trial], storage: Path, observer: Observer) -> None:
        """Run every trial to its end and tell the observer."""
        for trial in trials:
            observer.started(trial)
            context = LocalContext(trial, storage, observer)
            try:
                result = run_trial(trial, context)
            except Exception:  # noqa: BLE001 -- whatever a trial raises must not end the study
                result = TrialResult(trial.id, TrialState.FAILED, error=traceback.format_exc())
            write_result(context.folder, result)
            observer.finished(trial, result, context.folder)
