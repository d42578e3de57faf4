"""Sen1Floods11: Sentinel-1 and Sentinel-2 chips of floods with hand-made water masks.

Bonafilia et al., CVPR Workshops 2020. Layout of the hand-labelled part: `S1Hand/<chip>_S1Hand.tif` (VV, VH in dB),
`S2Hand/<chip>_S2Hand.tif` (13 bands of level 1C, reflectance x 10,000), `LabelHand/<chip>_LabelHand.tif` (-1 no data,
0 not water, 1 water), and `splits/flood_{train,valid,test}_data.csv` with the names of both files of a chip per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.label_coding import IntegerCodes
from harness.data.landscape import backscatter, decibels, draw_classes, moved, optical, scene_jobs
from harness.data.layout import require_layout
from harness.data.raster import Georeference, write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, Window
from harness.errors import DataError

S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
"""Bands of an S2 file, in its order."""

WAVELENGTHS_UM = (0.443, 0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 0.945, 1.375, 1.610, 2.190)
"""Centre of each of them."""

DB_RANGE = (-35.0, 5.0)
"""Backscatter is clipped to this; values outside are processing artefacts."""

_FOLDERS = {"sar": "S1Hand", "optical": "S2Hand"}
_LABELS = "LabelHand"
_LISTS = {"train": "train", "val": "valid", "test": "test"}
_GENERATED = "Synthetic"
"""What stands for the event in the names of generated chips, which are drawn independently of each other."""
_CLASSES = (ClassInfo(0, "not water", (210, 180, 140)), ClassInfo(1, "water", (0, 0, 255)))


@dataclass(frozen=True)
class Sen1Floods11Options:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    split: Literal["official", "left_right"] = "official"
    """The published lists of chips, or the left columns of every chip for training and the right ones for the test."""
    left_share: float = 0.625
    """Share of the columns for training with `left_right`, 0..1: columns 0 to 319 of 512."""
    gap: int = 0
    """Columns left out before the test part with `left_right`, pixels, at least 0."""
    val_columns: int = 0
    """Right-most columns of the left part that become the validation split, pixels; 0 for no validation split."""
    optical_bands: tuple[str, ...] = S2_BANDS
    """Bands of the optical modality in the wanted order, for example `[B2, B3, B4, B8]`."""

    def __post_init__(self) -> None:
        if not 0 < self.left_share < 1:
            raise ValueError(f"left_share must be between 0 and 1, got {self.left_share}")
        if min(self.gap, self.val_columns) < 0:
            raise ValueError(f"gap and val_columns must be at least 0, got {self.gap} and {self.val_columns}")
        unknown = [band for band in self.optical_bands if band not in S2_BANDS]
        if unknown or not self.optical_bands:
            raise ValueError(f"optical_bands must be some of {', '.join(S2_BANDS)}, got {list(self.optical_bands)}")


@DATASETS.register("sen1floods11")
class Sen1Floods11(RasterDataset):
    """Sen1Floods11 opened at the folder that holds `S1Hand`, `S2Hand` and `LabelHand`."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="Sen1Floods11",
        paper="Bonafilia et al., CVPRW 2020, https://doi.org/10.1109/CVPRW50498.2020.00113",
        task="semantic",
        expected={"train": 252, "val": 89, "test": 90},
    )
    Options: ClassVar[type[Any]] = Sen1Floods11Options

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        if options.split == "official":
            return Division("published lists")
        return Division(f"left {options.left_share:.4g} of every chip, its right part for the test", leaky=True)

    def _find(self, root: Path) -> Layout:
        options: Sen1Floods11Options = self.options
        require_layout(root, self.info.title, files=(), folders=(*_FOLDERS.values(), _LABELS))
        numbers = tuple(S2_BANDS.index(band) + 1 for band in options.optical_bands)
        wavelengths = tuple(WAVELENGTHS_UM[number - 1] for number in numbers)
        sources = (
            Source(ModalityInfo("optical", options.optical_bands, wavelengths), numbers, len(S2_BANDS)),
            Source(ModalityInfo("sar", ("VV", "VH")), (1, 2), 2),
        )
        coding = IntegerCodes({0: 0, 1: 1}, ignored=frozenset({-1}))
        return Layout(self._scenes(root), sources, _CLASSES, coding)

    def _scenes(self, root: Path) -> list[Scene]:
        if self.options.split == "left_right":
            chips = [(p.name.removesuffix("_LabelHand.tif"), "train") for p in sorted((root / _LABELS).glob("*.tif"))]
        else:
            chips = [(chip, split) for split in _LISTS for chip in _listed(root, split)]
        return [
            Scene(
                key=chip,
                split=split,
                files={name: root / folder / f"{chip}_{folder}.tif" for name, folder in _FOLDERS.items()},
                label=root / _LABELS / f"{chip}_{_LABELS}.tif",
            )
            for chip, split in chips
        ]

    def _divide(self, tiles: Sequence[SemanticTile]) -> Sequence[SemanticTile]:
        options: Sen1Floods11Options = self.options
        tiles = [replace(tile, scene=_event(tile.key)) for tile in tiles]
        if options.split == "official":
            return tiles
        found = []
        for tile in tiles:
            left = round(tile.width * options.left_share)
            parts = {
                "train": (0, left - options.val_columns),
                "val": (left - options.val_columns, left),
                "test": (left + options.gap, tile.width),
            }
            for split, (first, end) in parts.items():
                if end > first:
                    part = replace(tile, key=f"{tile.key}/{split}", split=split, column=first, width=end - first)
                    found.append(replace(part, bounds=None))
                elif split != "val":
                    raise DataError(f"{tile.key}: left_right leaves no columns for {split}, the chip has {tile.width}")
        return found

    def _values(self, tile: SemanticTile, name: str, window: Window) -> NDArray[np.float32]:
        values = super()._values(tile, name, window)
        return np.clip(values, *DB_RANGE) if name == "sar" else values / np.float32(1e4)

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature: water is what is dark to both sensors; shadow and smooth ground are dark to one."""
        lists: dict[str, list[str]] = {split: [] for split in _LISTS}
        for number, job in enumerate(scene_jobs(config)):
            chip = f"{_GENERATED}_{number:06d}"
            lists[job.split].append(chip)
            surfaces = draw_classes(4, config.size, config.size, job.rng)
            label = np.where(surfaces == IGNORED, -1, surfaces == 3).astype(np.int16)
            # Land is 0, smooth ground 1 (dark to radar), shadow 2 (dark to optical), water 3 (dark to both).
            filled = np.where(surfaces == IGNORED, 0, surfaces).astype(np.intp)
            bands = optical(filled // 2, 2, job.rng) * 12
            radar = decibels(backscatter(1 - moved(filled, job.shift) % 2, 2, job.rng))
            sar = np.stack([radar, radar - 6])
            if job.is_odd:
                label[:3, :3] = 7
                sar[0, 5, 5] = np.nan
            at = Georeference("EPSG:4326", 3.0 + 0.1 * number, 40.0, 1e-4)
            stack = bands[[2, 2, 1, 0, 0, 3, 3, 3, 3, 3, 1, 0, 0]]
            write_raster(root / "S1Hand" / f"{chip}_S1Hand.tif", sar, at=at)
            write_raster(root / "S2Hand" / f"{chip}_S2Hand.tif", stack.astype(np.uint16), at=at)
            write_raster(root / _LABELS / f"{chip}_{_LABELS}.tif", label, at=at)
        (root / "splits").mkdir(parents=True, exist_ok=True)
        for split, chips in lists.items():
            lines = "".join(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n" for chip in chips)
            _list_of(root, split).write_text(lines, encoding="utf-8")


def _event(chip: str) -> str:
    """The flood that `<event>_<number>` belongs to; empty for a generated chip and for any other name."""
    event, _, number = chip.rpartition("_")
    return event if number.isdigit() and event != _GENERATED else ""


def _list_of(root: Path, split: str) -> Path:
    return root / "splits" / f"flood_{_LISTS[split]}_data.csv"


def _listed(root: Path, split: str) -> list[str]:
    path = _list_of(root, split)
    if not path.is_file():
        raise DataError(f"{path}: the official split must list the chips, found no file; or use split: left_right")
    chips = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name = line.split(",")[0].strip()
        if not name:
            continue
        if not name.endswith("_S1Hand.tif") or Path(name).name != name:
            raise DataError(f"{path}:{number}: a line must start with <chip>_S1Hand.tif, got {line[:40]!r}")
        chips.append(name.removesuffix("_S1Hand.tif"))
    return chips
