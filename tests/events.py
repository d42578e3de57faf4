"""An observer that remembers, and a driver around an executor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.executor import Executor, Session
from harness.records import Limits, Trial, TrialResult
from harness.schedule import FixedSource
from harness.trial_folder import EpochScores


@dataclass
class Events:
    """What an executor told."""

    started_ids: list[str] = field(default_factory=list)
    epochs: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    results: dict[str, TrialResult] = field(default_factory=dict)
    attempts: dict[str, list[Mapping[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    stopped_ids: list[str] = field(default_factory=list)
    elsewhere: dict[str, TrialResult] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def started(self, trial: Trial) -> None:
        self.started_ids.append(trial.id)

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        self.epochs[trial.id].append(epoch.epoch)

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        assert folder.is_dir()
        assert trial.id not in self.results, "a trial ends once"
        self.results[trial.id] = result

    def stopped(self, trial: Trial) -> None:
        self.stopped_ids.append(trial.id)

    def retried(self, trial: Trial, attempt: Mapping[str, Any]) -> None:
        self.attempts[trial.id].append(attempt)

    def ended_elsewhere(self, trial: Trial, result: TrialResult) -> None:
        self.elsewhere[trial.id] = result

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def refresh(self) -> None:
        pass


def run_all(
    executor: Executor,
    trials: Sequence[Trial],
    storage: Path,
    *,
    observer: Any = None,
    limits: Limits | None = None,
) -> Any:
    """Run trials as a driver of their own; the observer, by default an `Events`."""
    storage.mkdir(exist_ok=True)
    found = observer or Events()
    with Session.opened(storage, "test", limits) as session:
        executor.run(FixedSource(trials), session, found)
    return found
