"""Tiles as a model sees them: random crops for training, a grid of windows for evaluation, both read as needed.

Letters: `C` bands of a modality, `S` side of a crop or window, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.data.semantic import IGNORED, SemanticDataset, SemanticTile, Window
from harness.data.statistics import BandStatistics, normalise
from harness.errors import DataError
from harness.records import Stress

Statistics = Mapping[str, BandStatistics]
MAX_DRAWS = 10
"""Most times that a crop is drawn because one class fills it, as in DF2RQ's published recipe."""
NOISE_SIDE = 512
"""Rows and columns after which the noise of a stress repeats."""


class Augmentation(NamedTuple):
    """How training crops are drawn."""

    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which a crop is enlarged."""
    max_class_share: float = 1.0
    """Most of the labelled pixels that one class may have, 0..1."""
    flip: float = 0.5
    """Share of crops that are mirrored left to right, 0..1."""
    vertical_flip: float = 0.0
    """Share of crops that are mirrored top to bottom, 0..1."""


class TileReader:
    """Reads normalised windows that may reach over the right and lower edge of a tile.

    Args:
        data: The dataset.
        statistics: Modality -> statistics of its bands over the training split.
    """

    def __init__(self, data: SemanticDataset, statistics: Statistics) -> None:
        self.data, self._statistics = data, statistics

    def read(self, tile: SemanticTile, window: Window, *, shift: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """Modality -> `(C, h, w)` in deviations from its mean; 0 where nothing was measured and outside the tile.

        Args:
            tile: Where to read.
            window: Its upper left corner lies inside the tile.
            shift: Modality -> columns by which it is moved to the right; its left edge is repeated.
        """
        inside = _clipped(tile, window)
        moved = shift or {}
        names = [m.name for m in self.data.modalities]
        plain = [name for name in names if name not in moved]
        found = self.data.read(tile, inside, only=plain) if plain else {}
        for name in moved:
            found[name] = self._moved(tile, inside, name, moved[name])
        values = normalise(found, self._statistics)
        below, right = window.height - inside.height, window.width - inside.width
        return {name: F.pad(torch.from_numpy(values[name]), (0, right, 0, below)) for name in names}

    def label(self, tile: SemanticTile, window: Window) -> Tensor:
        """Class indices `(h, w)` int64; 255 outside the tile."""
        inside = _clipped(tile, window)
        found = torch.from_numpy(self.data.read_label(tile, inside).astype(np.int64))
        return F.pad(found, (0, window.width - inside.width, 0, window.height - inside.height), value=IGNORED)

    def _moved(self, tile: SemanticTile, window: Window, name: str, columns: int) -> NDArray[np.float32]:
        wanted = np.clip(np.arange(window.column, window.column + window.width) - columns, 0, tile.width - 1)
        first = int(wanted[0])
        part = window._replace(column=first, width=int(wanted[-1]) - first + 1)
        return self.data.read(tile, part, only=[name])[name][:, :, wanted - first]


class TrainingCrops:
    """Crops of the training tiles, a fixed number per epoch; a tile is drawn in proportion to its pixels.

    What sample `i` of an epoch shows depends on the seed, the epoch and `i` alone.

    Args:
        reader: Reads the tiles.
        size: Height and width of a crop in pixels.
        per_epoch: Crops of an epoch; None for as many as cover the tiles once.
        augmentation: How they are drawn.
        seed: Seed of all draws.
    """

    def __init__(
        self, reader: TileReader, *, size: int, per_epoch: int | None, augmentation: Augmentation, seed: int
    ) -> None:
        self._reader, self._size, self._augmentation, self._seed = reader, size, augmentation, seed
        self._tiles = reader.data.tiles("train")
        areas = np.array([tile.height * tile.width for tile in self._tiles], dtype=np.float64)
        self._shares = areas / areas.sum()
        covering = sum(math.ceil(t.height / size) * math.ceil(t.width / size) for t in self._tiles)
        self._count = per_epoch or covering
        self._epoch = 0

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; call before its loader starts."""
        self._epoch = epoch

    def part(self, rank: int, num_workers: int) -> list[int]:
        """Every n-th crop, from the worker's own number on."""
        return list(range(rank, len(self), num_workers))

    def describe(self, index: int) -> dict[str, Any]:
        """The crop's number as its key."""
        return {"key": str(index)}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self._seed, self._epoch, index])
        tile, window, label = self._draw(rng)
        images = self._reader.read(tile, window)
        sample = {name: _resized(image, self._size) for name, image in images.items()}
        sample["target"] = _resized_label(label, self._size)
        for axis, share in ((-1, self._augmentation.flip), (-2, self._augmentation.vertical_flip)):
            if rng.random() < share:
                sample = {name: value.flip(axis) for name, value in sample.items()}
        return sample

    def _draw(self, rng: np.random.Generator) -> tuple[SemanticTile, Window, Tensor]:
        """A tile, a window of it that one class does not fill, and its label."""
        tile = self._tiles[int(rng.choice(len(self._tiles), p=self._shares))]
        side = max(1, round(self._size / rng.uniform(*self._augmentation.scale)))
        for draw in range(MAX_DRAWS):
            row, column = (int(rng.integers(max(n - side, 0) + 1)) for n in (tile.height, tile.width))
            window = Window(row, column, side, side)
            label = self._reader.label(tile, window)
            counts = torch.bincount(label[label != IGNORED])
            labelled = int(counts.sum())
            if draw + 1 == MAX_DRAWS or (
                labelled and int(counts.max()) <= self._augmentation.max_class_share * labelled
            ):
                break
        return tile, window, label


