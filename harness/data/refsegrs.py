"""RefSegRS: 4,420 triplets of image, expression and mask from 285 scenes of SkyScapes, 512 x 512 pixels at 0.13 m.

Yuan et al., "RRSIS: Referring Remote Sensing Image Segmentation", IEEE TGRS 2024 (https://arxiv.org/abs/2306.08625).
Layout of `RefSegRS.zip`: `images/<id>.tif`, `masks/<id>.tif` and `output_phrase_<split>.txt` with `<id> <expression>`
per line. An expression may mean several regions, for example all vehicles on a road. The published files are said to
have masks of 0 and 255; loaders of other projects take values above 50 for the object, this one values above 0, and
`harness data check` names the masks in which that differs. There are no class labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from harness.data.base import DATASETS, SPLITS, DatasetInfo, SyntheticConfig
from harness.data.triplet_miniature import write_triplets
from harness.data.triplets import TripletDataset, TripletLayout

_FIRST_ID = 1
_IDS_PER_SPLIT = 100_000


@DATASETS.register("refsegrs")
class RefSegRS(TripletDataset):
    """RefSegRS opened at the folder that holds `images`, `masks` and the phrase files."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="RefSegRS",
        paper="Yuan et al., IEEE TGRS 2024, https://arxiv.org/abs/2306.08625",
        task="referring",
        expected={"train": 2_172, "val": 431, "test": 1_817},
    )
    layout = TripletLayout(images="images", masks="masks", suffix=".tif")
    remarks = ("the published counts of RefSegRS are quoted, not counted from its files; another source says val 413",)

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature in RefSegRS's layout; about half of its sentences mean several objects."""
        write_triplets(root, config, RefSegRS.layout, name=_identifier, groups=True)


def _identifier(split: str, index: int) -> str:
    return str(_FIRST_ID + _IDS_PER_SPLIT * SPLITS.index(split) + index)
