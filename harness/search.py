"""Searches over Optuna's ask and tell: which trial comes next, what it taught, and which values won.

Every search is an Optuna study in a database, so it goes on where it stopped: trials that were running are started
again under their number, with their values and therefore under their harness id, from their checkpoint. What is drawn
for a trial depends on the seed, the trial's number and what had ended before, not on the process that draws it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState as Ended

from harness.claims import Claims
from harness.errors import HarnessError
from harness.executor import Listener, tell_ended
from harness.faults import cause
from harness.metrics import METRICS
from harness.records import Trial, TrialResult, TrialState
from harness.search_store import (
    ABOUT,
    distribution_of,
    label_of,
    open_storage,
    outcome_of,
    pruner_of,
    sampler_of,
    storage_errors,
    study_name,
    suggest,
    values_of,
)
from harness.trial_folder import PRUNE, STOP, EpochScores, read_result, trial_folder, write_result
from harness.tuning import Outcome, Search, points

SECONDS_BETWEEN_LOOKS = 2.0
"""How often a search that another driver steers is looked at."""
MAX_CAUSE = 300
"""Characters kept of the cause of a failure."""


class SearchSource:
    """Where an executor's trials come from while variants are tuned; also what listens to how they end.

    All searches go on at once, the one that has spent least of its budget first. Two drivers share the searches of a
    study: each is steered by one of them, and taken over where that one is gone.

    Args:
        searches: What is tuned.
        url: Optuna's database.
        storage: Folder of the study's runs.
        claims: This driver.
        record: Told of trials that ended while nobody listened.
        clock: Seconds that never jump.
    """

    lookahead = 1

    def __init__(
        self,
        searches: Sequence[Search],
        *,
        url: str,
        storage: Path,
        claims: Claims,
        record: Listener,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._clock = url, clock
        with storage_errors(url):
            database = open_storage(url)
            self.steered = tuple(_Steered(s, database, storage, claims, record) for s in searches)
        self._flight: dict[str, list[tuple[_Steered, _Draw]]] = {}
        self._started: dict[str, float] = {}
        self._looked = -math.inf

    def next(self, outstanding: int) -> Trial | None:
        """The next trial; None when there is none now."""
        del outstanding
        with storage_errors(self._url):
            self._look()
            for steered in sorted(self.steered, key=lambda s: s.share):
                while (draw := steered.draw()) is not None:
                    trial = steered.search.trial(draw.values)
                    if steered.settle_repeat(trial, draw) or steered.settle_ended(trial, draw):
                        continue
                    self._flight.setdefault(trial.id, []).append((steered, draw))
                    if len(self._flight[trial.id]) == 1:
                        return trial
        return None

    def is_done(self) -> bool:
        """Whether every search has spent its budget."""
        with storage_errors(self._url):
            self._look()
        return all(s.is_done for s in self.steered)

    def started(self, trial: Trial) -> None:
        """The trial is under way."""
        self._started[trial.id] = self._clock()

    def reported(self, trial: Trial, epoch: EpochScores) -> None:
        """Pass an epoch's score on, and ask the trial to stop where the pruner says so."""
        with storage_errors(self._url):
            for steered, draw in self._flight.get(trial.id, ()):
                steered.report(trial, draw, epoch)

    def finished(self, trial: Trial, result: TrialResult, folder: Path) -> None:
        """Tell how the trial ended."""
        del folder
        hours = (self._clock() - self._started.pop(trial.id, self._clock())) / 3600
        with storage_errors(self._url):
            for n, (steered, draw) in enumerate(self._flight.pop(trial.id, ())):
                if not steered.settle_repeat(trial, draw):
                    steered.tell(trial, draw, result, hours=0.0 if n else hours)

    def stopped(self, trial: Trial) -> None:
        """The trial was asked to end before its time; it is the first to go on."""
        self._started.pop(trial.id, None)
        for steered, draw in self._flight.pop(trial.id, ()):
            steered.put_back(draw)

    def require_winners(self) -> None:
        """Raise `HarnessError` for the first search that has spent its budget without a complete trial."""
        for steered in self.steered:
            outcome = steered.outcome
            if steered.is_done and outcome.values is None:
                why = f"; the last failed with: {outcome.cause}" if outcome.cause else ""
                raise HarnessError(
                    f"the search of {steered.search.variant!r} must end with a complete trial, it has "
                    f"{outcome.spent.text()}{why}; change its space, or raise its trials"
                )

    def _look(self) -> None:
        """Now and then, see what other drivers have done."""
        if self._clock() - self._looked >= SECONDS_BETWEEN_LOOKS:
            self._looked = self._clock()
            for steered in self.steered:
                steered.look()


@dataclass
class _Draw:
    """One trial of an Optuna study."""

    trial: optuna.trial.Trial
    values: Mapping[str, Any]
    """Path -> value."""
    steps: set[int]
    """Epochs that Optuna knows."""