class TileWindow(NamedTuple):
    """One window of an evaluation."""

    tile: int
    """Place of its tile in the split, from 0."""
    window: Window


class EvaluationWindows:
    """The windows that cover the tiles of a split, tile by tile from top to bottom.

    Args:
        reader: Reads the tiles.
        tiles: The tiles.
        places: Windows by tile, in the order of `tiles`; all of one size.
        stress: What happens to one modality; None for nothing.
        seed: Seed of the noise of a stress.
    """

    def __init__(
        self,
        reader: TileReader,
        tiles: Sequence[SemanticTile],
        places: Sequence[Sequence[Window]],
        *,
        stress: Stress | None = None,
        seed: int = 0,
    ) -> None:
        self._reader, self.tiles, self._stress = reader, tiles, stress
        self.places = [TileWindow(n, window) for n, windows in enumerate(places) for window in windows]
        self._noise = None if stress is None or stress.kind != "noise" else self._draw_noise(stress, seed)

    def __len__(self) -> int:
        return len(self.places)

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn."""

    def part(self, rank: int, num_workers: int) -> list[int]:
        """All windows of every n-th tile."""
        return [i for i, place in enumerate(self.places) if place.tile % num_workers == rank]

    def describe(self, index: int) -> dict[str, Any]:
        """Key of the window's tile."""
        return {"key": self.tiles[self.places[index].tile].key}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number, window = self.places[index]
        tile = self.tiles[number]
        shift = {}
        if self._stress is not None and self._stress.kind == "shift":
            shift[self._stress.modality] = int(self._stress.level)
        sample = self._reader.read(tile, window, shift=shift)
        if self._stress is not None:
            self._disturb(sample, window)
        return {**sample, "index": torch.tensor(index)}

    def _disturb(self, sample: dict[str, Tensor], window: Window) -> None:
        assert self._stress is not None
        name = self._stress.modality
        if self._stress.kind == "drop":
            sample[name] = torch.zeros_like(sample[name])
        if self._noise is not None:
            rows = torch.arange(window.row, window.row + window.height) % NOISE_SIDE
            columns = torch.arange(window.column, window.column + window.width) % NOISE_SIDE
            sample[name] = sample[name] + self._noise[:, rows[:, None], columns]

    def _draw_noise(self, stress: Stress, seed: int) -> Tensor:
        """`(C, 512, 512)`, repeated over a tile, so that overlapping windows see the same noise at the same place."""
        bands = next(len(m.bands) for m in self._reader.data.modalities if m.name == stress.modality)
        draws = np.random.default_rng([seed, bands]).standard_normal((bands, NOISE_SIDE, NOISE_SIDE), dtype=np.float32)
        return torch.from_numpy(draws * np.float32(stress.level))


def require_tiles(data: SemanticDataset) -> None:
    """Raise `DataError` for a division into splits that leaves one of them empty."""
    for split in ("train", "val", "test"):
        if not data.tiles(split):
            raise DataError(
                f"{data.info.title}: every split must have tiles, {split!r} has none with the division "
                f"{data.split_name!r}; choose another in data.options"
            )


def _clipped(tile: SemanticTile, window: Window) -> Window:
    height, width = min(window.height, tile.height - window.row), min(window.width, tile.width - window.column)
    return window._replace(height=height, width=width)


def _resized(image: Tensor, size: int) -> Tensor:
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def _resized_label(label: Tensor, size: int) -> Tensor:
    if label.shape == (size, size):
        return label
    return F.interpolate(label[None, None].float(), size=(size, size), mode="nearest-exact")[0, 0].long()
