"""Which trial starts next on which nodes: order, gangs, packing of GPUs, caps and budgets, without any cluster.

A gang is placed as a whole or not at all, so trials that wait for each other's GPUs cannot deadlock. Later trials may
overtake one that does not fit yet, but only `MAX_OVERTAKEN` of them: then what is freed gathers for it, so that a large
trial does not starve behind a stream of small ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from harness.placement import Ledger, Node, Slot, fits_empty
from harness.records import Limits, Resources, Trial

MAX_OVERTAKEN = 8
MEMORY_MARGIN = 1.1
"""A trial that shares a GPU is given this times the memory that its pilot needed."""


class TrialSource(Protocol):
    """Where an executor's trials come from."""

    lookahead: int
    """Trials it may have waiting at once: many for a fixed list, 1 for a search that learns from what has ended."""

    def next(self, outstanding: int) -> Trial | None:
        """The next trial; None when there is none now. `outstanding` trials of it wait or run."""
        ...

    def is_done(self) -> bool:
        """Whether no trial will come any more."""
        ...


class FixedSource:
    """Trials in a given order."""

    lookahead = 10**9

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._left = list(trials)

    def next(self, outstanding: int) -> Trial | None:
        """The next trial of the list."""
        del outstanding
        return self._left.pop(0) if self._left else None

    def is_done(self) -> bool:
        """Whether the list is used up."""
        return not self._left


class Shape(NamedTuple):
    """What a process holds; one that is kept serves trials of its shape."""

    cpus: float
    gpus: float
    accelerator: str | None


def shape_of(need: Resources) -> Shape:
    """The shape of each worker's process."""
    return Shape(need.cpus_per_worker, need.gpus_per_worker, need.accelerator)


class Start(NamedTuple):
    """A trial to start now."""

    trial: Trial
    """With the resources it is really given."""
    slots: tuple[Slot, ...]
    evict: bool = False
    """Whether idle processes on these nodes must go to make room."""


@dataclass
class _Waiting:
    trial: Trial
    overtaken: int = 0


@dataclass
class _Running:
    trial: Trial
    slots: tuple[Slot, ...]
    since: float
    is_pilot: bool


