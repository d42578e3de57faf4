"""Mean and deviation of every band over the training split, and the normalisation they are for.

Computed once per trial from windows, so memory does not depend on the size of the scenes. Sums are kept as mean and
squared distances from it (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", 1979): a height model around 270 m keeps its deviation of 5 m in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.data.semantic import SemanticDataset, strips
from harness.errors import DataError


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of one modality."""

    mean: tuple[float, ...]
    """Mean of each band over pixels with a finite value."""
    std: tuple[float, ...]
    """Standard deviation of each band, of the population; at least 1e-6."""
    count: tuple[int, ...]
    """Pixels that were used of each band."""


class RunningMoments:
    """Count, mean and squared distances of some bands, updated window by window."""

    def __init__(self, num_bands: int) -> None:
        self._count = np.zeros(num_bands, dtype=np.int64)
        self._mean = np.zeros(num_bands)
        self._squares = np.zeros(num_bands)

    def add(self, values: NDArray[np.float32]) -> None:
        """Enter the finite values of `(C, h, w)`."""
        for band, layer in enumerate(values):
            finite = layer[np.isfinite(layer)].astype(np.float64)
            if not finite.size:
                continue
            count, total = self._count[band], self._count[band] + finite.size
            mean = finite.mean()
            step = mean - self._mean[band]
            self._squares[band] += ((finite - mean) ** 2).sum() + step**2 * count * finite.size / total
            self._mean[band] += step * finite.size / total
            self._count[band] = total

    def result(self) -> BandStatistics:
        """The statistics of what was entered."""
        variance = self._squares / np.maximum(self._count, 1)
        std = np.maximum(np.sqrt(variance), 1e-6)
        return BandStatistics(tuple(map(float, self._mean)), tuple(map(float, std)), tuple(int(n) for n in self._count))


def band_statistics(
    data: SemanticDataset, *, split: str = "train", only: Sequence[str] | None = None
) -> dict[str, BandStatistics]:
    """Statistics of every modality over all pixels of a split.

    Args:
        data: The dataset.
        split: Which split; anything but `train` lets the evaluation see what it evaluates on.
        only: Names of the modalities; None for all.

    Raises:
        DataError: The split is empty, or a band has no finite value.
    """
    tiles = data.tiles(split)
    if not tiles:
        raise DataError(f"{data.info.title}: normalisation needs tiles in the split {split!r}, found none")
    infos = [m for m in data.modalities if only is None or m.name in only]
    moments = {info.name: RunningMoments(len(info.bands)) for info in infos}
    for tile in tiles:
        for window in strips(tile):
            for name, values in data.read(tile, window, only=tuple(moments)).items():
                moments[name].add(values)
    found = {name: running.result() for name, running in moments.items()}
    for info in infos:
        empty = [band for band, n in zip(info.bands, found[info.name].count, strict=True) if not n]
        if empty:
            raise DataError(
                f"{data.info.title}: every band must have values in the split {split!r}, "
                f"{info.name} has none in {', '.join(empty)}"
            )
    return found


def normalise(
    values: Mapping[str, NDArray[np.float32]], statistics: Mapping[str, BandStatistics]
) -> dict[str, NDArray[np.float32]]:
    """Subtract the mean, divide by the deviation; what was not measured (NaN) becomes 0, the mean.

    Args:
        values: Modality -> `(C, h, w)`.
        statistics: Modality -> its statistics.
    """
    found = {}
    for name, bands in values.items():
        mean = np.array(statistics[name].mean, dtype=np.float32)[:, None, None]
        std = np.array(statistics[name].std, dtype=np.float32)[:, None, None]
        found[name] = np.nan_to_num((bands - mean) / std, nan=0.0)
    return found
