"""How a study stands, read from its storage folder alone: every trial, what it took, who drives, how long it lasts yet.

Nothing is asked of the processes that run the study, so it can be read on any machine that sees the folder, while they
run and after they are gone.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from harness.claims import Driver, Liveness, claimed_by, read_drivers
from harness.faults import cause
from harness.records import Fault, Plan, Trial, TrialResult, TrialState
from harness.trial_folder import STATE, EpochScores, read_attempts, read_history, read_result
from harness.trial_lookup import folder_of

PAUSE_EPOCHS = 10.0
PAUSE_SECONDS = 60.0
"""A silence between two epochs that is longer than this many usual epochs and seconds was a pause."""


@dataclass(frozen=True)
class DriverStatus:
    """A process that announced that it runs the study."""

    driver: Driver
    is_alive: bool
    silent_s: float
    """Since it last gave a sign of life."""
    age_s: float
    """Since it announced itself."""

    @property
    def host(self) -> str:
        """Name of its machine."""
        return self.driver.host.partition(" ")[0]


@dataclass(frozen=True)
class TrialStatus:
    """How one trial stands."""

    trial: Trial
    folder: Path
    state: TrialState = TrialState.WAITING
    epoch: int = 0
    """Epochs done, also of a trial that waits because it was interrupted."""
    epoch_s: float | None = None
    """Median seconds from epoch to epoch, validation included; None before the second."""
    step: int | None = None
    """Optimizer steps behind its last saved state; None where it has saved none."""
    step_s: float | None = None
    """Seconds per step, its share of the validation included; None where steps or epochs are not known."""
    score: float | None = None
    """Primary metric on the validation split: final, else of the last epoch."""
    fault: Fault | None = None
    cause: str = ""
    """Of a failure, in one line."""
    host: str = ""
    """Machine of the driver that runs it."""
    restarts: int = 0
    """Attempts that failed and were tried again."""
    spent_s: float = 0.0
    """Seconds it ran, without pauses."""
    gpu_h: float = 0.0
    cpu_h: float = 0.0
    left_s: float | None = 0.0
    """Estimate of the seconds it has yet to run; None where nothing has been measured."""

    @property
    def epochs(self) -> int:
        """Epochs it trains in all."""
        return int(self.trial.train["epochs"])

    @property
    def is_ended(self) -> bool:
        """Whether it runs no more."""
        return self.state not in (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands."""

    plan: Plan
    storage: Path
    trials: tuple[TrialStatus, ...]
    drivers: tuple[DriverStatus, ...]
    others_running: int = 0
    """Trials that this study's drivers run and no table shows, for example those of a search."""
    spooled: int = 0
    """Records on disk that MLflow does not have yet."""
    refused: int = 0
    """Records that MLflow refused."""

    def trial(self, trial_id: str) -> TrialStatus:
        """The trial of that id; KeyError if the plan has none."""
        return {t.trial.id: t for t in self.trials}[trial_id]

    def of(self, state: TrialState) -> list[TrialStatus]:
        """Trials in that state."""
        return [t for t in self.trials if t.state is state]

    @property
    def is_driven(self) -> bool:
        """Whether a process that is alive runs it."""
        return any(d.is_alive for d in self.drivers)

    @property
    def is_done(self) -> bool:
        """Whether every trial has ended."""
        return all(t.is_ended for t in self.trials)

    @property
    def left_s(self) -> float | None:
        """Estimate of the seconds that all trials together have yet to run; None where nothing has been measured."""
        parts = [t.left_s for t in self.trials]
        return None if None in parts else sum(p for p in parts if p is not None)

    @property
    def eta_s(self) -> float | None:
        """Estimate of the seconds until the study is done, if as many trials run at once as do now."""
        running = self.of(TrialState.RUNNING)
        if self.left_s is None or not running:
            return None
        return max(self.left_s / len(running), *(t.left_s or 0.0 for t in running))


