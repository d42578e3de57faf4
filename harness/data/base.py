"""What every dataset offers (origin, check, fingerprint, a miniature in its layout), and what referring ones add."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from harness.registry import Registry

SPLITS = ("train", "val", "test")

IGNORED = 255
"""Label index of pixels that are outside loss and metrics."""

DATASETS: Registry[type[Dataset]] = Registry(
    "dataset",
    "harness.data",
    private=frozenset(
        {
            *("base", "raster", "transforms", "splits", "cache", "synthetic", "coco_mask", "scenes", "referring"),
            *("layout", "miniature", "checking", "triplets", "triplet_miniature", "cache_folder"),
            *("semantic", "label_coding", "raster_dataset", "raster_check", "statistics", "landscape"),
            *("isprs", "matlab", "hdf5", "crops"),
        }
    ),
)


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset comes from."""

    title: str
    """Name used in tables, for example `RRSIS-D`."""
    paper: str
    """Authors, venue, year and link."""
    task: str
    """`referring` or `semantic`."""
    expected: Mapping[str, int]
    """Number of samples of the published data set per split."""


@dataclass(frozen=True)
class SyntheticConfig:
    """A generated miniature: every field changes what is generated."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    train: int = 64
    """Training samples, at least 1; a dataset with a fixed list of scenes has at most as many as its list."""
    val: int = 16
    """Validation samples, at least 1; limited like `train`."""
    test: int = 16
    """Test samples, at least 1; limited like `train`."""
    size: int = 96
    """Height and width of the images in pixels, at least 32."""
    seed: int = 0
    """Seed of everything that is drawn."""
    quirks: bool = False
    """Whether the known defects of the published files are included."""


@dataclass(frozen=True)
class ReferringRecord:
    """One sample: an image, a sentence, the mask it refers to (read on demand)."""

    key: str
    """Unique, the same in every run: joins per-sample results of different models."""
    split: str
    image: Path
    sentences: tuple[str, ...]
    category: str | None = None
    mask: Any = field(default=None, repr=False, hash=False, compare=False)
    """What `ReferringDataset.read_mask` decodes."""


@dataclass(frozen=True)
class DataReport:
    """What `harness data check` found."""

    counts: Mapping[str, int]
    """Samples per split."""
    problems: Mapping[str, Sequence[str]]
    """Kind of problem ("missing files", "empty masks", "size mismatches", ...) -> the samples it concerns."""
    notes: Sequence[str] = ()


@runtime_checkable
class Dataset(Protocol):
    """A dataset of any task opened at a folder.

    The class registers itself in `DATASETS` under its file name. Opening raises `DataError` when the folder is not in
    the dataset's layout.
    """

    info: ClassVar[DatasetInfo]

    def __init__(self, root: Path) -> None: ...

    def fingerprint(self) -> str:
        """Hash of what a trial sees; equal content gives an equal hash on any machine."""
        ...

    def check(self) -> DataReport:
        """Read everything and report what is missing, damaged or doubtful."""
        ...

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature in the dataset's own layout; equal configs give equal bytes."""
        ...


@runtime_checkable
class ReferringDataset(Dataset, Protocol):
    """A referring dataset opened at a folder; opening reads the index files, not the pixels."""

    def records(self, split: str) -> Sequence[ReferringRecord]:
        """The samples of a split in a fixed order."""
        ...

    def read_image(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """RGB pixels `(H, W, 3)`, 0..255."""
        ...

    def read_mask(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """Mask `(H, W)` of 0 and 1 at its native size, which may differ from the image's."""
        ...


def options_schema(name: str) -> Any:
    """The dataclass of a dataset's options; None for a dataset without."""
    return getattr(DATASETS.get(name), "Options", None)


def read_options(name: str, values: Mapping[str, Any]) -> Any:
    """A dataset's options from JSON-ready values, with defaults filled in; None for a dataset without.

    Raises:
        pydantic.ValidationError: An option that the dataset does not have, or a value that it does not take.
    """
    schema = options_schema(name)
    return None if schema is None else TypeAdapter(schema).validate_json(json.dumps(values), strict=True)


def digest(*parts: bytes) -> str:
    """16 hex digits of the SHA-256 of `parts`, each preceded by its length."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()[:16]
