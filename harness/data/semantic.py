"""What every dataset for semantic segmentation offers: tiles, named modalities, one label raster, a class table.

Letters: `C` bands of a modality, `h w` window, `H W` tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from harness.data.base import IGNORED as IGNORED
from harness.data.base import Dataset


class Window(NamedTuple):
    """A rectangle of a tile in pixels, counted from its upper left corner."""

    row: int
    column: int
    height: int
    width: int


class Division(NamedTuple):
    """How tiles or their pixels are divided into splits."""

    name: str
    """Shown beside every number."""
    leaky: bool = False
    """Whether neighbouring pixels of one scene may be in different splits: flagged in every table."""


class Bounds(NamedTuple):
    """Extent of a tile in units of its coordinate reference system."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class ClassInfo:
    """One class."""

    index: int
    """What label arrays and predictions hold, from 0."""
    name: str
    colour: tuple[int, int, int]
    """RGB, 0..255, of the published legend."""


class ModalityInfo(NamedTuple):
    """One modality."""

    name: str
    """`optical`, `sar`, `dsm`, ...: what a study and a model call it."""
    bands: tuple[str, ...]
    """Names in the order of the arrays that are read."""
    wavelengths_um: tuple[float, ...] | None = None
    """Centre of each band in micrometres; None where that has no meaning."""


@dataclass(frozen=True)
class SemanticTile:
    """A raster of the archive, or the part of one that a split takes."""

    key: str
    """Unique within a dataset, the same in every run."""
    split: str
    files: Mapping[str, Path] = field(hash=False)
    """Modality -> file; two modalities may share one."""
    label: Path
    height: int
    """Rows that all its rasters have."""
    width: int
    """Columns that all its rasters have."""
    row: int = 0
    """First row in the files."""
    column: int = 0
    """First column in the files."""
    crs: str | None = None
    """Coordinate reference system, for example `EPSG:4326`; None for rasters without georeference."""
    bounds: Bounds | None = None
    """Extent in that system."""
    by_columns: bool = False
    """Whether its files store whole columns, so that reading those is cheaper than reading whole rows."""
    scene: str = ""
    """What it was cut from, or belongs to, together with other tiles; empty for a tile that stands alone."""

    @property
    def block(self) -> str:
        """Which tiles say less than as many independent ones would: those of one block are drawn together."""
        return self.scene or self.key

    @property
    def whole(self) -> Window:
        """The window of all its pixels."""
        return Window(0, 0, self.height, self.width)

    @property
    def place(self) -> Window:
        """Where the tile lies in its files: what a prediction for it is written at."""
        return Window(self.row, self.column, self.height, self.width)


@runtime_checkable
class SemanticDataset(Dataset, Protocol):
    """A dataset for semantic segmentation opened at a folder with options; opening reads headers and a few pixels."""

    Options: ClassVar[type[Any]]
    """Frozen dataclass of what can be chosen; all fields have defaults."""
    ignored: ClassVar[int]
    """Always 255."""

    @property
    def split_name(self) -> str:
        """Which division into splits is used, shown beside every number."""
        ...

    @property
    def leaky(self) -> bool:
        """Whether neighbouring pixels of one scene may be in different splits: flagged in every table."""
        ...

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for; known without any file."""
        ...

    @property
    def classes(self) -> Sequence[ClassInfo]:
        """The class table; index `i` is at position `i`."""
        ...

    @property
    def modalities(self) -> Sequence[ModalityInfo]:
        """What `read` returns."""
        ...

    def tiles(self, split: str) -> Sequence[SemanticTile]:
        """The tiles of a split in a fixed order; may be empty for a split that the options leave out."""
        ...

    def read(
        self, tile: SemanticTile, window: Window, *, only: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Modality -> `(C, h, w)` in physical or stored units; NaN where nothing was measured.

        Args:
            tile: Where to read.
            window: Inside the tile.
            only: Names of the modalities to read; None for all.
        """
        ...

    def read_label(self, tile: SemanticTile, window: Window) -> NDArray[np.uint8]:
        """Class indices `(h, w)`; 255 where there is no label or its code is unknown."""
        ...


def row_windows(tile: SemanticTile, max_pixels: int = 1 << 18) -> list[Window]:
    """Windows of whole rows that cover a tile once, each of at most `max_pixels` (but at least one row)."""
    rows = max(1, max_pixels // tile.width)
    return [Window(first, 0, min(rows, tile.height - first), tile.width) for first in range(0, tile.height, rows)]


def strips(tile: SemanticTile, max_pixels: int = 1 << 18) -> list[Window]:
    """Windows that cover a tile once, whole rows or whole columns as its files store them; see `row_windows`."""
    if not tile.by_columns:
        return row_windows(tile, max_pixels)
    turned = row_windows(replace(tile, height=tile.width, width=tile.height), max_pixels)
    return [Window(w.column, w.row, w.width, w.height) for w in turned]