def fault_counts(trials: Iterable[TrialStatus]) -> dict[Fault, int]:
    """Failures by their kind, in the order of `Fault`."""
    found = Counter(t.fault or Fault.ERROR for t in trials if t.state is TrialState.FAILED)
    return {fault: found[fault] for fault in Fault if found[fault]}


class StatusReader:
    """Reads a study's status as often as wanted.

    Args:
        plan: The study.
        storage: Folder of its runs.
        recorded: Ids known to be COMPLETE from elsewhere, whatever the folder says.
        clock: Seconds since 1970.
    """

    def __init__(
        self, plan: Plan, storage: Path, *, recorded: Collection[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._plan, self._storage, self._recorded, self._clock = plan, storage, recorded, clock
        self._liveness = Liveness(storage)

    def read(self) -> StudyStatus:
        """How the study stands now."""
        drivers = {d.token: self._driver(d) for d in read_drivers(self._storage) if d.study == self._plan.study}
        trials = [self._trial(trial, drivers) for trial in self._plan.trials]
        ids = {trial.id for trial in self._plan.trials}
        claims = [path.parent for path in (self._storage / "trials").glob("*/claim.json")]
        others = [f for f in claims if f.name not in ids and _is_held(drivers.get(claimed_by(f) or ""))]
        spool = self._storage / "spool" / self._plan.study
        return StudyStatus(
            plan=self._plan,
            storage=self._storage,
            trials=tuple(_with_estimates(trials)),
            drivers=tuple(drivers.values()),
            others_running=len(others),
            spooled=len(list(spool.glob("*/[0-9]*.json"))),
            refused=len(list(spool.glob("*/refused/[0-9]*.json"))),
        )

    def _driver(self, driver: Driver) -> DriverStatus:
        try:
            touched = (self._storage / "drivers" / f"{driver.token}.json").stat().st_mtime
        except OSError:
            touched = driver.started
        now = self._clock()
        alive = self._liveness.is_alive(driver.token)
        return DriverStatus(driver, alive, silent_s=max(0.0, now - touched), age_s=max(0.0, now - driver.started))

    def _trial(self, trial: Trial, drivers: dict[str, DriverStatus]) -> TrialStatus:
        folder = folder_of(self._storage, trial.id)
        if not folder.is_dir():
            state = TrialState.COMPLETE if trial.id in self._recorded else TrialState.WAITING
            return TrialStatus(trial, folder, state)
        result, history = read_result(folder), read_history(folder)
        holder = drivers.get(claimed_by(folder) or "")
        state = result.state if result else self._state_without_result(trial, holder)
        key = f"val/{self._plan.primary_metric}"
        curve = [e.scores[key] for e in history if key in e.scores]
        final = {f"{s.split}/{s.metric}": s.value for s in (result.scores if result else ())}
        spent = self._spent(folder, history, state)
        epoch_s, saved = _usual_gap([e.time for e in history]), _saved_steps(folder)
        per_epoch = min((step / epoch for epoch, step in saved if epoch), default=None)
        return TrialStatus(
            trial=trial,
            folder=folder,
            state=state,
            epoch=history[-1].epoch if history else 0,
            epoch_s=epoch_s,
            step=max((step for _, step in saved), default=None),
            step_s=None if epoch_s is None or not per_epoch else epoch_s / per_epoch,
            score=final.get(key, curve[-1] if curve else None),
            fault=result.fault if result else None,
            cause=cause((result.error if result else "") or ""),
            host=holder.host if holder and state is TrialState.RUNNING else "",
            restarts=len(read_attempts(folder)),
            spent_s=spent,
            gpu_h=_hours(trial, result, spent, per_worker=trial.resources.gpus_per_worker, name="gpu_hours"),
            cpu_h=_hours(trial, result, spent, per_worker=trial.resources.cpus_per_worker, name="cpu_hours"),
        )

    def _state_without_result(self, trial: Trial, holder: DriverStatus | None) -> TrialState:
        if _is_held(holder):
            return TrialState.RUNNING
        return TrialState.COMPLETE if trial.id in self._recorded else TrialState.WAITING

    def _spent(self, folder: Path, history: Sequence[EpochScores], state: TrialState) -> float:
        starts = [*_modified(folder / "trial.json"), *(float(a["time"]) for a in read_attempts(folder) if "time" in a)]
        ends = [self._clock()] if state is TrialState.RUNNING else _modified(folder / "result.json")
        return busy_seconds(starts, [e.time for e in history], ends)


def busy_seconds(starts: Sequence[float], epochs: Sequence[float], ends: Sequence[float]) -> float:
    """Seconds a trial ran, from what its files remember.

    Args:
        starts: When it was started; earlier starts may be forgotten.
        epochs: When each epoch was done.
        ends: When it ended, or the present.

    Returns:
        The time from sign to sign, where a silence after an epoch that is much longer than an epoch was a pause and
        counts as one epoch; the epoch before a start that is forgotten counts as one, too.
    """
    usual = _usual_gap(epochs)
    signs = sorted([(t, 0) for t in starts] + [(t, 1) for t in epochs] + [(t, 2) for t in ends])
    total = 0.0
    for (before, kind), (after, next_kind) in pairwise(signs):
        gap = after - before
        is_pause = usual is not None and gap > PAUSE_EPOCHS * usual + PAUSE_SECONDS and kind == 1 and next_kind != 2
        total += usual if usual is not None and is_pause else gap
    if usual is not None and signs[0][1] == 1:
        total += usual
    return total


def _usual_gap(times: Sequence[float]) -> float | None:
    """Median time between neighbours, the lower of two: a pause is no usual gap. None for fewer than two times."""
    gaps = [after - before for before, after in pairwise(times)]
    return max(0.0, statistics.median_low(gaps)) if gaps else None


def _saved_steps(folder: Path) -> list[tuple[int, int]]:
    """Epochs and steps behind each saved state, from names like `state-<epoch>-<step>.pt`."""
    matches = (STATE.fullmatch(path.name) for path in folder.glob("state-*.pt"))
    return [(int(found[1]), int(found[2])) for found in matches if found]


def _modified(path: Path) -> list[float]:
    try:
        return [path.stat().st_mtime]
    except OSError:
        return []


def _is_held(holder: DriverStatus | None) -> bool:
    return holder is not None and holder.is_alive


def _hours(trial: Trial, result: TrialResult | None, spent_s: float, *, per_worker: float, name: str) -> float:
    """What the trial measured, else the time it ran times what it held."""
    if result is not None and name in result.cost:
        return result.cost[name]
    return spent_s * trial.resources.workers * per_worker / 3600


def _with_estimates(trials: Sequence[TrialStatus]) -> list[TrialStatus]:
    """The trials with `left_s`: from the mean of the variant's finished trials, else of all, else from epochs."""
    by_variant: dict[str, list[float]] = {}
    for t in trials:
        if t.state is TrialState.COMPLETE and t.spent_s > 0:
            by_variant.setdefault(t.trial.variant, []).append(t.spent_s)
    everything = [seconds for found in by_variant.values() for seconds in found] or [
        t.spent_s / t.epoch * t.epochs for t in trials if t.state is TrialState.RUNNING and t.epoch
    ]
    overall = statistics.mean(everything) if everything else None

    def left(t: TrialStatus) -> float | None:
        if t.is_ended:
            return 0.0
        if t.state is TrialState.RUNNING and t.epoch_s is not None:
            return t.epoch_s * (t.epochs - t.epoch)
        known = by_variant.get(t.trial.variant)
        whole = statistics.mean(known) if known else overall
        if whole is None:
            return None
        if t.state is TrialState.RUNNING:
            return max(0.0, whole - t.spent_s)
        return whole * (1 - t.epoch / t.epochs)

    return [replace(t, left_s=left(t)) for t in trials]
