"""Datasets of raster files: a subclass says which files make a tile, this reads, verifies and describes them.

Opening reads the header of every file and two small windows of it (the middle and the last pixel), so that files of
different sizes or systems, label rasters in place of images and truncated files are refused before any training
starts. Datasets of hundreds of thousands of equal patches (`uniform`) are probed at the first tile of each split; the
others of their tiles are verified when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import SPLITS, DataReport, DatasetInfo, digest
from harness.data.hdf5 import file_of, is_variable
from harness.data.label_coding import Decoded, LabelCoding
from harness.data.raster import RasterInfo, raster_info, read_bands, read_values
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, Window
from harness.errors import DataError, nearest

_SAMPLED_BYTES = 1 << 16
_PROBE = 64


class Source(NamedTuple):
    """Where a modality is found in its file."""

    info: ModalityInfo
    bands: tuple[int, ...]
    """Numbers of its bands in the file, from 1, in the order of `info.bands`."""
    num_file_bands: int
    """Bands that the file must have."""
    factor: int = 1
    """Pixels of the tile per pixel of the file, in height and in width: a coarser raster is repeated, then cut."""


class Scene(NamedTuple):
    """The files of a tile, as a subclass finds them."""

    key: str
    split: str
    files: Mapping[str, Path]
    label: Path


class Layout(NamedTuple):
    """What a subclass found at its folder."""

    scenes: Sequence[Scene]
    sources: Sequence[Source]
    classes: Sequence[ClassInfo]
    coding: LabelCoding


@dataclass(frozen=True)
class NoOptions:
    """A dataset without choices."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