@dataclass
class Schedule:
    """The queue of one driver.

    Args:
        limits: Cap and budgets.
        clock: Seconds that never jump.
    """

    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    _waiting: list[_Waiting] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)
    _gpu_seconds: float = 0.0
    _began: float | None = None
    _pilots: dict[str, str] = field(default_factory=dict)
    """Variant -> its pilot trial."""
    _shares: dict[str, float] = field(default_factory=dict)
    """Variant -> share of a GPU that its pilot found it to need; 0 where the pilot could not tell."""

    @property
    def waiting(self) -> tuple[Trial, ...]:
        """Trials that have not started, in order."""
        return tuple(w.trial for w in self._waiting)

    @property
    def running(self) -> tuple[Trial, ...]:
        """Trials that hold slots."""
        return tuple(r.trial for r in self._running.values())

    def slots(self) -> tuple[Slot, ...]:
        """Everything that running trials hold."""
        return tuple(slot for r in self._running.values() for slot in r.slots)

    def add(self, trial: Trial, *, first: bool = False) -> None:
        """Queue a trial, at the end or, for one that is tried again, in front."""
        self._waiting.insert(0 if first else len(self._waiting), _Waiting(trial))

    def remove(self, trial: Trial) -> None:
        """Forget a trial that waits."""
        self._waiting = [w for w in self._waiting if w.trial.id != trial.id]

    def exhausted(self) -> str:
        """Which budget is used up; empty while trials may start."""
        if self._began is None:
            return ""
        hours = (self.clock() - self._began) / 3600
        if self.limits.hours is not None and hours >= self.limits.hours:
            return f"schedule.hours = {self.limits.hours:g}"
        if self.limits.gpu_hours is not None and self.gpu_hours() >= self.limits.gpu_hours:
            return f"schedule.gpu_hours = {self.limits.gpu_hours:g}"
        return ""

    def gpu_hours(self) -> float:
        """GPU-hours that this driver's trials have held so far."""
        now = self.clock()
        live = sum((now - r.since) * _num_gpus(r.slots) for r in self._running.values())
        return (self._gpu_seconds + live) / 3600

    def start_next(self, nodes: Sequence[Node], idle: Sequence[tuple[Shape, Slot]] = ()) -> Start | None:
        """Take the next trial that may start off the queue; None where none may.

        Args:
            nodes: Nodes that are alive.
            idle: Kept processes without a trial; one of the right shape is used again.
        """
        self._began = self.clock() if self._began is None else self._began
        cap = self.limits.max_running
        if self.exhausted() or (cap is not None and len(self._running) >= cap):
            return None
        refused: set[Resources] = set()
        same: set[int] = set()  # the very objects that were refused: hundreds that wait share a few
        blocked: _Waiting | None = None
        for waiting in self._waiting:
            need = self._need(waiting.trial)
            if need is None or id(need) in same or need in refused:
                continue
            found = self._place(need, nodes, idle)
            if found is None:
                refused.add(need)
                same.add(id(need))
                if blocked is None and fits_empty(need, nodes):
                    blocked = waiting
                    if blocked.overtaken >= MAX_OVERTAKEN:
                        return None
                continue
            if blocked is not None:
                blocked.overtaken += 1
            asked = waiting.trial
            trial = asked if need is asked.resources else replace(asked, resources=need)
            self._begin(waiting, trial, found[0])
            return Start(trial, *found)
        return None

    def _place(
        self, need: Resources, nodes: Sequence[Node], idle: Sequence[tuple[Shape, Slot]]
    ) -> tuple[tuple[Slot, ...], bool] | None:
        """Slots for a trial and whether idle processes must go: an idle process, else beside them, else over them."""
        if need.workers == 1 and need.reuse_workers:
            for shape, slot in reversed(idle):  # the last used has the warmest caches
                if shape == shape_of(need):
                    return (slot,), False
        held = self.slots()
        if (slots := Ledger(nodes, [*held, *(slot for _, slot in idle)]).place(need)) is not None:
            return slots, False
        slots = Ledger(nodes, held).place(need) if idle else None
        return None if slots is None else (slots, True)

    def ended(self, trial: Trial) -> None:
        """A running trial has given its slots back."""
        done = self._running.pop(trial.id)
        self._gpu_seconds += (self.clock() - done.since) * _num_gpus(done.slots)
        if done.is_pilot:
            self._shares.setdefault(trial.variant_id, 0.0)

    def learn_memory(self, trial: Trial, share: float) -> None:
        """A pilot has measured the share of a GPU's memory, 0..1, that its variant needs."""
        self._shares[trial.variant_id] = share * MEMORY_MARGIN

    def needs_pilot(self, trial: Trial) -> bool:
        """Whether this running trial is the pilot of its variant and has not measured yet."""
        running = self._running.get(trial.id)
        return running is not None and running.is_pilot and trial.variant_id not in self._shares

    def _need(self, trial: Trial) -> Resources | None:
        """What a trial is given: as asked; a whole GPU for a pilot; None while a pilot measures for it."""
        asked = trial.resources
        if not 0 < asked.gpus_per_worker < 1:
            return asked
        variant = trial.variant_id
        if variant in self._shares:
            share = max(asked.gpus_per_worker, math.ceil(100 * self._shares[variant] - 1e-6) / 100)
            return replace(asked, gpus_per_worker=min(1.0, share))
        pilot = self._pilots.get(variant)
        return None if pilot in self._running else replace(asked, gpus_per_worker=1.0)

    def _begin(self, waiting: _Waiting, trial: Trial, slots: tuple[Slot, ...]) -> None:
        asked = waiting.trial.resources.gpus_per_worker
        is_pilot = 0 < asked < 1 and trial.variant_id not in self._shares
        if is_pilot:
            self._pilots[trial.variant_id] = trial.id
        self._waiting.remove(waiting)
        self._running[trial.id] = _Running(trial, slots, self.clock(), is_pilot)


def _num_gpus(slots: Iterable[Slot]) -> float:
    return sum(share for slot in slots for _, share in slot.gpus)
