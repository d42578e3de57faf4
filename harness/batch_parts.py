"""A worker's share of the global batch, passed through the model in parts whose gradients are added up.

For the sum to be the gradient of the undivided batch, a part must know of the whole: losses divide by what they count
over the whole batch (`over_batch`), which its targets tell before the first part is computed, and random draws are made
for the whole batch, of which a part takes its rows (`rows_of_share`). What a part does not see is the statistics of the
whole batch inside a batch norm in training mode.

Models and losses are the same for a batch in one part. There is one batch at a time in a process.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from harness.distributed import total


class Rows(NamedTuple):
    """Where the rows at hand are inside this worker's share of the batch."""

    first: int
    share: int
    """Rows of the whole share."""


class BatchParts:
    """The parts of a share; they differ by one sample at most.

    Args:
        share: Tensors of equal length on one device.
        most: Samples of a part at most; None for one part.
    """

    def __init__(self, share: Mapping[str, Tensor], *, most: int | None) -> None:
        self._share = share
        self._rows = len(next(iter(share.values())))
        self._number = 1 if most is None else -(-self._rows // most)
        self._sums: dict[Hashable, Tensor] = {}
        self._current = slice(0, self._rows)

    def __len__(self) -> int:
        return self._number

    @contextmanager
    def enter(self, number: int) -> Iterator[dict[str, Tensor]]:
        """Part `number`, from 0, for as long as its forward pass and loss are computed."""
        global _entered
        self._current = slice(*(n * self._rows // self._number for n in (number, number + 1)))
        is_whole = self._number == 1
        before, _entered = _entered, self
        try:
            yield {name: value if is_whole else value[self._current] for name, value in self._share.items()}
        finally:
            _entered = before

    def place(self, rows: int) -> Rows:
        """Place of `rows` rows of the current part, equally many per sample."""
        start, stop = self._current.start, self._current.stop
        per_sample = rows // (stop - start)
        return Rows(start * per_sample, self._rows * per_sample)

    def summed(self, measure: Callable[[Tensor], Tensor], key: Hashable) -> Tensor:
        """Sum of `measure` over the targets of all parts and workers, found once per key."""
        if key not in self._sums:
            target = self._share["target"]
            most = -(-self._rows // self._number)  # as few at once as the model gets
            parts = [target] if self._number == 1 else torch.split(target, most)
            self._sums[key] = total(torch.stack([measure(rows) for rows in parts]).sum(0))
        return self._sums[key]


_entered: BatchParts | None = None


def rows_of_share(rows: int) -> Rows:
    """Where the `rows` rows at hand are inside this worker's share of the batch."""
    return Rows(0, rows) if _entered is None else _entered.place(rows)


def over_batch(measure: Callable[[Tensor], Tensor], target: Tensor, *, key: Hashable) -> Tensor:
    """Sum of a measure of targets over the whole batch: all workers, all parts; without gradient.

    Args:
        measure: Maps targets `(b, H, W)` of some samples to a sum over these samples.
        target: Targets of the rows at hand, which are the entry `target` of the batch.
        key: Tells apart different measures of one batch.
    """
    return total(measure(target)) if _entered is None else _entered.summed(measure, key)
