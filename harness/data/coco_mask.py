"""Masks stored as COCO segmentations: compressed and plain run lengths, polygons.

A mask is flattened column by column; its run lengths alternate between 0 and 1 and start with 0 (a leading 0 when the
first pixel is 1). In the compressed form run i > 2 is stored as its difference to run i - 2, five bits per character,
least significant first, as character 48 + bits, plus 32 while more characters of the same number follow; the last
group's bit 16 is the sign. Same format as https://github.com/cocodataset/cocoapi, written from its description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from harness.errors import DataError

MAX_PIXELS = 2**28
"""Largest mask that is decoded; protects against a damaged size field."""

_ZERO = 48
_BITS = 5
_MORE = 32
_SIGN = 16
_MAX_GROUPS = 7


def encode_rle(mask: NDArray[Any]) -> str:
    """Return the compressed run lengths of a mask.

    Args:
        mask: `(H, W)`; every non-zero pixel counts as 1.
    """
    flat = np.asarray(mask).astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size])))
    if flat.size and flat[0]:
        runs = np.concatenate(([0], runs))
    values = runs.astype(np.int64)
    values[3:] -= runs[1:-2]
    # (N, G): character g of number n; a row stops at the group after which only sign bits are left.
    groups = values[:, None] >> (_BITS * np.arange(_MAX_GROUPS))
    bits, rest = groups & (_MORE - 1), groups >> _BITS
    last = ((rest == 0) & (bits & _SIGN == 0)) | ((rest == -1) & (bits & _SIGN != 0))
    kept = np.arange(_MAX_GROUPS) <= last.argmax(axis=1)[:, None]
    codes: NDArray[np.uint8] = (_ZERO + bits + _MORE * ~last)[kept].astype(np.uint8)
    return codes.tobytes().decode("ascii")


def decode_rle(counts: str, *, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask `(height, width)` of compressed run lengths.

    Raises:
        DataError: `counts` holds an impossible character, ends inside a number or does not cover the mask exactly.
    """
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - _ZERO
    except UnicodeEncodeError as error:
        raise DataError("compressed run lengths must be ASCII characters '0'..'o', got others") from error
    if codes.size == 0:
        return decode_runs([], height=height, width=width)
    if codes.min() < 0 or codes.max() >= 2 * _MORE:
        raise DataError(f"compressed run lengths must be characters '0'..'o', got {counts[:20]!r}")
    last = codes & _MORE == 0
    if not last[-1]:
        raise DataError("compressed run lengths must end with a complete number, got a truncated string")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise DataError(f"a run length must take at most {_MAX_GROUPS} characters, got {lengths.max()}")
    shifts = _BITS * (np.arange(codes.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & (_MORE - 1)) << shifts, starts)
    values -= np.where(codes[ends] & _SIGN, np.int64(1) << (_BITS * lengths), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return decode_runs(values, height=height, width=width)


def decode_runs(runs: Sequence[int] | NDArray[np.int64], *, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask `(height, width)` of plain run lengths, the first of which counts zeros.

    Raises:
        DataError: The size is impossible, a run is negative or no integer, or the runs do not cover the mask exactly.
    """
    _check_size(height, width)
    if not isinstance(runs, np.ndarray) and not all(type(r) is int and 0 <= r <= MAX_PIXELS for r in runs):
        raise DataError("run lengths must be integers >= 0 within the mask, got others")
    lengths = np.asarray(runs, np.int64)
    if lengths.size and lengths.min() < 0:
        raise DataError(f"run lengths must be >= 0, got {lengths.min()}")
    if lengths.sum() != height * width:
        raise DataError(f"run lengths must cover {height} x {width} = {height * width} pixels, got {lengths.sum()}")
    values = (np.arange(lengths.size) & 1).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(width, height).T)


def draw_polygon(polygon: Sequence[float], *, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask `(height, width)` of a polygon `[x1, y1, x2, y2, ...]` in pixels.

    Pillow fills the polygon and includes the pixels its outline touches; COCO's own rasteriser rounds on a grid five
    times finer. The two may differ along the outline by one pixel, never inside.

    Raises:
        DataError: The size is impossible, or the list is not three or more pairs of finite numbers.
    """
    _check_size(height, width)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in polygon)
    if len(polygon) < 6 or len(polygon) % 2 or not numbers:
        raise DataError(f"a polygon must be 3 or more x, y pairs of finite numbers, got {len(polygon)} values")
    canvas = Image.new("L", (width, height), 0)
    ImageDraw.Draw(canvas).polygon([float(v) for v in polygon], fill=1, outline=1)
    return np.array(canvas, np.uint8)


def decode_segmentation(segmentation: Any, *, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask of a COCO annotation: the pixels that lie in exactly one of its segments.

    Overlaps of segments are cut out, as the code published with LAVT, RMSIN and MAFN does (sum over segments == 1).

    Args:
        segmentation: A run-length dict or a list of run-length dicts and polygons. A dict carries its own `size`.
        height: Height of the canvas of polygons in pixels.
        width: Width of the canvas of polygons in pixels.

    Returns:
        `(H, W)` of 0 and 1.

    Raises:
        DataError: No segment, segments of different sizes, or a damaged segment.
    """
    segments = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if not isinstance(segments, list) or not segments:
        raise DataError(
            f"a segmentation must be a non-empty list or a dict, got {type(segmentation).__name__} {segmentation!r:.40}"
        )
    masks = [_decode_segment(s, height=height, width=width) for s in segments]
    sizes = sorted({m.shape for m in masks})
    if len(sizes) > 1:
        raise DataError(f"all segments of a mask must have one size, got {sizes}")
    if len(masks) == 1:
        return masks[0]
    num_segments: NDArray[np.int64] = np.stack(masks).sum(axis=0, dtype=np.int64)
    return np.where(num_segments == 1, np.uint8(1), np.uint8(0))


def _decode_segment(segment: Any, *, height: int, width: int) -> NDArray[np.uint8]:
    if isinstance(segment, list):
        return draw_polygon(segment, height=height, width=width)
    if not isinstance(segment, Mapping):
        raise DataError(f"a segment must be a run-length dict or a polygon list, got {type(segment).__name__}")
    size, counts = segment.get("size"), segment.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(v) is int for v in size):
        raise DataError(f"'size' of a run-length dict must be [height, width], got {size!r:.40}")
    if isinstance(counts, str):
        return decode_rle(counts, height=size[0], width=size[1])
    if isinstance(counts, list):
        return decode_runs(counts, height=size[0], width=size[1])
    raise DataError(f"'counts' of a run-length dict must be a string or a list, got {type(counts).__name__}")


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(f"a mask must be 1 to {MAX_PIXELS} pixels in size, got {height} x {width}")
