"""Whole tiles through a model that sees windows: where the windows lie, and the average of overlapping scores.

A tile of 6000 x 6000 pixels with 15 classes would need 2 GB of scores. Windows come row by row, so that only as many
rows of sums are kept as a window has; rows that no later window reaches are handed out as classes. Letters: `K`
classes, `h w` window, `H W` tile, `n` rows of a strip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.confusion import MAX_CLASSES
from harness.data.semantic import Window


class Strip(NamedTuple):
    """Whole rows of a tile that are finished."""

    first_row: int
    indices: NDArray[np.uint8]
    """Classes `(n, W)`."""


def window_starts(size: int, *, window: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows along one side, ascending; the last window is moved inwards to end with the side.

    Args:
        size: Pixels of the side, at least 1.
        window: Pixels of a window, at least 1; one larger than the side starts at 0.
        stride: Pixels between starts, 1..window, so that no pixel is left out.

    Raises:
        ValueError: A number out of its range.
    """
    if min(size, window) < 1 or not 1 <= stride <= window:
        raise ValueError(
            f"size and window must be at least 1 and stride 1..window, got size {size}, window {window}, "
            f"stride {stride}"
        )
    last = max(size - window, 0)
    return (*range(0, last, stride), last)


def tile_windows(height: int, width: int, *, window: int, stride: int) -> list[Window]:
    """Square windows over a tile, row by row from the upper left; cut to the tile where it is smaller.

    Args:
        height: H in pixels.
        width: W in pixels.
        window: Side of a window in pixels.
        stride: Pixels between windows, 1..window.

    Raises:
        ValueError: See `window_starts`.
    """
    rows = window_starts(height, window=window, stride=stride)
    columns = window_starts(width, window=window, stride=stride)
    return [Window(row, column, min(window, height), min(window, width)) for row in rows for column in columns]


class OverlapAverage:
    """Classes of a tile from the average of the scores of all windows that see a pixel; ties go to the lower class.

    Whether logits or probabilities are averaged is up to the caller. All windows that see a pixel are as many for one
    class as for another, so that the class of the largest average is the class of the largest sum, and only sums are
    kept: K x window x W numbers of 32 bits, whatever H is.

    Args:
        num_classes: K, 1..254.
        height: H in pixels.
        width: W in pixels.
        window: Rows of the highest window.
        device: Where sums are kept; scores must be there.

    Raises:
        ValueError: A number out of its range.
    """

    def __init__(self, num_classes: int, *, height: int, width: int, window: int, device: torch.device) -> None:
        if not 1 <= num_classes <= MAX_CLASSES or min(height, width, window) < 1:
            raise ValueError(
                f"num_classes must be 1..{MAX_CLASSES}, height, width and window at least 1, got {num_classes}, "
                f"{height}, {width} and {window}"
            )
        self._height, self._width = height, width
        self._num_kept = min(window, height)
        # Row r of the tile is row r % num_kept of the sums: nothing is moved when the window goes down.
        self._sums = torch.zeros((num_classes, self._num_kept, width), dtype=torch.float32, device=device)
        self._last: Window | None = None
        self._seen_columns = 0
        self._first_open = 0

    @torch.no_grad()
    def add(self, window: Window, scores: Tensor) -> Strip | None:
        """Add the scores of a window; give the rows above it, where no later window comes, if that is known only now.

        Args:
            window: Inside the tile, in row-major order as `tile_windows` gives them, without gaps.
            scores: `(K, h, w)` floats of any precision.

        Raises:
            ValueError: The window is not the next of a gapless row-major order, or `scores` has another shape.
        """
        expected = (len(self._sums), window.height, window.width)
        if tuple(scores.shape) != expected:
            raise ValueError(f"scores of {window} must be {expected}, got {tuple(scores.shape)}")
        self._require_next(window)
        strip = None
        if window.row > self._first_open:
            strip = self._finished(window.row)
        columns = slice(window.column, window.column + window.width)
        for kept, first in self._kept_rows(window.row, window.row + window.height):
            part = scores[:, first : first + kept.stop - kept.start]
            self._sums[:, kept, columns] += part
        self._seen_columns = columns.stop
        self._last = window
        return strip

    def finish(self) -> Strip:
        """The last rows; to be called once, after the last window.

        Raises:
            ValueError: Windows are missing.
        """
        last = self._last
        if last is None or last.row + last.height < self._height or self._seen_columns < self._width:
            raise ValueError(f"windows must cover {self._height}x{self._width} pixels (height x width), last is {last}")
        return self._finished(self._height)

    def _require_next(self, window: Window) -> None:
        last = self._last
        inside = (
            window.row + window.height <= self._height
            and window.column + window.width <= self._width
            and window.height <= self._num_kept
        )
        if last is not None and window.row == last.row:
            follows = last.column < window.column <= self._seen_columns and window.height == last.height
        else:
            is_complete = last is None or self._seen_columns == self._width
            end = 0 if last is None else last.row + last.height
            follows = is_complete and window.column == 0 and self._first_open <= window.row <= end
        if not inside or not follows:
            raise ValueError(
                f"windows must lie inside {self._height}x{self._width} pixels (height x width), be at most "
                f"{self._num_kept} high and come row by row without gaps, got {window} after {last}"
            )

    def _finished(self, stop: int) -> Strip:
        """Classes of the open rows above `stop`, whose place in the sums becomes free."""
        first = self._first_open
        indices = np.empty((stop - first, self._width), np.uint8)
        for kept, offset in self._kept_rows(first, stop):
            sums = self._sums[:, kept]
            best = sums.max(0).indices  # the first of equals, like argmax, in a third of its time on a CPU
            indices[offset : offset + kept.stop - kept.start] = best.to(torch.uint8).cpu().numpy()
            sums.zero_()
        self._first_open = stop
        return Strip(first, indices)

    def _kept_rows(self, first: int, stop: int) -> Iterator[tuple[slice, int]]:
        """Rows of the sums that hold rows `first` to `stop` of the tile, in one or two pieces; how far down each is."""
        start, count = first % self._num_kept, stop - first
        upper = min(count, self._num_kept - start)
        yield slice(start, start + upper), 0
        if upper < count:
            yield slice(0, count - upper), upper
