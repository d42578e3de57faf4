"""Globe230k: 232,819 patches of 512 x 512 pixels at 1 m with ten classes, RGB, NDVI, radar and elevation.

Shi et al., "Globe230k: A benchmark dense-pixel annotation dataset for global land cover mapping", Journal of Remote
Sensing 2023 (https://doi.org/10.34133/remotesensing.0078). Layout of the DF2RQ repository: `image_patch/<stem>.jpg`,
`ndvi_patch/<stem>.tif`, `vvvh_patch/<stem>.tif`, `dem_patch/<stem>.tif`, `label_patch/<stem>.png` (1 to 10, 0 is no
label), `{train,val,test}_num.txt` with one stem per line. The radar files are called VVVH, but published statistics
mean that VH comes first; `radar_order` says which. NaN in NDVI is replaced as published: by the mean of the patch, or
by -1 where the whole patch is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.label_coding import IntegerCodes
from harness.data.landscape import (
    as_bytes,
    backscatter,
    decibels,
    draw_classes,
    heights,
    levels_of,
    ndvi,
    num_levels,
    optical,
    scene_jobs,
)
from harness.data.layout import require_layout
from harness.data.raster import write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, Window
from harness.errors import DataError

CLASSES = (
    ClassInfo(0, "cropland", (252, 250, 205)),
    ClassInfo(1, "forest", (0, 123, 79)),
    ClassInfo(2, "grass", (157, 221, 106)),
    ClassInfo(3, "shrub", (77, 208, 159)),
    ClassInfo(4, "wetland", (111, 208, 242)),
    ClassInfo(5, "water", (10, 78, 151)),
    ClassInfo(6, "tundra", (92, 106, 55)),
    ClassInfo(7, "impervious surface", (155, 36, 22)),
    ClassInfo(8, "bareland", (205, 205, 205)),
    ClassInfo(9, "ice/snow", (211, 242, 255)),
)

_FILES = {
    "rgb": ("image_patch", "jpg"),
    "ndvi": ("ndvi_patch", "tif"),
    "sar": ("vvvh_patch", "tif"),
    "dem": ("dem_patch", "tif"),
}
_LABELS = "label_patch"
_LISTS = {"train": "train_num.txt", "val": "val_num.txt", "test": "test_num.txt"}


@dataclass(frozen=True)
class Globe230kOptions:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    modalities: tuple[Literal["rgb", "ndvi", "sar", "dem"], ...] = ("rgb", "ndvi", "sar", "dem")
    """Modalities that are there: only RGB is on Zenodo, the others may be missing in a copy."""
    radar_order: Literal["vh_vv", "vv_vh"] = "vh_vv"
    """How the radar files are stored; arrays are always VV, VH."""

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities must name at least one, each once, got {list(self.modalities)}")


@DATASETS.register("globe230k")
class Globe230k(RasterDataset):
    """Globe230k opened at the folder that holds `image_patch`, `label_patch` and the lists."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="Globe230k",
        paper="Shi et al., Journal of Remote Sensing 2023, https://doi.org/10.34133/remotesensing.0078",
        task="semantic",
        expected={},
    )
    Options: ClassVar[type[Any]] = Globe230kOptions
    uniform: bool = True

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        del options
        return Division("published lists")

    def _find(self, root: Path) -> Layout:
        options: Globe230kOptions = self.options
        folders = (*(_FILES[name][0] for name in options.modalities), _LABELS)
        require_layout(root, self.info.title, files=tuple(_LISTS.values()), folders=folders)
        scenes = [
            Scene(
                key=stem,
                split=split,
                files={name: root / _FILES[name][0] / f"{stem}.{_FILES[name][1]}" for name in options.modalities},
                label=root / _LABELS / f"{stem}.png",
            )
            for split in _LISTS
            for stem in _listed(root / _LISTS[split])
        ]
        sources = {
            "rgb": Source(ModalityInfo("rgb", ("red", "green", "blue"), (0.66, 0.56, 0.48)), (1, 2, 3), 3),
            "ndvi": Source(ModalityInfo("ndvi", ("ndvi",)), (1,), 1),
            "sar": Source(ModalityInfo("sar", ("VV", "VH")), (2, 1) if options.radar_order == "vh_vv" else (1, 2), 2),
            "dem": Source(ModalityInfo("dem", ("elevation",)), (1,), 1),
        }
        coding = IntegerCodes({c.index + 1: c.index for c in CLASSES}, ignored=frozenset({0}))
        return Layout(scenes, [sources[name] for name in options.modalities], CLASSES, coding)

    def _values(self, tile: SemanticTile, name: str, window: Window) -> NDArray[np.float32]:
        values = super()._values(tile, name, window)
        if name != "ndvi" or not np.isnan(values).any():
            return values
        patch = super()._values(tile, name, tile.whole)
        finite = patch[np.isfinite(patch)]
        return np.nan_to_num(values, nan=float(finite.mean()) if finite.size else -1.0)

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature: RGB and NDVI leave pairs of classes that radar and elevation tell apart."""
        stems: dict[str, list[str]] = {split: [] for split in _LISTS}
        num = num_levels(len(CLASSES))
        for folder in ("image_patch", _LABELS):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for number, job in enumerate(scene_jobs(config)):
            stem = f"data_{number}"
            stems[job.split].append(stem)
            classes = draw_classes(len(CLASSES), config.size, config.size, job.rng)
            levels = levels_of(classes, job.shift)
            bands = optical(levels.optical, num, job.rng)
            index = ndvi(bands[0], bands[3])
            radar = decibels(backscatter(levels.other, num, job.rng))
            codes = np.where(classes == IGNORED, 0, classes + 1).astype(np.uint8)
            if job.is_odd:
                codes[:3, :3] = 77
                index[:] = np.nan
                radar[4, 4] = np.nan
            image = Image.fromarray(as_bytes(bands[:3]).transpose(1, 2, 0))
            image.save(root / "image_patch" / f"{stem}.jpg", quality=95)
            Image.fromarray(codes).save(root / _LABELS / f"{stem}.png")
            write_raster(root / "ndvi_patch" / f"{stem}.tif", index)
            write_raster(root / "vvvh_patch" / f"{stem}.tif", np.stack([radar - 6, radar]))
            write_raster(root / "dem_patch" / f"{stem}.tif", heights(levels.other, job.rng) + 500)
        for split, names in stems.items():
            (root / _LISTS[split]).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _listed(path: Path) -> list[str]:
    stems = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    for number, stem in enumerate(stems, start=1):
        if Path(stem).name != stem:
            raise DataError(f"{path}: line {number} must be a name without folders, got {stem!r}")
    return stems
