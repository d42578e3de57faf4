"""ISPRS Potsdam: 38 tiles of 5 cm, 6000 x 6000 pixels, red, green, blue, near infrared, and a height model.

https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-potsdam.aspx. Layout:
`4_Ortho_RGBIR/top_potsdam_<r>_<c>_RGBIR.tif`, `1_DSM/dsm_potsdam_<rr>_<cc>.tif` (numbers with or without leading
zeros), `5_Labels_all/top_potsdam_<r>_<c>_label.tif`,
`5_Labels_all_noBoundary/top_potsdam_<r>_<c>_label_noBoundary.tif`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.isprs import Custom, IsprsDataset, draw_areas, write_labels
from harness.data.landscape import as_bytes
from harness.data.raster import write_raster
from harness.data.raster_dataset import Source
from harness.data.semantic import ModalityInfo

_TRAIN = (
    "2_10",
    "2_11",
    "2_12",
    "3_10",
    "3_11",
    "3_12",
    "4_10",
    "4_11",
    "4_12",
    "5_10",
    "5_11",
    "5_12",
    "6_7",
    "6_8",
    "6_9",
    "6_10",
    "6_11",
    "6_12",
    "7_7",
    "7_8",
    "7_9",
    "7_10",
    "7_11",
    "7_12",
)
_SSRS_TEST = ("4_10", "5_11", "2_11", "3_10", "6_11", "7_12")

_TEST = "2_13 2_14 3_13 3_14 4_13 4_14 4_15 5_13 5_14 5_15 6_13 6_14 6_15 7_13"

_OFFICIAL = Custom(
    train=_TRAIN,
    held_out=("2_12", "3_11", "5_10", "6_8", "7_9"),
    test=(
        "2_13",
        "2_14",
        "3_13",
        "3_14",
        "4_13",
        "4_14",
        "4_15",
        "5_13",
        "5_14",
        "5_15",
        "6_13",
        "6_14",
        "6_15",
        "7_13",
    ),
)


@DATASETS.register("potsdam")
class Potsdam(IsprsDataset):
    """Potsdam opened at the folder that holds `4_Ortho_RGBIR`, `1_DSM` and `5_Labels_all`."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="ISPRS Potsdam",
        paper="ISPRS 2D Semantic Labeling Contest, https://www.isprs.org/education/benchmarks/UrbanSemLab/",
        task="semantic",
        expected={split: len(areas) for split, areas in _OFFICIAL.areas("held_out").items()},
    )
    customs: ClassVar[Mapping[str, Custom]] = {
        "official": _OFFICIAL,
        "ssrs": Custom(
            train=tuple(area for area in _TRAIN if area not in _SSRS_TEST),
            held_out=("2_12", "5_10", "7_9"),
            test=_SSRS_TEST,
        ),
    }
    optical: ClassVar[Source] = Source(
        ModalityInfo("optical", ("red", "green", "blue", "nir"), (0.645, 0.56, 0.48, 0.84)), (1, 2, 3, 4), 4
    )

    def image_of(self, root: Path, area: str) -> Path:
        """The optical file of an area."""
        return root / "4_Ortho_RGBIR" / f"top_potsdam_{area}_RGBIR.tif"

    def dsm_of(self, root: Path, area: str) -> Path:
        """The height model of an area, metres above sea level; its number may lack the leading zeros."""
        short = root / "1_DSM" / f"dsm_potsdam_{area}.tif"
        return short if short.is_file() else root / "1_DSM" / f"dsm_potsdam_{_padded(area)}.tif"

    def label_of(self, root: Path, area: str, *, eroded: bool) -> Path:
        """The label of an area."""
        if eroded:
            return root / "5_Labels_all_noBoundary" / f"top_potsdam_{area}_label_noBoundary.tif"
        return root / "5_Labels_all" / f"top_potsdam_{area}_label.tif"

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature with the first areas of each part of the contest's split; heights have padded names."""
        for drawn in draw_areas(config, _OFFICIAL):
            write_raster(root / "4_Ortho_RGBIR" / f"top_potsdam_{drawn.area}_RGBIR.tif", as_bytes(drawn.optical))
            write_raster(root / "1_DSM" / f"dsm_potsdam_{_padded(drawn.area)}.tif", drawn.dsm)
            full = root / "5_Labels_all" / f"top_potsdam_{drawn.area}_label.tif"
            eroded = root / "5_Labels_all_noBoundary" / f"top_potsdam_{drawn.area}_label_noBoundary.tif"
            write_labels(full, eroded, drawn)


def _padded(area: str) -> str:
    """`2_10` -> `02_10`."""
    return "_".join(number.zfill(2) for number in area.split("_"))
