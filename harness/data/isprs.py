"""What ISPRS Vaihingen and Potsdam share: classes, colours, customs of splitting, height models.

ISPRS 2D Semantic Labeling Contest. Six classes as colours, black where nothing is defined (the borders of the eroded
labels). Two customs of splitting exist and their numbers are not comparable: the contest's, and the one of the SSRS
repository (CMFNet, FTransUNet, ASMFNet, MFNet), which scores on eroded labels and chooses its epoch on the test tiles.
Neither has validation tiles; by default some training tiles are held out so that nothing is chosen on the test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import SyntheticConfig
from harness.data.label_coding import colour_codes, paint
from harness.data.landscape import SceneJob, draw_classes, heights, levels_of, num_levels, optical, scene_jobs
from harness.data.raster import write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, Window, row_windows
from harness.errors import DataError

CLASSES = (
    ClassInfo(0, "impervious surface", (255, 255, 255)),
    ClassInfo(1, "building", (0, 0, 255)),
    ClassInfo(2, "low vegetation", (0, 255, 255)),
    ClassInfo(3, "tree", (0, 255, 0)),
    ClassInfo(4, "car", (255, 255, 0)),
    ClassInfo(5, "clutter", (255, 0, 0)),
)

COLOUR_TOLERANCE = 30
"""Colours this near to one of the table count as it: some published label files have noisy colours."""

_CODING = colour_codes(CLASSES, tolerance=COLOUR_TOLERANCE)


class Custom(NamedTuple):
    """A custom of splitting, by names of areas."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    """Those of `train` that become the validation split unless `validation` is `none`."""
    test: tuple[str, ...]

    def areas(self, validation: Literal["held_out", "none"]) -> Mapping[str, tuple[str, ...]]:
        """Split -> areas."""
        held_out = self.held_out if validation == "held_out" else ()
        return {"train": tuple(a for a in self.train if a not in held_out), "val": held_out, "test": self.test}


@dataclass(frozen=True)
class IsprsOptions:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    split: Literal["official", "ssrs"] = "official"
    """The contest's tiles or those of the SSRS repository; scores of the two are not comparable."""
    validation: Literal["held_out", "none"] = "held_out"
    """Whether some training tiles become the validation split; `none` trains on all of them, as published."""
    evaluation_labels: Literal["full", "eroded"] = "full"
    """Labels of the validation and test split: all pixels, or without a border of 3 pixels around every object."""
    dsm: Literal["metres", "tile_minmax"] = "metres"
    """Heights as stored, or scaled to 0..1 by the extremes of each tile, as SSRS does."""


