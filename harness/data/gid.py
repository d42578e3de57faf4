"""GID: 150 GF-2 images of 4 m, 7200 x 6800 pixels, with 5 classes, and 10 of them with 15 classes.

Tong et al., "Land-cover classification with high-resolution remote sensing images using transferable deep models",
Remote Sensing of Environment 2020 (https://doi.org/10.1016/j.rse.2019.111322). Layout: a folder per class set with
`image_NirRGB/<stem>.tif` (near infrared, red, green, blue) and `label_5classes/<stem>_label.tif` or
`label_15classes/<stem>_15label.tif`, labels as colours, black where there is none. Forest is (0, 255, 255) and water
(0, 0, 255): a widespread converter mixes them up. There is no published split with a test part; the scenes are
ordered by a hash of seed and name and divided 60:20:20.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.label_coding import colour_codes, paint
from harness.data.landscape import as_bytes, draw_classes, levels_of, num_levels, optical, scene_jobs
from harness.data.layout import require_layout
from harness.data.raster import write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import ClassInfo, Division, ModalityInfo
from harness.errors import DataError

CLASSES_5 = (
    ClassInfo(0, "built-up", (255, 0, 0)),
    ClassInfo(1, "farmland", (0, 255, 0)),
    ClassInfo(2, "forest", (0, 255, 255)),
    ClassInfo(3, "meadow", (255, 255, 0)),
    ClassInfo(4, "water", (0, 0, 255)),
)

CLASSES_15 = (
    ClassInfo(0, "industrial land", (200, 0, 0)),
    ClassInfo(1, "urban residential", (250, 0, 150)),
    ClassInfo(2, "rural residential", (200, 150, 150)),
    ClassInfo(3, "traffic land", (250, 150, 150)),
    ClassInfo(4, "paddy field", (0, 200, 0)),
    ClassInfo(5, "irrigated land", (150, 250, 0)),
    ClassInfo(6, "dry cropland", (150, 200, 150)),
    ClassInfo(7, "garden plot", (200, 0, 200)),
    ClassInfo(8, "arbor woodland", (150, 0, 250)),
    ClassInfo(9, "shrub land", (150, 150, 250)),
    ClassInfo(10, "natural grassland", (250, 200, 0)),
    ClassInfo(11, "artificial grassland", (200, 200, 0)),
    ClassInfo(12, "river", (0, 0, 200)),
    ClassInfo(13, "lake", (0, 150, 200)),
    ClassInfo(14, "pond", (0, 200, 250)),
)

_SETS = {
    5: ("Large-scale Classification_5classes", "label_5classes", "_label", CLASSES_5),
    15: ("Fine Land-cover Classification_15classes", "label_15classes", "_15label", CLASSES_15),
}
_IMAGES = "image_NirRGB"
_VAL_SHARE, _TEST_SHARE = 0.2, 0.2
_MIN_SCENES = 3


@dataclass(frozen=True)
class GidOptions:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    num_classes: Literal[5, 15] = 5
    """The large set with 5 classes or the fine one with 15."""
    seed: int = 0
    """Seed of the division into splits."""


@DATASETS.register("gid")
class Gid(RasterDataset):
    """GID opened at the folder that holds the folder of the class set, or at that folder itself."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="GID",
        paper="Tong et al., RSE 2020, https://doi.org/10.1016/j.rse.2019.111322",
        task="semantic",
        expected={"train": 90, "val": 30, "test": 30},
    )
    Options: ClassVar[type[Any]] = GidOptions

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        return Division(f"seeded 60:20:20 of scenes, seed {options.seed}")

    def _find(self, root: Path) -> Layout:
        options: GidOptions = self.options
        folder, labels, suffix, classes = _SETS[options.num_classes]
        base = root if (root / labels).is_dir() else root / folder
        require_layout(base, f"GID with {options.num_classes} classes", files=(), folders=(_IMAGES, labels))
        stems = sorted(path.stem for path in (base / _IMAGES).glob("*.tif"))
        split_of = seeded_splits(stems, options.seed, where=base / _IMAGES)
        scenes = [
            Scene(
                key=stem,
                split=split_of[stem],
                files=dict.fromkeys(("rgb", "nir"), base / _IMAGES / f"{stem}.tif"),
                label=_label(base / labels, stem + suffix),
            )
            for stem in stems
        ]
        sources = (
            Source(ModalityInfo("rgb", ("red", "green", "blue"), (0.66, 0.555, 0.485)), (2, 3, 4), 4),
            Source(ModalityInfo("nir", ("nir",), (0.83,)), (1,), 4),
        )
        return Layout(scenes, sources, classes, colour_codes(classes))

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write miniatures of both class sets; the splits follow from the names, the total is as asked."""
        for folder, labels, suffix, classes in _SETS.values():
            num = num_levels(len(classes))
            for number, job in enumerate(scene_jobs(config)):
                stem = f"GF2_PMS{1 + number % 2}__L1A{number:010d}-MSS{1 + number % 2}"
                drawn = draw_classes(len(classes), config.size, config.size * 15 // 14, job.rng)
                levels = levels_of(drawn, job.shift)
                bands = as_bytes(optical(levels.optical, num, job.rng))
                infrared = 40 + 180 * levels.other / (num - 1) + job.rng.normal(0, 5, drawn.shape)
                stack = np.stack([as_bytes(np.clip(infrared, 0, 255)), *bands[:3]])
                colours = paint(drawn, classes)
                if job.is_odd:
                    colours[:, :3, :3] = np.array([12, 34, 56])[:, None, None]
                write_raster(root / folder / _IMAGES / f"{stem}.tif", stack)
                write_raster(root / folder / labels / f"{stem}{suffix}.tif", colours)


def seeded_splits(names: Sequence[str], seed: int, *, where: Path) -> dict[str, str]:
    """Name -> split, 60:20:20 in the order of a hash of seed and name; at least one name per split.

    Args:
        names: What is divided.
        seed: Another seed is another division.
        where: For the message.

    Raises:
        DataError: Fewer than three names.
    """
    if len(names) < _MIN_SCENES:
        raise DataError(
            f"{where}: must hold at least {_MIN_SCENES} .tif files to divide into splits, found {len(names)}"
        )
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    num_val, num_test = (max(1, round(share * len(names))) for share in (_VAL_SHARE, _TEST_SHARE))
    held_out = {**dict.fromkeys(order[:num_val], "val"), **dict.fromkeys(order[num_val : num_val + num_test], "test")}
    return {name: held_out.get(name, "train") for name in names}


def _label(folder: Path, stem: str) -> Path:
    """The label of a scene: `.tif`, or `.png` in some copies."""
    png = folder / f"{stem}.png"
    return png if png.is_file() else folder / f"{stem}.tif"