class RasterDataset:
    """A dataset of raster files opened at its folder.

    Args:
        root: The folder.
        options: An instance of the class's `Options`; None for the defaults.

    Raises:
        DataError: The folder is not in the layout, or its files do not fit each other.
    """

    info: ClassVar[DatasetInfo]
    Options: ClassVar[type[Any]] = NoOptions
    ignored: ClassVar[int] = IGNORED
    slack: ClassVar[int] = 0
    """Most pixels by which the rasters of a tile may differ in height or width; all are cut to the smallest."""
    uniform: bool = False
    """Whether all tiles have the size of the first one, so that their headers need not be read."""

    def __init__(self, root: Path, options: Any = None) -> None:
        self._root = Path(root)
        self.options = self.Options() if options is None else options
        layout = self._find(self._root)
        self.classes = tuple(layout.classes)
        self.coding = layout.coding
        self._sources = {source.info.name: source for source in layout.sources}
        if not layout.scenes:
            raise DataError(f"{self._root}: a folder of {self.info.title} must hold at least one tile, found none")
        tiles = self._divide(self._measured(layout.scenes))
        self._tiles = {split: tuple(t for t in tiles if t.split == split) for split in SPLITS}

    def _find(self, root: Path) -> Layout:
        """What is at the folder."""
        raise NotImplementedError

    def _divide(self, tiles: Sequence[SemanticTile]) -> Sequence[SemanticTile]:
        """The tiles of the splits; a subclass may cut or move them."""
        return tiles

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        del options
        return Division("official")

    @property
    def split_name(self) -> str:
        """Which division into splits is used, shown beside every number."""
        return self.division(self.options).name

    @property
    def leaky(self) -> bool:
        """Whether neighbouring pixels of one scene may be in different splits."""
        return self.division(self.options).leaky

    @property
    def modalities(self) -> Sequence[ModalityInfo]:
        """What `read` returns."""
        return tuple(source.info for source in self._sources.values())

    def tiles(self, split: str) -> Sequence[SemanticTile]:
        """The tiles of a split in a fixed order."""
        if split not in self._tiles:
            raise DataError(f"unknown split {split!r} of {self.info.title}; {nearest(split, SPLITS)}")
        return self._tiles[split]

    def read(
        self, tile: SemanticTile, window: Window, *, only: Sequence[str] | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Modality -> `(C, h, w)`, NaN where nothing was measured; see `SemanticDataset.read`."""
        _require_inside(tile, window)
        names = tuple(self._sources) if only is None else only
        for name in names:
            if name not in self._sources:
                raise DataError(f"unknown modality {name!r} of {self.info.title}; {nearest(name, self._sources)}")
        return {name: self._values(tile, name, window) for name in names}

    def read_label(self, tile: SemanticTile, window: Window) -> NDArray[np.uint8]:
        """Class indices `(h, w)`; 255 where there is no label or its code is unknown."""
        return self.decode_label(tile, window).indices

    def decode_label(self, tile: SemanticTile, window: Window) -> Decoded:
        """Class indices of a window, and the codes in it that are in no table."""
        _require_inside(tile, window)
        if self.uniform:
            self._require_size(tile, tile.label)
        bands = range(1, self.coding.num_bands + 1)
        return self.coding.decode(read_bands(tile.label, _in_file(tile, window), bands))

    def fingerprint(self) -> str:
        """Hash of options, splits, names and sizes of all files, and content of the label files.

        Of a label file above 128 KiB its first and last 64 KiB count.
        """
        lines = []
        for split in SPLITS:
            for tile in self._tiles[split]:
                files = {name: _relative(path, self._root) for name, path in tile.files.items()}
                sizes = {name: _size(path) for name, path in tile.files.items()}
                part = (tile.row, tile.column, tile.height, tile.width)
                lines.append([tile.key, split, files, sizes, part, _sampled_hash(tile.label)])
        about = {"options": asdict(self.options), "classes": [asdict(c) for c in self.classes], "tiles": lines}
        return digest(json.dumps(about, sort_keys=True).encode())

    def check(self) -> DataReport:
        """Read every pixel; report unknown codes, missing values, overlapping splits, unreadable files."""
        from harness.data.raster_check import check_rasters

        return check_rasters(self)

    def remarks(self) -> Iterable[tuple[str, str]]:
        """Further problems that only this dataset can have: kind and the tile it concerns."""
        return ()

    def _values(self, tile: SemanticTile, name: str, window: Window) -> NDArray[np.float32]:
        """A window of one modality; a subclass may repair or rescale it."""
        if self.uniform:
            self._require_size(tile, tile.files[name])
        source, part = self._sources[name], _in_file(tile, window)
        if source.factor == 1:
            return read_values(tile.files[name], part, source.bands)
        coarse = _coarse(part, source.factor)
        values = read_values(tile.files[name], coarse, source.bands).repeat(source.factor, 1).repeat(source.factor, 2)
        top, left = part.row - coarse.row * source.factor, part.column - coarse.column * source.factor
        return values[:, top : top + part.height, left : left + part.width]

    def _require_size(self, tile: SemanticTile, path: Path) -> None:
        found = raster_info(path)
        if (found.height, found.width) != (tile.height, tile.width):
            raise DataError(
                f"{path}: must be {tile.height}x{tile.width} pixels (height x width) like the first tile of "
                f"{self.info.title}, found {found.height}x{found.width}"
            )

    def _measured(self, scenes: Sequence[Scene]) -> list[SemanticTile]:
        """Tiles with size and place; every scene is verified, of uniform datasets the first of each split."""
        probed: dict[str, SemanticTile] = {}
        tiles = []
        for scene in scenes:
            if self.uniform and scene.split in probed:
                like = probed[scene.split]
                tiles.append(SemanticTile(*scene, height=like.height, width=like.width))
                continue
            tile = self._measure(scene)
            probed[scene.split] = tile
            tiles.append(tile)
        return tiles

    def _measure(self, scene: Scene) -> SemanticTile:
        label = raster_info(scene.label)
        _require_bands(scene.label, "a label", self.coding.num_bands, label)
        # MATLAB's numbers are floating-point unless they are asked to be others; the coding looks at their values.
        if not np.issubdtype(np.dtype(label.dtype), np.integer) and not is_variable(scene.label):
            raise DataError(f"{scene.label}: a label must hold integers, found {label.dtype}")
        found = [(scene.label, label)]
        for name, source in self._sources.items():
            header = raster_info(scene.files[name])
            _require_bands(scene.files[name], f"the modality {name!r}", source.num_file_bands, header)
            self._require_same_place(found[0], (scene.files[name], header), source.factor)
            height, width = header.height * source.factor, header.width * source.factor
            found.append((scene.files[name], header._replace(height=height, width=width)))
        height, width = min(h.height for _, h in found), min(h.width for _, h in found)
        placed = next((h for _, h in found if h.crs is not None), label)
        tile = SemanticTile(*scene, height=height, width=width, crs=placed.crs, bounds=placed.bounds)
        self._probe(tile)
        return tile

    def _require_same_place(
        self, first: tuple[Path, RasterInfo], other: tuple[Path, RasterInfo], factor: int = 1
    ) -> None:
        (path, a), (other_path, b) = first, other
        height, width = -(-a.height // factor), -(-a.width // factor)
        if max(abs(height - b.height), abs(width - b.width)) > self.slack:
            like = f"like {path}" if factor == 1 else f"as {path} has {a.height}x{a.width}, {factor} times finer"
            raise DataError(
                f"{other_path}: must be {height}x{width} pixels (height x width) {like}, found {b.height}x{b.width}"
            )
        if a.crs is None or b.crs is None or a.bounds is None or b.bounds is None:
            return
        if a.crs != b.crs:
            raise DataError(f"{other_path}: must have the CRS {a.crs} of {path}, found {b.crs}")
        pixel = (a.bounds.right - a.bounds.left) / a.width
        if max(abs(a.bounds.left - b.bounds.left), abs(a.bounds.top - b.bounds.top)) > pixel / 2:
            raise DataError(f"{other_path}: must begin where {path} does, at {a.bounds}, found {b.bounds}")

    def _probe(self, tile: SemanticTile) -> None:
        """Read the middle and the last pixel of every file; refuse images in place of labels and the reverse."""
        side_y, side_x = min(_PROBE, tile.height), min(_PROBE, tile.width)
        middle = Window((tile.height - side_y) // 2, (tile.width - side_x) // 2, side_y, side_x)
        last = Window(tile.height - 1, tile.width - 1, 1, 1)
        label_bands = range(1, self.coding.num_bands + 1)
        read_bands(tile.label, last, label_bands)
        decoded = self.coding.decode(read_bands(tile.label, middle, label_bands))
        num_unknown = sum(decoded.unknown.values())
        if num_unknown > decoded.indices.size / 2:
            raise DataError(
                f"{tile.label}: must be a label raster with the codes of {self.info.title}, {num_unknown} of "
                f"{decoded.indices.size} pixels in its middle have other values; is this an image?"
            )
        for name, path in tile.files.items():
            source = self._sources[name]
            read_bands(path, _coarse(last, source.factor), [1])
            stored = read_bands(path, _coarse(middle, source.factor), range(1, source.num_file_bands + 1))
            if len(stored) == self.coding.num_bands and _looks_like_label(stored, self.coding):
                raise DataError(
                    f"{path}: must be an image for the modality {name!r}, found only label codes of "
                    f"{self.info.title}; is this a label raster?"
                )


def _looks_like_label(stored: NDArray[Any], coding: LabelCoding) -> bool:
    if not np.issubdtype(stored.dtype, np.integer):
        return False
    decoded = coding.decode(stored)
    return not decoded.unknown and len(np.unique(decoded.indices[decoded.indices != IGNORED])) >= 2


def _require_bands(path: Path, what: str, expected: int, found: RasterInfo) -> None:
    if found.num_bands != expected:
        hint = "; is this a label raster?" if expected > 1 and found.num_bands == 1 else ""
        bands = "1 band" if expected == 1 else f"{expected} bands"
        raise DataError(f"{path}: {what} must have {bands}, found {found.num_bands}{hint}")


def _require_inside(tile: SemanticTile, window: Window) -> None:
    if (
        min(window.row, window.column) < 0
        or min(window.height, window.width) < 1
        or (window.row + window.height > tile.height or window.column + window.width > tile.width)
    ):
        raise DataError(f"tile {tile.key} has {tile.height}x{tile.width} pixels (height x width), {window} leaves it")


def _in_file(tile: SemanticTile, window: Window) -> Window:
    return window._replace(row=window.row + tile.row, column=window.column + tile.column)


def _coarse(window: Window, factor: int) -> Window:
    """The pixels, `factor` times as large, that cover a window."""
    top, left = window.row // factor, window.column // factor
    bottom, right = -(-(window.row + window.height) // factor), -(-(window.column + window.width) // factor)
    return Window(top, left, bottom - top, right - left)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _size(path: Path) -> int:
    try:
        return file_of(path).stat().st_size
    except OSError as error:
        raise DataError(f"{path}: every file of a tile must exist, found: {error.strerror}") from error


def _sampled_hash(path: Path) -> str:
    size = _size(path)
    with file_of(path).open("rb") as file:
        if size <= 2 * _SAMPLED_BYTES:
            return digest(file.read())
        head = file.read(_SAMPLED_BYTES)
        file.seek(-_SAMPLED_BYTES, 2)
        return digest(str(size).encode(), head, file.read())
