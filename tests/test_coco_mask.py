"""Run lengths and polygons: round trips, a published example, damaged input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from harness.data.coco_mask import decode_rle, decode_runs, decode_segmentation, draw_polygon, encode_rle
from harness.errors import DataError

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def plain_runs(mask: NDArray[np.uint8]) -> list[int]:
    """Run lengths by a loop over the columns."""
    runs, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compress(runs: list[int]) -> str:
    """The format's description, one character at a time."""
    text = ""
    for i, run in enumerate(runs):
        left = run - runs[i - 2] if i > 2 else run
        while True:
            bits = left & 31
            left >>= 5
            done = (left == 0 and not bits & 16) or (left == -1 and bool(bits & 16))
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


@given(masks)
def test_encoding_matches_the_description_and_decoding_gives_the_mask_back(mask: NDArray[np.uint8]) -> None:
    height, width = mask.shape
    runs = plain_runs(mask)
    assert encode_rle(mask) == compress(runs)
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), height=height, width=width), mask)
    np.testing.assert_array_equal(decode_runs(runs, height=height, width=width), mask)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=12))
def test_long_runs_and_large_differences_survive(runs: list[int]) -> None:
    height = max(sum(runs), 1)
    runs = runs if sum(runs) else [1]
    mask = decode_runs(runs, height=height, width=1)
    np.testing.assert_array_equal(decode_rle(compress(runs), height=height, width=1), mask)


def test_full_resolution_masks_of_all_and_none() -> None:
    for value in (0, 1):
        mask = np.full((800, 813), value, np.uint8)
        np.testing.assert_array_equal(decode_rle(encode_rle(mask), height=800, width=813), mask)


def test_masks_run_down_the_columns() -> None:
    mask = decode_runs([2, 1, 3], height=3, width=2)
    np.testing.assert_array_equal(mask, [[0, 0], [0, 0], [1, 0]])
    assert mask.dtype == np.uint8


def test_a_known_compressed_string() -> None:
    # 6 zeros, 1 one, 40 zeros, 4 ones, 49 zeros: differences 6, 1, 40, 3, 9.
    mask = decode_rle("61X139", height=10, width=10)
    assert np.flatnonzero(mask.T.ravel()).tolist() == [6, 47, 48, 49, 50]


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ("", "must cover 4 x 4 = 16 pixels, got 0"),
        ("X", "complete number"),
        ("\x07", "characters '0'..'o'"),
        ("é", "ASCII"),
        ("5", "must cover 4 x 4 = 16 pixels, got 5"),
        ("PPPPPPPP0", "at most 7 characters"),
        ("O", "must be >= 0"),
    ],
)
def test_damaged_strings_are_refused(counts: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        decode_rle(counts, height=4, width=4)


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=30))
def test_no_string_does_more_than_raise_a_data_error(counts: str) -> None:
    try:
        mask = decode_rle(counts, height=5, width=6)
    except DataError:
        return
    assert mask.shape == (5, 6)


def test_pixels_in_two_segments_are_cut_out() -> None:
    left, both = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    left[:, :3], both[:, 2:5] = 1, 1
    stored = [{"size": [4, 6], "counts": encode_rle(m)} for m in (left, both)]
    np.testing.assert_array_equal(decode_segmentation(stored, height=9, width=9), left ^ both)


def test_a_dict_alone_and_plain_counts_are_understood() -> None:
    mask = decode_segmentation({"size": [2, 2], "counts": [1, 2, 1]}, height=9, width=9)
    np.testing.assert_array_equal(mask, [[0, 1], [1, 0]])


def test_polygons_cover_their_outline_and_inside() -> None:
    mask = decode_segmentation([[1, 1, 4, 1, 4, 3, 1, 3]], height=6, width=7)
    expected = np.zeros((6, 7), np.uint8)
    expected[1:4, 1:5] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("segmentation", "match"),
    [
        ([], "non-empty list"),
        ("61", "non-empty list"),
        ([3], "run-length dict or a polygon"),
        ([{"size": [4], "counts": "@"}], r"\[height, width\]"),
        ([{"size": [4, 4]}], "'counts'"),
        ([{"size": [10**9, 10**9], "counts": "0"}], "pixels in size"),
        ([{"size": [4, 4], "counts": [8, -8, 16]}], "integers >= 0"),
        ([{"size": [4, 4], "counts": [16.0]}], "integers >= 0"),
        ([{"size": [2, 2], "counts": [4]}, {"size": [1, 4], "counts": [4]}], "one size"),
        ([[1, 1, 2, 2]], "3 or more x, y pairs"),
        ([[1, 1, 2, 2, float("nan"), 3]], "finite"),
        ([[1, 1, 2, 2, "a", 3]], "finite"),
    ],
)
def test_damaged_segmentations_are_refused(segmentation: object, match: str) -> None:
    with pytest.raises(DataError, match=match):
        decode_segmentation(segmentation, height=4, width=4)


def test_impossible_canvas_is_refused() -> None:
    with pytest.raises(DataError, match="pixels in size"):
        draw_polygon([0, 0, 1, 0, 1, 1], height=0, width=4)
