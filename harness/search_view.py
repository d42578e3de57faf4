"""Searches while they run, as plain lines: what started, what ended, what is spent and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from harness.faults import cause
from harness.metrics import METRICS
from harness.records import Trial, TrialResult, TrialState
from harness.trial_folder import EpochScores
from harness.tuning import Search


class SearchProgress:
    """Shows searches; listens to their trials.

    Args:
        searches: What is tuned, as far as each is.
        console: Where lines go.
    """

    def __init__(self, searches: Sequence[Search], console: Console) -> None:
        self._searches = {s.template.variant: s for s in searches}
        self._ended = {s.template.variant: s.outcome.spent.trials for s in searches}
        self._best = {s.template.variant: s.outcome.score for s in searches}
        self._console = console

    def started(self, trial: Trial) -> None:
        """The trial is under way."""
        search = self._searches[trial.variant]
        drawn = ", ".join(f"{path} = {text}" for path, text in search.drawn(trial).items())
        self._say(f"started   {trial.variant}  {trial.id}  {drawn}")

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """An epoch is done; said when the trial ends."""
        del trial, epoch

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """The trial has ended."""
        del folder
        search = self._searches[trial.variant]
        self._ended[trial.variant] += 1
        found = next((s.value for s in result.scores if (s.split, s.metric) == ("val", search.metric)), None)
        best = self._best[trial.variant]
        sign = 1 if METRICS[search.metric].higher_is_better else -1
        if result.state is TrialState.COMPLETE and found is not None and (best is None or sign * found > sign * best):
            self._best[trial.variant] = best = found
        tail = cause(result.error or "") or score_text(search, found)
        counts = f"{min(self._ended[trial.variant], search.trials)} of {search.trials} trials"
        so_far = f"({counts}; best {score_text(search, best)})"
        self._say(f"{result.state.value.lower():9} {trial.variant}  {trial.id}  {tail}  {so_far}")

    def stopped(self, trial: Trial) -> None:
        """The trial can go on some other time."""
        self.notice(f"{trial.variant} {trial.id} stopped, it goes on from its last saved state")

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def score_text(search: Search, value: float | None) -> str:
    """For example `val/miou 61.20`; `none` without a score."""
    if value is None:
        return "none"
    metric = METRICS[search.metric]
    return f"val/{metric.name} {value * metric.scale:.{metric.decimals}f}"


def search_lines(searches: Sequence[Search]) -> list[str]:
    """What is tuned and how far each search is, for `harness plan`."""
    lines: list[str] = []
    for search in searches:
        outcome = search.outcome
        left = max(0, search.trials - outcome.spent.trials)
        spent = (
            f"spent {outcome.spent.trials} ({outcome.spent.text()}), {left} left"
            if outcome.spent.trials
            else "not begun"
        )
        lines += [f"  {search.variant}  {search.key}: {search.text()}", f"    {spent}"]
        if outcome.values is not None:
            word = "winner" if search.is_done else "best so far"
            found = ", ".join(f"{path} = {text}" for path, text in search.found().items())
            lines.append(f"    {word}: {found} ({score_text(search, outcome.score)})")
        if search.reason:
            lines.append(f"    budget: {search.reason}")
    return lines
