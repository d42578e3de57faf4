"""ISPRS Vaihingen: 33 tiles of 9 cm, near infrared, red, green, and a height model.

https://www.isprs.org/education/benchmarks/UrbanSemLab/2d-sem-label-vaihingen.aspx. Layout:
`top/top_mosaic_09cm_area<ID>.tif`, `dsm/dsm_09cm_matching_area<ID>.tif`,
`gts_for_participants/top_mosaic_09cm_area<ID>.tif`,
`gts_eroded_for_participants/top_mosaic_09cm_area<ID>_noBoundary.tif`.
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

_OFFICIAL = Custom(
    train=("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37"),
    held_out=("11", "15", "28", "30", "34"),
    test=("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38"),
)


@DATASETS.register("vaihingen")
class Vaihingen(IsprsDataset):
    """Vaihingen opened at the folder that holds `top`, `dsm` and the folders of labels."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="ISPRS Vaihingen",
        paper="ISPRS 2D Semantic Labeling Contest, https://www.isprs.org/education/benchmarks/UrbanSemLab/",
        task="semantic",
        expected={split: len(areas) for split, areas in _OFFICIAL.areas("held_out").items()},
    )
    customs: ClassVar[Mapping[str, Custom]] = {
        "official": _OFFICIAL,
        "ssrs": Custom(
            train=("1", "3", "23", "26", "7", "11", "13", "28", "17", "32", "34", "37"),
            held_out=("11", "28"),
            test=("5", "21", "15", "30"),
        ),
    }
    optical: ClassVar[Source] = Source(
        ModalityInfo("optical", ("nir", "red", "green"), (0.84, 0.645, 0.56)), (1, 2, 3), 3
    )

    def image_of(self, root: Path, area: str) -> Path:
        """The optical file of an area."""
        return root / "top" / f"top_mosaic_09cm_area{area}.tif"

    def dsm_of(self, root: Path, area: str) -> Path:
        """The height model of an area, metres above sea level."""
        return root / "dsm" / f"dsm_09cm_matching_area{area}.tif"

    def label_of(self, root: Path, area: str, *, eroded: bool) -> Path:
        """The label of an area."""
        if eroded:
            return root / "gts_eroded_for_participants" / f"top_mosaic_09cm_area{area}_noBoundary.tif"
        return root / "gts_for_participants" / f"top_mosaic_09cm_area{area}.tif"

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature with the first areas of each part of the contest's split."""
        for drawn in draw_areas(config, _OFFICIAL):
            name = f"top_mosaic_09cm_area{drawn.area}"
            write_raster(root / "top" / f"{name}.tif", as_bytes(drawn.optical[[3, 0, 1]]))
            write_raster(root / "dsm" / f"dsm_09cm_matching_area{drawn.area}.tif", drawn.dsm)
            full = root / "gts_for_participants" / f"{name}.tif"
            write_labels(full, root / "gts_eroded_for_participants" / f"{name}_noBoundary.tif", drawn)
