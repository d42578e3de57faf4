"""A 6000 x 6000 tile from overlapping windows: CPU time and memory against sums of the whole tile, in one run.

    python -m benchmarks.whole_tiles

15 classes, windows of 512 with half of each overlapping, random scores prepared before the clock starts: there is no
model, so that only averaging, the choice of a class and the confusion matrix are measured. The plain side is what one
first writes: sums and counts of the whole tile, their quotient, argmax, and a confusion matrix by two loops over
classes, or, as a second plain side, by one bincount. The harness hands out finished strips of rows and counts them as
they come. Each side runs in a process of its own; passes alternate. All matrices must be equal, and the harness must
need at most half of the CPU time of the first plain side and a fifth of its memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.confusion import confusion_matrix
from harness.data.semantic import IGNORED, Window
from harness.sliding_window import OverlapAverage, tile_windows

MAX_TIME, MAX_MEMORY = 0.5, 0.2
NUM_PREPARED = 5

Matrix = NDArray[np.int64]


class Size(NamedTuple):
    """What is predicted."""

    side: int
    window: int
    num_classes: int


class Measured(NamedTuple):
    """What a pass needed; memory without what there was before it."""

    cpu_s: float
    peak_mib: float
    matrix: Matrix


def prepare(size: Size) -> tuple[NDArray[np.uint8], list[Window], list[Tensor]]:
    """Labels `(H, W)`, windows, and scores `(K, h, w)` that are taken in turn."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, size.num_classes, (size.side, size.side), np.uint8)
    truth[:: size.side // 10] = IGNORED
    windows = tile_windows(size.side, size.side, window=size.window, stride=size.window // 2)
    generator = torch.Generator().manual_seed(0)
    # Eighths, so that sums and averages are exact and both sides must give the same classes.
    shape = (size.num_classes, size.window, size.window)
    return truth, windows, [torch.randint(0, 64, shape, generator=generator) / 8 for _ in range(NUM_PREPARED)]


def predict_plainly(size: Size, windows: list[Window], scores: list[Tensor]) -> NDArray[np.int64]:
    """Classes of the tile at once."""
    sums, counts = torch.zeros((size.num_classes, size.side, size.side)), torch.zeros((size.side, size.side))
    for number, w in enumerate(windows):
        sums[:, w.row : w.row + w.height, w.column : w.column + w.width] += scores[number % NUM_PREPARED]
        counts[w.row : w.row + w.height, w.column : w.column + w.width] += 1
    predicted: NDArray[np.int64] = sums.div_(counts).argmax(0).numpy()
    return predicted


def plain(size: Size, truth: NDArray[np.uint8], windows: list[Window], scores: list[Tensor]) -> Matrix:
    """The tile at once, two loops over classes."""
    predicted = predict_plainly(size, windows, scores)
    matrix = np.zeros((size.num_classes, size.num_classes), np.int64)
    for i in range(size.num_classes):
        for j in range(size.num_classes):
            matrix[i, j] = ((truth == i) & (predicted == j)).sum()
    return matrix


def plain_bincount(size: Size, truth: NDArray[np.uint8], windows: list[Window], scores: list[Tensor]) -> Matrix:
    """The tile at once, one bincount."""
    predicted = predict_plainly(size, windows, scores)
    valid = truth != IGNORED
    codes = truth[valid].astype(np.int64) * size.num_classes + predicted[valid]
    return np.bincount(codes, minlength=size.num_classes**2).reshape(size.num_classes, size.num_classes)


def ours(size: Size, truth: NDArray[np.uint8], windows: list[Window], scores: list[Tensor]) -> Matrix:
    """The tile in strips."""
    average = OverlapAverage(
        size.num_classes, height=size.side, width=size.side, window=size.window, device=torch.device("cpu")
    )
    matrix = np.zeros((size.num_classes, size.num_classes), np.int64)
    for number, w in enumerate(windows):
        strip = average.add(w, scores[number % NUM_PREPARED])
        if strip is not None:
            part = truth[strip.first_row : strip.first_row + len(strip.indices)]
            matrix += confusion_matrix(part, strip.indices, num_classes=size.num_classes)
    strip = average.finish()
    return matrix + confusion_matrix(truth[strip.first_row :], strip.indices, num_classes=size.num_classes)


SIDES: dict[str, Callable[..., Matrix]] = {"plain": plain, "plain, bincount": plain_bincount, "harness": ours}


def work(side: str, size: Size, found: Any) -> None:
    """A process: prepare, then measure."""
    torch.set_num_threads(1)
    prepared = prepare(size)
    before, start = _peak_mib(), time.process_time()
    matrix = SIDES[side](size, *prepared)
    found.put(Measured(time.process_time() - start, _peak_mib() - before, matrix))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_apart(side: str, size: Size) -> Measured:
    """What a process of its own needed."""
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=work, args=(side, size, found))
    process.start()
    measured: Measured = found.get()
    process.join()
    return measured


def main() -> None:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=6000, help="pixels of the tile's sides")
    parser.add_argument("--window", type=int, default=512, help="pixels of a window's sides")
    parser.add_argument("--classes", type=int, default=15, help="number of classes")
    parser.add_argument("--passes", type=int, default=3, help="passes per side, alternating")
    options = parser.parse_args()
    size = Size(options.side, options.window, options.classes)
    print(f"{size.side} x {size.side}, {size.num_classes} classes, one thread, load {os.getloadavg()[0]:.1f}")
    passes = [{side: run_apart(side, size) for side in SIDES} for _ in range(options.passes)]
    expected = passes[0]["plain"].matrix
    if not all(np.array_equal(measured.matrix, expected) for one in passes for measured in one.values()):
        raise AssertionError("the confusion matrices must be equal")
    print(f"confusion matrices: equal, {int(expected.sum())} valid pixels")
    seconds = {side: statistics.median(one[side].cpu_s for one in passes) for side in SIDES}
    memory = {side: statistics.median(one[side].peak_mib for one in passes) for side in SIDES}
    print(f"{'':18}{'CPU s':>8}{'peak MiB':>10}")
    for side in SIDES:
        print(f"{side:18}{seconds[side]:8.2f}{memory[side]:10.0f}")
    for name, found, most in (("CPU time", seconds, MAX_TIME), ("memory", memory, MAX_MEMORY)):
        ratio = found["harness"] / found["plain"]
        print(f"{name}: ratio {ratio:.2f}, at most {most}: {'reached' if ratio <= most else 'MISSED'}")


if __name__ == "__main__":
    main()
