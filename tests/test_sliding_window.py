"""Windows over tiles, and the average of overlapping scores against an accumulation of the whole tile."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import whole_tiles
from harness.data.semantic import Window
from harness.sliding_window import OverlapAverage, Strip, tile_windows, window_starts

CPU = torch.device("cpu")

sides = st.integers(1, 40)


@st.composite
def grids(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Height, width, window, stride; windows may be larger than the tile."""
    window = draw(st.integers(1, 24))
    return draw(sides), draw(sides), window, draw(st.integers(1, window))


def whole_sums(height: int, width: int, windows: list[Window], scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums `(K, H, W)` and numbers of windows `(H, W)`, all of the tile at once."""
    sums, counts = torch.zeros((len(scores[0]), height, width)), torch.zeros((height, width))
    for w, values in zip(windows, scores, strict=True):
        sums[:, w.row : w.row + w.height, w.column : w.column + w.width] += values
        counts[w.row : w.row + w.height, w.column : w.column + w.width] += 1
    return sums, counts


def run(height: int, width: int, windows: list[Window], scores: list[Tensor], *, window: int) -> list[Strip]:
    """All strips of a tile."""
    average = OverlapAverage(len(scores[0]), height=height, width=width, window=window, device=CPU)
    strips = [average.add(w, values) for w, values in zip(windows, scores, strict=True)]
    return [*(strip for strip in strips if strip is not None), average.finish()]


def joined(strips: list[Strip], height: int) -> NDArray[np.uint8]:
    """Classes of the tile, after checking that every row comes once and in order."""
    ends = np.cumsum([0, *(len(strip.indices) for strip in strips)])
    assert [strip.first_row for strip in strips] == ends[:-1].tolist()
    assert ends[-1] == height
    assert all(len(strip.indices) for strip in strips)
    return np.concatenate([strip.indices for strip in strips])


# Where windows lie


@given(size=sides, window=st.integers(1, 24), data=st.data())
def test_windows_cover_a_side_and_stay_inside(size: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    starts = window_starts(size, window=window, stride=stride)
    covered = {p for s in starts for p in range(s, min(s + window, size))}
    assert covered == set(range(size))
    assert list(starts) == sorted(set(starts))
    assert starts == (0,) if window >= size else starts[-1] + window == size
    assert all(b - a <= stride for a, b in pairwise(starts))
    assert len(starts) == 1 + -(-max(size - window, 0) // stride)


def test_examples_of_starts() -> None:
    assert window_starts(6000, window=512, stride=256)[-3:] == (5120, 5376, 5488)
    assert window_starts(10, window=4, stride=3) == (0, 3, 6)
    assert window_starts(11, window=4, stride=4) == (0, 4, 7)
    assert window_starts(4, window=4, stride=1) == (0,)
    assert window_starts(3, window=8, stride=8) == (0,)


def test_windows_of_a_tile_are_row_major_and_cut_to_it() -> None:
    assert tile_windows(5, 3, window=4, stride=2) == [Window(0, 0, 4, 3), Window(1, 0, 4, 3)]
    rows = [(w.row, w.column) for w in tile_windows(6, 7, window=4, stride=2)]
    assert rows == [(0, 0), (0, 2), (0, 3), (2, 0), (2, 2), (2, 3)]


@pytest.mark.parametrize(("size", "window", "stride"), [(0, 4, 2), (4, 0, 0), (4, 4, 0), (4, 4, 5), (-1, 4, 2)])
def test_sides_without_windows(size: int, window: int, stride: int) -> None:
    with pytest.raises(ValueError, match=rf"stride 1\.\.window, got size {size}, window {window}, stride {stride}"):
        window_starts(size, window=window, stride=stride)


# Averages


@given(grid=grids(), num_classes=st.integers(1, 5), seed=st.integers(0, 2**32))
@example(grid=(40, 30, 16, 8), num_classes=3, seed=0)
@example(grid=(5, 40, 24, 1), num_classes=3, seed=0)
def test_classes_equal_those_of_the_whole_tile(grid: tuple[int, int, int, int], num_classes: int, seed: int) -> None:
    height, width, window, stride = grid
    windows = tile_windows(height, width, window=window, stride=stride)
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn((num_classes, w.height, w.width), generator=generator) for w in windows]
    found = joined(run(height, width, windows, scores, window=window), height)
    sums, _ = whole_sums(height, width, windows, scores)
    np.testing.assert_array_equal(found, sums.argmax(0).numpy())


@given(grid=grids(), seed=st.integers(0, 2**32))
def test_the_largest_average_wins_and_the_lower_class_of_equals(grid: tuple[int, int, int, int], seed: int) -> None:
    height, width, window, stride = grid
    windows = tile_windows(height, width, window=window, stride=stride)
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers, so that sums and averages are exact and ties are frequent.
    scores = [torch.randint(0, 3, (4, w.height, w.width), generator=generator).float() for w in windows]
    found = joined(run(height, width, windows, scores, window=window), height)
    sums, counts = whole_sums(height, width, windows, scores)
    average = (sums / counts).numpy()
    assert counts.min() >= 1
    # numpy gives the first of equals
    np.testing.assert_array_equal(found, average.argmax(0))


def test_only_as_many_rows_as_a_window_has_are_kept_and_strips_come_as_early_as_they_can() -> None:
    windows = tile_windows(400, 60, window=16, stride=8)
    average = OverlapAverage(3, height=400, width=60, window=16, device=CPU)
    assert sum(t.numel() for t in vars(average).values() if isinstance(t, Tensor)) == 3 * 16 * 60
    for w in windows:
        strip = average.add(w, torch.zeros((3, 16, 60))[:, :, : w.width])
        if w.column or not w.row:
            assert strip is None
        else:
            assert strip is not None
            assert (strip.first_row, strip.indices.shape, strip.indices.dtype) == (w.row - 8, (8, 60), np.uint8)
    assert len(average.finish().indices) == 16


def test_scores_of_half_precision_are_summed_in_full() -> None:
    windows = tile_windows(4, 4, window=4, stride=4)
    scores = torch.tensor([1.0, 1.0078125]).view(2, 1, 1).expand(2, 4, 4).to(torch.bfloat16)
    assert (joined(run(4, 4, windows, [scores], window=4), 4) == 1).all()


def test_gradients_are_not_kept() -> None:
    average = OverlapAverage(2, height=4, width=4, window=4, device=CPU)
    average.add(Window(0, 0, 4, 4), torch.ones((2, 4, 4), requires_grad=True))
    assert not any(t.requires_grad for t in vars(average).values() if isinstance(t, Tensor))


@pytest.mark.parametrize(
    "windows",
    [
        [Window(0, 1, 4, 4)],
        [Window(1, 0, 4, 4)],
        [Window(0, 0, 5, 4)],
        [Window(0, 0, 4, 4), Window(0, 0, 4, 4)],
        [Window(0, 0, 4, 4), Window(0, 5, 4, 4)],
        [Window(0, 0, 4, 4), Window(0, 2, 3, 4)],
        [Window(0, 0, 4, 4), Window(0, 4, 4, 6)],
        [Window(0, 0, 4, 4), Window(2, 0, 4, 4)],
        [Window(0, 0, 4, 9), Window(5, 0, 4, 9)],
        [Window(0, 0, 4, 9), Window(4, 0, 4, 9), Window(2, 0, 4, 9)],
        [Window(0, 0, 4, 9), Window(4, 0, 4, 9), Window(7, 0, 4, 9)],
    ],
)
def test_windows_out_of_order_or_with_gaps_are_refused(windows: list[Window]) -> None:
    average = OverlapAverage(2, height=10, width=9, window=4, device=CPU)
    for w in windows[:-1]:
        average.add(w, torch.zeros((2, w.height, w.width)))
    last = windows[-1]
    with pytest.raises(ValueError, match=r"inside 10x9 pixels .* be at most 4 high and come row by row without gaps"):
        average.add(last, torch.zeros((2, last.height, last.width)))


def test_a_tile_that_is_not_covered_has_no_end() -> None:
    average = OverlapAverage(2, height=4, width=6, window=4, device=CPU)
    with pytest.raises(ValueError, match=r"windows must cover 4x6 pixels \(height x width\), last is None"):
        average.finish()
    average.add(Window(0, 0, 4, 4), torch.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"must cover 4x6 pixels .* last is Window\(row=0, column=0"):
        average.finish()
    average = OverlapAverage(2, height=6, width=4, window=4, device=CPU)
    average.add(Window(0, 0, 4, 4), torch.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"must cover 6x4 pixels"):
        average.finish()


def test_numbers_and_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"num_classes must be 1\.\.254, .* got 255, 4, 4 and 4"):
        OverlapAverage(255, height=4, width=4, window=4, device=CPU)
    with pytest.raises(ValueError, match=r"at least 1, got 2, 4, 0 and 4"):
        OverlapAverage(2, height=4, width=0, window=4, device=CPU)
    average = OverlapAverage(2, height=4, width=4, window=4, device=CPU)
    with pytest.raises(ValueError, match=r"scores of Window.* must be \(2, 4, 4\), got \(3, 4, 4\)"):
        average.add(Window(0, 0, 4, 4), torch.zeros((3, 4, 4)))


def test_both_sides_of_the_benchmark_count_the_same() -> None:
    size = whole_tiles.Size(side=90, window=32, num_classes=5)
    prepared = whole_tiles.prepare(size)
    matrices = [side(size, *prepared) for side in whole_tiles.SIDES.values()]
    assert matrices[0].sum() == 90 * 80
    assert all(np.array_equal(matrix, matrices[0]) for matrix in matrices)
