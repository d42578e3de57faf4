"""From what label files hold to class indices: integer codes or colours; what is in no table is ignored and counted.

Letters: `h w` window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.data.semantic import IGNORED, ClassInfo

_UNKNOWN = 254
"""Marks codes and colours of no entry inside a table; there are never that many classes."""


class Decoded(NamedTuple):
    """A label window."""

    indices: NDArray[np.uint8]
    """`(h, w)`, 255 where ignored or unknown."""
    unknown: Mapping[str, int]
    """Code or colour that is in no table -> its number of pixels."""


class LabelCoding(Protocol):
    """How the label files of a dataset are read."""

    @property
    def num_bands(self) -> int:
        """Bands of a label file."""
        ...

    def decode(self, stored: NDArray[Any]) -> Decoded:
        """Class indices of stored pixels `(bands, h, w)`."""
        ...


@dataclass(frozen=True)
class IntegerCodes:
    """One band of integers, which MATLAB may store as floating-point numbers."""

    indices: Mapping[int, int]
    """Stored code -> class index."""
    ignored: frozenset[int] = frozenset()
    """Codes that mean "no label"; every other code that is not in the table is unknown."""
    num_bands: int = 1
    """Bands of a label file."""

    def decode(self, stored: NDArray[Any]) -> Decoded:
        """Class indices of stored pixels `(1, h, w)`."""
        codes = stored[0]
        indices = self._translate(codes) if codes.dtype == np.uint8 else self._look_up(codes)
        strange = indices == _UNKNOWN
        if not strange.any():
            return Decoded(indices, {})
        indices[strange] = IGNORED
        values, counts = np.unique(codes[strange], return_counts=True)
        return Decoded(indices, {str(v): int(n) for v, n in zip(values, counts, strict=True)})

    def _translate(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`_look_up` of bytes, which most label files hold, in half of the time of numpy's `take`."""
        return np.frombuffer(bytearray(codes).translate(self._byte_table), np.uint8).reshape(codes.shape)

    @cached_property
    def _byte_table(self) -> bytes:
        """Index of every code that a byte can hold."""
        return self._look_up(np.arange(256)).tobytes()

    def _look_up(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Index of every code, `_UNKNOWN` of those in no table."""
        known = sorted({*self.indices, *self.ignored})
        low, high = known[0], known[-1]
        # One entry below and one above the known codes catch everything outside.
        table = np.full(high - low + 3, _UNKNOWN, dtype=np.uint8)
        for code in known:
            table[code - low + 1] = self.indices.get(code, IGNORED)
        if np.issubdtype(codes.dtype, np.floating):
            codes = np.where(np.rint(codes) == codes, codes, low - 1).clip(low - 1, high + 1)
        return table[np.clip(codes.astype(np.int64) - low + 1, 0, len(table) - 1)]


@dataclass(frozen=True)
class ColourCodes:
    """Three bands, one colour per class."""

    colours: Mapping[tuple[int, int, int], int]
    """RGB -> class index."""
    ignored: frozenset[tuple[int, int, int]] = frozenset({(0, 0, 0)})
    """Colours that mean "no label"."""
    tolerance: int = 0
    """Largest distance (of the band that differs most, 0..255) at which a colour still counts as its nearest entry."""
    num_bands: int = 3
    """Bands of a label file."""

    def __post_init__(self) -> None:
        entries = sorted({*self.colours, *self.ignored})
        gaps = [max(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in combinations(entries, 2)]
        if gaps and min(gaps) <= 2 * self.tolerance:
            raise ValueError(f"colours must differ by more than 2 x {self.tolerance}, the nearest two by {min(gaps)}")

    def decode(self, stored: NDArray[Any]) -> Decoded:
        """Class indices of stored pixels `(3, h, w)`."""
        entries = (*self.colours.items(), *((colour, IGNORED) for colour in sorted(self.ignored)))
        indices: NDArray[np.uint8] = _colour_table(entries, self.tolerance)[stored[0], stored[1], stored[2]]
        strange = indices == _UNKNOWN
        if not strange.any():
            return Decoded(indices, {})
        indices[strange] = IGNORED
        colours, counts = np.unique(stored[:, strange], axis=1, return_counts=True)  # (3, colours)
        names = [str(tuple(map(int, colour))) for colour in colours.T]
        return Decoded(indices, dict(zip(names, map(int, counts), strict=True)))


def colour_codes(classes: Sequence[ClassInfo], *, tolerance: int = 0) -> ColourCodes:
    """The coding in which every class has its own colour and black is no label."""
    return ColourCodes({c.colour: c.index for c in classes}, tolerance=tolerance)


def paint(indices: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    """The colours `(3, h, w)` of class indices `(h, w)`, black where there is none: what `colour_codes` reads."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(classes)] = [c.colour for c in classes]
    return palette[indices].transpose(2, 0, 1)


@cache
def _colour_table(entries: tuple[tuple[tuple[int, int, int], int], ...], tolerance: int) -> NDArray[np.uint8]:
    """Index of every RGB colour, 16 MiB: one look-up per pixel, whatever the number of classes."""
    table = np.full((256, 256, 256), _UNKNOWN, dtype=np.uint8)
    for colour, index in entries:
        red, green, blue = (slice(max(0, c - tolerance), c + tolerance + 1) for c in colour)
        table[red, green, blue] = index
    return table
