"""Where the workers of a trial go: gangs as a whole, GPUs shared by fraction, without any cluster."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.records import Resources, Trial

TINY = 1e-6


class Node(NamedTuple):
    """What a node of the cluster has."""

    id: str
    cpus: float
    gpus: int
    accelerator: str = ""
    """Type of its GPUs, as Ray names it."""


class Slot(NamedTuple):
    """What one worker holds."""

    node: str
    cpus: float
    gpus: tuple[tuple[int, float], ...]
    """GPU of the node and the share of it."""


@dataclass
class _Free:
    """What is left of a node."""

    node: Node
    cpus: float
    gpus: list[float]
    """Free share of each GPU, 0..1."""

    def copy(self) -> _Free:
        return replace(self, gpus=list(self.gpus))

    def room(self, need: Resources) -> int:
        """How many workers it could hold."""
        if need.accelerator is not None and need.accelerator != self.node.accelerator:
            return 0
        by_cpus = int((self.cpus + TINY) / need.cpus_per_worker)
        share = need.gpus_per_worker
        if share <= 0:
            return by_cpus
        if share < 1:
            return min(by_cpus, sum(int((free + TINY) / share) for free in self.gpus))
        return min(by_cpus, sum(free > 1 - TINY for free in self.gpus) // math.ceil(share - TINY))

    def _gpus_for(self, share: float) -> dict[int, float]:
        """GPU -> share of it; a share of less than one is taken from the fullest GPU that has room."""
        if share <= 0:
            return {}
        if share < 1:
            return {min((free, i) for i, free in enumerate(self.gpus) if free + TINY >= share)[1]: share}
        whole = [i for i, free in enumerate(self.gpus) if free > 1 - TINY]
        return dict.fromkeys(whole[: math.ceil(share - TINY)], 1.0)

    def take(self, need: Resources) -> Slot:
        """Give a worker its share; there must be room."""
        gpus = self._gpus_for(need.gpus_per_worker)
        self.cpus -= need.cpus_per_worker
        for i, share in gpus.items():
            self.gpus[i] -= share
        return Slot(self.node.id, need.cpus_per_worker, tuple(gpus.items()))


class Ledger:
    """What is free on every node, given who holds what.

    Args:
        nodes: The nodes that are alive.
        held: Slots that are taken; those on nodes that are gone are ignored.
    """

    def __init__(self, nodes: Iterable[Node], held: Iterable[Slot] = ()) -> None:
        self._free = [_Free(n, n.cpus, [1.0] * n.gpus) for n in nodes]
        known = {free.node.id: free for free in self._free}
        for slot in held:
            if (free := known.get(slot.node)) is None:
                continue
            free.cpus -= slot.cpus
            for i, share in slot.gpus:
                if i < len(free.gpus):
                    free.gpus[i] -= share

    def place(self, need: Resources) -> tuple[Slot, ...] | None:
        """Slots for all workers on as few nodes as possible, now taken; None where they do not fit."""
        copies = [free.copy() for free in self._free]
        slots: list[Slot] = []
        while len(slots) < need.workers:
            left = need.workers - len(slots)
            # of nodes that hold equally many, the one with the fewest GPUs, then CPUs, free
            best = max(copies, key=lambda free: (min(left, free.room(need)), -sum(free.gpus), -free.cpus), default=None)
            if best is None or best.room(need) == 0:
                return None
            slots += [best.take(need) for _ in range(min(left, best.room(need)))]
        self._free = copies
        return tuple(slots)


def fits_empty(need: Resources, nodes: Iterable[Node]) -> bool:
    """Whether a trial would fit if nothing else ran."""
    return Ledger(nodes).place(need) is not None


def describe_need(need: Resources) -> str:
    """For example `2 workers of 8 CPUs and 1 GPU (A100)`."""
    gpus = f" and {need.gpus_per_worker:g} GPU{'s' * (need.gpus_per_worker > 1)}" if need.gpus_per_worker else ""
    kind = f" ({need.accelerator})" if need.accelerator else ""
    cpus = f"{need.cpus_per_worker:g} CPU{'s' * (need.cpus_per_worker != 1)}"
    return f"{need.workers} worker{'s' * (need.workers > 1)} of {cpus}{gpus}{kind}"


def describe_nodes(nodes: Collection[Node]) -> str:
    """For example `2 nodes of 8 CPUs and 1 GPU (A100), 1 node of 4 CPUs`."""
    counts: dict[str, int] = defaultdict(int)
    for n in nodes:
        gpus = f" and {n.gpus} GPU{'s' * (n.gpus > 1)}" if n.gpus else ""
        kind = f" ({n.accelerator})" if n.accelerator else ""
        counts[f"{n.cpus:g} CPU{'s' * (n.cpus != 1)}{gpus}{kind}"] += 1
    return ", ".join(f"{count} node{'s' * (count > 1)} of {what}" for what, count in counts.items()) or "no nodes"


def unplaceable(trials: Iterable[Trial], nodes: Sequence[Node]) -> Mapping[Resources, Trial]:
    """What no set of these nodes could ever hold, with a trial that asks for it."""
    wanted: dict[Resources, Trial] = {}
    for trial in trials:
        wanted.setdefault(trial.resources, trial)
    return {need: trial for need, trial in wanted.items() if not fits_empty(need, nodes)}