@dataclass
class _Steered:
    """One search and its Optuna study."""

    search: Search
    database: optuna.storages.BaseStorage
    storage: Path
    claims: Claims
    record: Listener
    outcome: Outcome = field(default_factory=Outcome)
    flight: int = 0
    """Trials that wait or run."""
    _is_ours: bool = False
    _left: list[optuna.trial.FrozenTrial] = field(default_factory=list)
    """Trials that another process left running."""
    _known: dict[str, optuna.trial.FrozenTrial] = field(default_factory=dict)
    """Harness id -> the first trial of that id that has ended."""

    def __post_init__(self) -> None:
        is_high = METRICS[self.search.metric].higher_is_better
        self._study = optuna.create_study(
            storage=self.database,
            study_name=study_name(self.search),
            direction="maximize" if is_high else "minimize",
            pruner=pruner_of(self.search),
            load_if_exists=True,
        )
        self._study.set_user_attr("variant", self.search.variant)
        self._distributions = {path: distribution_of(self.search, path) for path in self.search.space}
        self.look()

    @property
    def share(self) -> float:
        """Share of the budget that is spent or under way."""
        return (self.outcome.spent.trials + self.flight) / self.search.trials

    @property
    def is_done(self) -> bool:
        """Whether the budget is spent."""
        return self.outcome.spent.trials >= self.search.trials

    def look(self) -> None:
        """Read how far the search is; steer it unless another driver does."""
        if self._is_ours or self.is_done:
            return
        self._is_ours = self.claims.take(self._folder())
        trials = self._study.get_trials(deepcopy=False)
        self.outcome = outcome_of(self.search, trials)
        if self._is_ours:
            self._left = [t for t in trials if t.state is Ended.RUNNING]
            for trial in trials:
                self._remember(trial)

    def draw(self) -> _Draw | None:
        """The next trial to start; None when there is none now."""
        limit = self.search.parallel or math.inf
        if not self._is_ours or self.outcome.spent.trials + self.flight >= self.search.trials or self.flight >= limit:
            return None
        trials = self._study.get_trials(deepcopy=False)
        if self._left:
            found = self._left.pop(0)
            self._study.sampler = sampler_of(self.search, found.number)
            trial, steps = optuna.trial.Trial(self._study, found._trial_id), set(found.intermediate_values)
        else:
            self._study.sampler = sampler_of(self.search, len(trials))
            if self.search.sampler == "grid" and not any(t.state is Ended.WAITING for t in trials):
                self._study.enqueue_trial(self._grid_point(len(trials)))
            trial, steps = self._study.ask(), set()
        drawn = {path: suggest(trial, path, d) for path, d in self._distributions.items()}
        self.flight += 1
        return _Draw(trial, values_of(self.search, drawn), steps)

    def settle_repeat(self, trial: Trial, draw: _Draw) -> bool:
        """Tell at once how a trial ended whose values were drawn before."""
        known = self._known.get(trial.id)
        if known is None:
            return False
        self._end(draw, known.state, known.value, {"repeats": known.number, "trial_id": trial.id})
        return True

    def settle_ended(self, trial: Trial, draw: _Draw) -> bool:
        """Tell at once how a trial ended that did so while nobody listened."""
        result = read_result(trial_folder(self.storage, trial))
        if "pruned" in draw.trial.user_attrs and result is None:
            result = TrialResult(trial.id, TrialState.PRUNED)
            write_result(trial_folder(self.storage, trial), result)
        if result is None:
            return False
        tell_ended(trial, result, self.storage, self.record)
        self.tell(trial, draw, result, hours=0.0)
        return True

    def report(self, trial: Trial, draw: _Draw, epoch: EpochScores) -> None:
        """Pass an epoch's score on, and ask the trial to stop where the pruner says so."""
        value = epoch.scores.get(f"val/{self.search.metric}")
        if value is None or not math.isfinite(value) or epoch.epoch in draw.steps:
            return
        draw.steps.add(epoch.epoch)
        draw.trial.report(value, epoch.epoch)
        if epoch.epoch < trial.train["epochs"] and draw.trial.should_prune():
            draw.trial.set_user_attr("pruned", epoch.epoch)
            (trial_folder(self.storage, trial) / STOP).write_text(PRUNE, encoding="utf-8")

    def tell(self, trial: Trial, draw: _Draw, result: TrialResult, *, hours: float) -> None:
        """Tell how a trial ended."""
        gpus = trial.resources.workers * trial.resources.gpus_per_worker
        about: dict[str, Any] = {"hours": hours, "gpu_hours": hours * gpus}
        if result.error is not None:
            about["cause"] = f"{result.fault}: {cause(result.error)}"[:MAX_CAUSE]
        scores = {s.metric: s.value for s in result.scores if s.split == "val"}
        state = {TrialState.COMPLETE: Ended.COMPLETE, TrialState.PRUNED: Ended.PRUNED}.get(result.state, Ended.FAIL)
        self._end(draw, state, scores.get(self.search.metric), {**about, "trial_id": trial.id})

    def put_back(self, draw: _Draw) -> None:
        """Forget that a trial is under way; its turn comes again."""
        self.flight -= 1
        self._left += [t for t in self._study.get_trials(deepcopy=False) if t.number == draw.trial.number]

    def _end(self, draw: _Draw, state: Ended, value: float | None, about: Mapping[str, Any]) -> None:
        draw.trial.set_user_attr(ABOUT, about)
        self._study.sampler = optuna.samplers.RandomSampler()  # has nothing to do after a trial
        told = value if state is Ended.COMPLETE else None
        ended = self._study.tell(draw.trial.number, told, state=state, skip_if_finished=True)
        self.flight -= 1
        self._remember(ended)
        self.outcome = outcome_of(self.search, self._study.get_trials(deepcopy=False))
        if self.is_done:
            self.claims.release(self._folder())

    def _remember(self, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state.is_finished() and len(trial.params) == len(self.search.space):
            made = self.search.trial(values_of(self.search, trial.params))
            self._known.setdefault(made.id, trial)

    def _grid_point(self, number: int) -> dict[str, Any]:
        order = points(self.search.space)
        random.Random(self.search.seed).shuffle(order)
        return {path: label_of(value) for path, value in order[number % len(order)].items()}

    def _folder(self) -> Path:
        folder = self.storage / "searches" / self.search.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder
