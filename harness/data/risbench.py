"""RISBench: 52,472 triplets of image, expression and mask from VRSBench (DOTA-v2, DIOR), 512 x 512 pixels, 0.1 to 30 m.

Dong et al., "Cross-Modal Bidirectional Interaction Model for Referring Remote Sensing Image Segmentation" (CroBIM),
2024 (https://arxiv.org/abs/2410.08613). Layout of the original download: `img_rgb/<name>.png`, `mask/<name>.png` (0 and
255, in some copies in three equal channels) and `output_phrase_<split>.txt` with `<name>.png <expression>` per line.
The lines of the validation split name files called `train_*`. There are no class labels. A repackaged copy without file
names cannot be compared file by file and is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.triplet_miniature import write_triplets
from harness.data.triplets import TripletDataset, TripletLayout

_PER_IMAGE = 3
_FIRST_VAL = 90_000


@DATASETS.register("risbench")
class RISBench(TripletDataset):
    """RISBench opened at the folder that holds `img_rgb`, `mask` and the phrase files."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="RISBench",
        paper="Dong et al., 2024, https://arxiv.org/abs/2410.08613",
        task="referring",
        expected={"train": 26_300, "val": 10_013, "test": 16_159},
    )
    layout = TripletLayout(images="img_rgb", masks="mask", suffix="")
    remarks = ("the published train and val counts of RISBench are quoted, not counted from its files",)

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature in RISBench's layout; its validation samples are called `train_*` too."""
        write_triplets(root, config, RISBench.layout, name=_file_name, groups=False)


def _file_name(split: str, index: int) -> str:
    number = index + (_FIRST_VAL if split == "val" else 0)
    prefix = "test" if split == "test" else "train"
    return f"{prefix}_{number // _PER_IMAGE}_{number % _PER_IMAGE}.png"
