"""The study while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.faults import cause
from harness.records import Plan, Trial, TrialResult, TrialState
from harness.trial_folder import EpochScores

MAX_FINISHED_SHOWN = 6
SECONDS_BETWEEN_LINES = 60.0
"""Off a terminal, a running trial says how far it is at most this often."""


@dataclass
class TrialView:
    """What is known of one trial."""

    trial: Trial
    state: TrialState = TrialState.WAITING
    epoch: int = 0
    score: float | None = None
    """Primary metric on the validation split, last epoch or final."""
    started: float = 0.0
    ended: float = 0.0
    said: float = 0.0
    """When a line about it was last printed."""
    note: str = ""

    @property
    def label(self) -> str:
        """For example `MAFN #0`."""
        return f"{self.trial.variant} #{self.trial.replicate}"


@dataclass
class StudyView:
    """All trials of a plan and what follows from them."""

    plan: Plan
    clock: Callable[[], float] = time.time
    trials: dict[str, TrialView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trials = {t.id: TrialView(t) for t in self.plan.trials}

    def count(self, state: TrialState) -> int:
        """Trials in that state."""
        return sum(view.state is state for view in self.trials.values())

    def eta_seconds(self) -> float | None:
        """Time left, from the trials that ended in this run; None before the first one has.

        Trials still to start are spread over as many slots as trials run now.
        """
        ended = [v.ended - v.started for v in self.trials.values() if v.state is TrialState.COMPLETE and v.started]
        if not ended:
            return None
        mean = sum(ended) / len(ended)
        running = [v for v in self.trials.values() if v.state is TrialState.RUNNING]
        left = sum(max(0.0, mean - (self.clock() - v.started)) for v in running)
        return (left + mean * self.count(TrialState.WAITING)) / max(1, len(running))


def duration(seconds: float) -> str:
    """For example `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class StudyProgress:
    """Shows a study; an executor's observer.

    Args:
        plan: The study.
        console: Where to show it; a live table if it is a terminal.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self.view = StudyView(plan)
        self._key = f"val/{plan.primary_metric}"
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> StudyProgress:
        if self._live:
            self._live.start()
            self.refresh()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def already_complete(self, trial_id: str) -> None:
        """Count a trial that was finished before this run."""
        self.view.trials[trial_id].state = TrialState.COMPLETE

    def started(self, trial: Trial) -> None:
        """The trial is under way."""
        view = self.view.trials[trial.id]
        view.state, view.started = TrialState.RUNNING, self.view.clock()
        view.said = view.started
        self._say(f"started   {view.label}  {trial.id}")

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """An epoch is done."""
        view = self.view.trials[trial.id]
        view.epoch, view.score = epoch.epoch, epoch.scores.get(self._key)
        if self.view.clock() - view.said >= SECONDS_BETWEEN_LINES:
            self._say(f"epoch     {view.label}  {view.epoch}/{trial.train['epochs']}  {self._score_text(view)}")
            view.said = self.view.clock()

    def finished(self, trial: Trial, result: TrialResult, _folder: Path) -> None:
        """The trial has ended."""
        view = self.view.trials[trial.id]
        view.state, view.ended = result.state, self.view.clock()
        final = {f"{s.split}/{s.metric}": s.value for s in result.scores}
        view.score = final.get(self._key, view.score)
        view.note = cause(result.error or "")
        tail = view.note or self._score_text(view)
        spent = duration(view.ended - view.started)
        self._say(f"{result.state.value.lower():9} {view.label}  {tail}  ({spent}; {self.summary()})")

    def stopped(self, trial: Trial) -> None:
        """The trial can go on some other time."""
        view = self.view.trials[trial.id]
        view.state, view.note = TrialState.WAITING, ""
        self._say(f"stopped   {view.label}  after epoch {view.epoch}/{trial.train['epochs']}")

    def retried(self, trial: Trial, why: str, changes: str) -> None:
        """The trial is tried again."""
        view = self.view.trials[trial.id]
        view.note = f"again after {why}" + (f" with {changes}" if changes else "")
        self._say(f"again     {view.label}  {why}" + (f"; now {changes}" if changes else ""))

    def notice(self, text: str) -> None:
        """A line that stays above the live table."""
        self._console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)

    def refresh(self) -> None:
        """Redraw the live table."""
        if self._live:
            self._live.update(self.render())

    def summary(self) -> str:
        """For example `3 of 14 done, 2 running, 9 waiting, about 4 min left`."""
        view = self.view
        parts = [f"{view.count(TrialState.COMPLETE)} of {len(view.trials)} done"]
        for state, word in (
            (TrialState.RUNNING, "running"),
            (TrialState.WAITING, "waiting"),
            (TrialState.FAILED, "failed"),
        ):
            if view.count(state):
                parts.append(f"{view.count(state)} {word}")
        eta = view.eta_seconds()
        if eta is not None and view.count(TrialState.RUNNING) + view.count(TrialState.WAITING):
            parts.append(f"about {duration(eta)} left")
        return ", ".join(parts)

    def render(self) -> RenderableType:
        """The live table: running trials, then the last that ended, then the counts."""
        table = Table(title=f"{self.view.plan.study}: {self.view.plan.question}", expand=False)
        for head in ("variant", "state", "epoch", self._key, "time", ""):
            table.add_column(head, justify="right" if head in ("epoch", self._key, "time") else "left")
        views = list(self.view.trials.values())
        ended = sorted((v for v in views if v.ended), key=lambda v: v.ended)[-MAX_FINISHED_SHOWN:]
        for view in ended + [v for v in views if v.state is TrialState.RUNNING]:
            until = view.ended or self.view.clock()
            score = "" if view.score is None else f"{100 * view.score:.2f}"
            epochs = f"{view.epoch}/{view.trial.train['epochs']}"
            table.add_row(view.label, view.state.value, epochs, score, duration(until - view.started), view.note[:60])
        return Group(table, Text(self.summary()))

    def _score_text(self, view: TrialView) -> str:
        return "" if view.score is None else f"{self._key} {100 * view.score:.2f}"

    def _say(self, line: str) -> None:
        if self._live is None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