class IsprsDataset(RasterDataset):
    """Vaihingen or Potsdam; a subclass names files, bands and splits."""

    Options: ClassVar[type[Any]] = IsprsOptions
    slack: ClassVar[int] = 1
    customs: ClassVar[Mapping[str, Custom]]
    optical: ClassVar[Source]

    def __init__(self, root: Path, options: Any = None) -> None:
        self._extremes: dict[Path, tuple[float, float]] = {}
        super().__init__(root, options)

    def image_of(self, root: Path, area: str) -> Path:
        """The optical file of an area."""
        raise NotImplementedError

    def dsm_of(self, root: Path, area: str) -> Path:
        """The height model of an area."""
        raise NotImplementedError

    def label_of(self, root: Path, area: str, *, eroded: bool) -> Path:
        """The label of an area."""
        raise NotImplementedError

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        return Division(f"{options.split}, validation {options.validation}, {options.evaluation_labels} labels")

    def _find(self, root: Path) -> Layout:
        options: IsprsOptions = self.options
        areas = self.customs[options.split].areas(options.validation)
        scenes = []
        for split, names in areas.items():
            eroded = split != "train" and options.evaluation_labels == "eroded"
            for area in names:
                image, dsm = self.image_of(root, area), self.dsm_of(root, area)
                label = self.label_of(root, area, eroded=eroded)
                if any(path.exists() for path in (image, dsm, label)):
                    scenes.append(Scene(area, split, {"optical": image, "dsm": dsm}, label))
        if not scenes:
            first = areas["train"][0]
            wanted = [self.image_of(root, first), self.dsm_of(root, first), self.label_of(root, first, eroded=False)]
            shown = ", ".join(path.relative_to(root).as_posix() for path in wanted)
            raise DataError(f"{root}: a folder of {self.info.title} must hold files like {shown}; found none of them")
        dsm_source = Source(ModalityInfo("dsm", ("height",)), (1,), 1)
        return Layout(scenes, (self.optical, dsm_source), CLASSES, _CODING)

    def _values(self, tile: SemanticTile, name: str, window: Window) -> NDArray[np.float32]:
        values = super()._values(tile, name, window)
        if name != "dsm" or self.options.dsm == "metres":
            return values
        low, high = self._range(tile)
        return ((values - low) / max(high - low, 1e-6)).astype(np.float32)

    def _range(self, tile: SemanticTile) -> tuple[float, float]:
        """Least and greatest height of a tile, found once by reading it in parts."""
        path = tile.files["dsm"]
        if path not in self._extremes:
            parts = [super(IsprsDataset, self)._values(tile, "dsm", window) for window in row_windows(tile)]
            finite = [part[np.isfinite(part)] for part in parts]
            ends = [(float(p.min()), float(p.max())) for p in finite if p.size]
            if not ends:
                raise DataError(f"{path}: a height model must hold at least one height, found none")
            self._extremes[path] = (min(low for low, _ in ends), max(high for _, high in ends))
        return self._extremes[path]


class DrawnArea(NamedTuple):
    """One generated tile."""

    area: str
    optical: NDArray[np.float64]
    """Red, green, blue, near infrared `(4, H, W)`."""
    dsm: NDArray[np.float32]
    colours: NDArray[np.uint8]
    """Label `(3, H, W)`."""
    eroded: NDArray[np.uint8]
    """Label with black borders `(3, H, W)`."""


def draw_areas(config: SyntheticConfig, custom: Custom) -> Sequence[DrawnArea]:
    """Tiles with the names of the contest's split, at most as many as it has."""
    areas = custom.areas("held_out")
    return [
        _draw_area(job, areas[job.split][job.number], config.size)
        for job in scene_jobs(config)
        if job.number < len(areas[job.split])
    ]


def write_labels(full: Path, eroded: Path, drawn: DrawnArea) -> None:
    """Write both labels of a generated tile."""
    write_raster(full, drawn.colours)
    write_raster(eroded, drawn.eroded)


def _draw_area(job: SceneJob, area: str, size: int) -> DrawnArea:
    classes = draw_classes(len(CLASSES), size, size, job.rng)
    levels = levels_of(classes, job.shift)
    eroded = np.where(_is_border(classes, 3), IGNORED, classes)
    colours, inner = paint(classes, CLASSES), paint(eroded, CLASSES)
    bands = optical(levels.optical, num_levels(len(CLASSES)), job.rng)
    dsm = heights(levels.other, job.rng)
    if job.is_odd:
        colours[:, :3, :3] = np.array([128, 64, 32])[:, None, None]
        colours[:, 10, :] = np.where(colours[:, 10, :] > 128, 246, 9)  # noisy colours, which still count
        dsm = dsm[:-1]
        dsm[5, 5] = np.nan
    return DrawnArea(area, bands, dsm, colours, inner)


def _is_border(classes: NDArray[np.uint8], radius: int) -> NDArray[np.bool_]:
    """Whether a pixel of another class lies within `radius` rows or columns."""
    border = np.zeros(classes.shape, dtype=np.bool_)
    for distance in range(1, radius + 1):
        rows = classes[distance:] != classes[:-distance]
        columns = classes[:, distance:] != classes[:, :-distance]
        border[distance:] |= rows
        border[:-distance] |= rows
        border[:, distance:] |= columns
        border[:, :-distance] |= columns
    return border
