"""WHU-OPT-SAR: 100 scenes of Hubei, 5556 x 3704 pixels of 5 m, GF-1 optical and GF-3 radar, seven land-cover classes.

Li et al., "MCANet: A joint semantic segmentation framework of optical and SAR images for land use classification",
2022 (https://doi.org/10.1016/j.jag.2021.102638). Layout: `optical/<ID>.tif` (or `image/`), `sar/<ID>.tif`,
`lbl/<ID>.tif`, no georeference. Codes 10 to 70 are the classes, 0 is no label. The split is the list of 60, 20 and 20
scenes that circulates as official. One scene is a pixel narrower in one of its rasters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from harness.data.base import DATASETS, SPLITS, DatasetInfo, SyntheticConfig
from harness.data.label_coding import IntegerCodes
from harness.data.landscape import (
    as_bytes,
    backscatter,
    byte_amplitude,
    draw_classes,
    levels_of,
    num_levels,
    scene_jobs,
)
from harness.data.landscape import optical as optical_bands
from harness.data.layout import require_layout
from harness.data.raster import write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, row_windows
from harness.errors import DataError

CLASSES = tuple(
    ClassInfo(index, name, colour)
    for index, (name, colour) in enumerate(
        (
            *(("farmland", (204, 102, 0)), ("city", (255, 0, 0)), ("village", (255, 255, 0)), ("water", (0, 0, 255))),
            *(("forest", (85, 167, 0)), ("road", (0, 255, 255)), ("others", (153, 102, 153))),
        )
    )
)

MIN_NDVI_GAP = 0.2
"""By how much the mean vegetation index of forest must exceed that of water; less means another order of bands."""

_SHEETS = {
    "train": {
        "NH49E": "004021 005014 005023 005024 006011 006022 006024 007013 007023 007024 008014 008017 008024 009014 "
        "009023 009024 010014 010015 012017 012018 012022 013018 013023 014007 014017 014021 014024",
        "NH50E": "003001 006001 006007 007001 007003 007004 008003 009001 009003 009004 009006 010001 010003 010004 "
        "011002 011004 012001 012004 012005 012008 013001 013002 013005",
        "NI49E": "021010 022010 022011 022013 022015 023017 024017 024018 024019 024020",
    },
    "val": {
        "NH49E": "001013 002014 004013 006014 006017 007017 009012 010016 010022 011011 011017 012009 013007 013021 "
        "014022",
        "NH50E": "016002",
        "NI49E": "021011 021012 022014 024013",
    },
    "test": {
        "NH49E": "001014 001017 002012 002016 003014 003024 004011 005011 005019 006019 007014 008013 009017 010020 "
        "011024 012020 013010",
        "NH50E": "007002 011005 014003",
    },
}

OFFICIAL = {
    split: tuple(sheet + number for sheet, numbers in sheets.items() for number in numbers.split())
    for split, sheets in _SHEETS.items()
}
"""Split -> scenes."""

_ORDERS = {"bgrn": (3, 2, 1, 4), "rgbn": (1, 2, 3, 4)}
_LEAKY_SHARES = (0.6, 0.2)


@dataclass(frozen=True)
class WhuOptSarOptions:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    split: Literal["official", "random_patch_leaky"] = "official"
    """Whole scenes, or patches of all scenes drawn 6:2:2, which puts neighbours into different splits."""
    band_order: Literal["bgrn", "rgbn"] = "bgrn"
    """How the optical files are stored; the authors have said both. Arrays are always red, green, blue, infrared."""
    patch: int = 256
    """Side of the patches of `random_patch_leaky` in pixels, at least 1."""
    seed: int = 0
    """Seed of `random_patch_leaky`."""

    def __post_init__(self) -> None:
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1 pixel, got {self.patch}; 256 is customary")


@DATASETS.register("whu_opt_sar")
class WhuOptSar(RasterDataset):
    """WHU-OPT-SAR opened at the folder that holds `optical`, `sar` and `lbl`."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="WHU-OPT-SAR",
        paper="Li et al., JAG 2022, https://doi.org/10.1016/j.jag.2021.102638",
        task="semantic",
        expected={split: len(scenes) for split, scenes in OFFICIAL.items()},
    )
    Options: ClassVar[type[Any]] = WhuOptSarOptions
    slack: ClassVar[int] = 1

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        return Division(options.split, leaky=options.split == "random_patch_leaky")

    def _find(self, root: Path) -> Layout:
        options: WhuOptSarOptions = self.options
        folder = "image" if (root / "image").is_dir() and not (root / "optical").is_dir() else "optical"
        require_layout(root, self.info.title, files=(), folders=(folder, "sar", "lbl"))
        names = {path.stem for part in (folder, "sar", "lbl") for path in (root / part).glob("*.tif")}
        scenes = [
            Scene(
                key=name,
                split=split,
                files={"optical": root / folder / f"{name}.tif", "sar": root / "sar" / f"{name}.tif"},
                label=root / "lbl" / f"{name}.tif",
            )
            for split in SPLITS
            for name in OFFICIAL[split]
            if name in names
        ]
        optical = ModalityInfo("optical", ("red", "green", "blue", "nir"), (0.66, 0.555, 0.485, 0.83))
        sources = (
            Source(optical, _ORDERS[options.band_order], 4),
            Source(ModalityInfo("sar", ("amplitude",)), (1,), 1),
        )
        coding = IntegerCodes({10 * (c.index + 1): c.index for c in CLASSES}, ignored=frozenset({0}))
        return Layout(scenes, sources, CLASSES, coding)

    def _divide(self, tiles: Sequence[SemanticTile]) -> Sequence[SemanticTile]:
        if not self.leaky:
            return tiles
        side = self.options.patch
        patches = [
            replace(t, key=f"{t.key}/{row}_{column}", scene=t.key, row=row, column=column, height=side, width=side)
            for t in tiles
            for row in range(0, t.height - side + 1, side)
            for column in range(0, t.width - side + 1, side)
        ]
        if len(patches) < len(SPLITS):
            raise DataError(
                f"{self._root}: the scenes must hold at least 3 patches of {side} pixels, found {len(patches)}"
            )
        order = np.random.default_rng(self.options.seed).permutation(len(patches))
        ends = np.cumsum([max(1, int(share * len(patches))) for share in _LEAKY_SHARES])
        split_of = {int(place): SPLITS[int(np.searchsorted(ends, rank, "right"))] for rank, place in enumerate(order)}
        return [replace(patch, split=split_of[place]) for place, patch in enumerate(patches)]

    def remarks(self) -> Iterator[tuple[str, str]]:
        """Doubts about the order of bands, from the vegetation index of forest and water in the training split."""
        sums, counts = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
        for tile in self.tiles("train"):
            for window in row_windows(tile):
                bands = self.read(tile, window, only=("optical",))["optical"]
                red, infrared = bands[0], bands[3]
                index = (infrared - red) / np.maximum(infrared + red, 1)
                label = self.read_label(tile, window)
                valid = (label != IGNORED) & np.isfinite(index)
                sums += np.bincount(label[valid], index[valid], len(CLASSES))
                counts += np.bincount(label[valid], minlength=len(CLASSES))
        by_name = {c.name: sums[c.index] / counts[c.index] for c in CLASSES if counts[c.index]}
        if {"forest", "water"} <= by_name.keys() and by_name["forest"] - by_name["water"] <= MIN_NDVI_GAP:
            shown = f"NDVI of forest {by_name['forest']:.2f}, of water {by_name['water']:.2f}"
            yield "doubtful order of bands, try another band_order", shown

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature with the first scenes of each official list, at most as many as these hold."""
        num = num_levels(len(CLASSES))
        for job in scene_jobs(config):
            if job.number >= len(OFFICIAL[job.split]):
                continue
            name = OFFICIAL[job.split][job.number]
            classes = draw_classes(len(CLASSES), config.size, config.size * 3 // 2, job.rng)
            levels = levels_of(classes, job.shift)
            bands = as_bytes(optical_bands(levels.optical, num, job.rng))[[2, 1, 0, 3]]
            radar = byte_amplitude(backscatter(levels.other, num, job.rng))
            codes = np.where(classes == IGNORED, 0, (classes + 1) * 10).astype(np.uint8)
            if job.is_odd:
                codes[:4, :4] = 75
                radar = radar[:, :-1]
            write_raster(root / "optical" / f"{name}.tif", bands)
            write_raster(root / "sar" / f"{name}.tif", radar)
            write_raster(root / "lbl" / f"{name}.tif", codes)
