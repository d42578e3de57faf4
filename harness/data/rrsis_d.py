"""RRSIS-D: 17,402 images of DIOR, each with one expression and the mask of the object it refers to.

Liu et al., "Rotated Multi-Scale Interaction Network for Referring Remote Sensing Image Segmentation", CVPR 2024
(https://arxiv.org/abs/2312.12470). Layout of the published files: `rrsisd/refs(unc).p` (object, split, sentences),
`rrsisd/instances.json` (images, masks, categories), `images/rrsisd/JPEGImages/00011.jpg`. The `bbox` values of the
published file are unreliable and never used; boxes follow from masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import DATASETS, SPLITS, DataReport, DatasetInfo, ReferringRecord, SyntheticConfig, digest
from harness.data.checking import Finding, pixel_findings, report_of
from harness.data.coco_mask import decode_segmentation
from harness.data.layout import describe, field, load_plain_pickle, read_pixels, require_layout
from harness.data.miniature import write_miniature
from harness.errors import DataError, nearest

REFS = "rrsisd/refs(unc).p"
INSTANCES = "rrsisd/instances.json"
IMAGES = "images/rrsisd/JPEGImages"


class StoredMask(NamedTuple):
    """A mask as `instances.json` holds it."""

    annotation: int
    segmentation: Any
    height: int
    width: int


class _Image(NamedTuple):
    name: str
    height: int
    width: int


class _Annotation(NamedTuple):
    image: int
    category: int | None
    segmentation: Any


class _Instances(NamedTuple):
    images: dict[int, _Image]
    annotations: dict[int, _Annotation]
    categories: dict[int, str]


@DATASETS.register("rrsis_d")
class RrsisD:
    """RRSIS-D opened at the folder that holds `rrsisd` and `images`.

    Raises:
        DataError: The folder is not in RRSIS-D's layout, or one of its two index files is damaged.
    """

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="RRSIS-D",
        paper="Liu et al., CVPR 2024, https://arxiv.org/abs/2312.12470",
        task="referring",
        expected={"train": 12_181, "val": 1_740, "test": 3_481},
    )

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        require_layout(self._root, "RRSIS-D", files=(REFS, INSTANCES), folders=(IMAGES,))
        self._records = _read_records(self._root)

    def records(self, split: str) -> Sequence[ReferringRecord]:
        """The samples of a split in the order of the published file."""
        if split not in self._records:
            raise DataError(f"unknown split {split!r} of RRSIS-D; {nearest(split, SPLITS)}")
        return self._records[split]

    def read_image(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """RGB pixels `(H, W, 3)`, 0..255."""
        pixels: NDArray[np.uint8] = read_pixels(record.image, f"the image of sample {record.key}", mode="RGB")
        return pixels

    def read_mask(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """Mask `(H, W)` of 0 and 1 at the size stored with it; 14 published images have another height."""
        stored: StoredMask = record.mask
        try:
            return decode_segmentation(stored.segmentation, height=stored.height, width=stored.width)
        except DataError as error:
            place = f"{self._root / INSTANCES}: annotation {stored.annotation} (sample {record.key})"
            raise DataError(f"{place}: {error}") from error

    def fingerprint(self) -> str:
        """Hash of both index files and of the names and sizes in bytes of the images they use."""
        images = sorted({record.image for split in SPLITS for record in self._records[split]})
        try:
            sizes = [(image.name, image.stat().st_size) for image in images]
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename}: every image that {REFS} names must exist; 'harness data check' lists the missing"
            ) from error
        index = [(self._root / name).read_bytes() for name in (REFS, INSTANCES)]
        return digest(*index, json.dumps(sizes).encode())

    def check(self) -> DataReport:
        """Decode every mask, read the header of every image; pixel data of the images is not decoded."""
        seen: set[str] = set()
        return report_of(self.info, self._records, lambda record: self._find(record, seen))

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write a miniature in RRSIS-D's layout; equal configs give equal bytes."""
        write_miniature(root, config)

    def _find(self, record: ReferringRecord, seen: set[str]) -> Iterator[Finding]:
        """What is wrong with a record; its key is added to `seen`."""
        if record.key in seen:
            yield "duplicated keys", record.key
        seen.add(record.key)
        if record.category is None:
            yield "unknown categories", record.key
        yield from pixel_findings(record, self.read_mask, mask_name=f"annotation {record.mask.annotation}")


def _read_records(root: Path) -> dict[str, tuple[ReferringRecord, ...]]:
    refs_path = root / REFS
    refs = load_plain_pickle(refs_path)
    if not isinstance(refs, list):
        raise DataError(f"{refs_path}: must hold a list of references, got {describe(refs)}")
    instances = _read_instances(root / INSTANCES)
    records: dict[str, list[ReferringRecord]] = {split: [] for split in SPLITS}
    owners: dict[int, int] = {}
    for number, ref in enumerate(refs):
        where = f"{refs_path}: reference {number}"
        annotation_id = field(ref, "ann_id", int, where)
        if annotation_id in owners:
            raise DataError(
                f"{where}: 'ann_id' must be unique, got {annotation_id} as in reference {owners[annotation_id]}"
            )
        owners[annotation_id] = number
        record = _record(ref, where, root=root, instances=instances)
        records[record.split].append(record)
    return {split: tuple(found) for split, found in records.items()}


def _record(ref: Any, where: str, *, root: Path, instances: _Instances) -> ReferringRecord:
    image_id, annotation_id = field(ref, "image_id", int, where), field(ref, "ann_id", int, where)
    annotation, image = instances.annotations.get(annotation_id), instances.images.get(image_id)
    if annotation is None:
        raise DataError(f"{where}: 'ann_id' must be an annotation of {INSTANCES}, got {annotation_id}")
    if image is None:
        raise DataError(f"{where}: 'image_id' must be an image of {INSTANCES}, got {image_id}")
    if annotation.image != image_id:
        raise DataError(
            f"{where}: annotation {annotation_id} must belong to image {image_id}, it belongs to {annotation.image}"
        )
    sentences = field(ref, "sentences", list, where)
    if not sentences:
        raise DataError(f"{where}: 'sentences' must hold at least one sentence, got none")
    category = annotation.category if annotation.category is not None else ref.get("category_id")
    return ReferringRecord(
        key=f"{image_id}/{field(ref, 'ref_id', int, where)}",
        split=_split(field(ref, "split", str, where), where),
        image=root / IMAGES / image.name,
        sentences=tuple(field(s, "raw", str, f"{where}, sentence {n}") for n, s in enumerate(sentences)),
        category=instances.categories.get(category) if isinstance(category, int) else None,
        mask=StoredMask(annotation_id, annotation.segmentation, image.height, image.width),
    )


def _split(found: str, where: str) -> str:
    if found in ("train", "val"):
        return found
    if "test" in found:
        return "test"
    raise DataError(f"{where}: 'split' must be train, val or contain 'test', got {found!r}")


def _read_instances(path: Path) -> _Instances:
    try:
        loaded = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be valid JSON, got: {error}; copy the file again") from error
    images: dict[int, _Image] = {}
    for n, entry in enumerate(field(loaded, "images", list, str(path))):
        where = f"{path}: image {n}"
        name = field(entry, "file_name", str, where)
        if Path(name).name != name:
            raise DataError(f"{where}: 'file_name' must be a name without folders, got {name!r}")
        size = (field(entry, "height", int, where), field(entry, "width", int, where))
        _enter(images, field(entry, "id", int, where), _Image(name, *size), where)
    annotations: dict[int, _Annotation] = {}
    for n, entry in enumerate(field(loaded, "annotations", list, str(path))):
        where = f"{path}: annotation {n}"
        segmentation = field(entry, "segmentation", (list, dict), where)
        category = entry.get("categories_id", entry.get("category_id"))
        found = _Annotation(field(entry, "image_id", int, where), category, segmentation)
        _enter(annotations, field(entry, "id", int, where), found, where)
    categories: dict[int, str] = {}
    for n, entry in enumerate(field(loaded, "categories", list, str(path))):
        where = f"{path}: category {n}"
        _enter(categories, field(entry, "id", int, where), field(entry, "name", str, where), where)
    return _Instances(images, annotations, categories)


def _enter(table: dict[int, Any], key: int, value: Any, where: str) -> None:
    if key in table:
        raise DataError(f"{where}: 'id' must be unique, got {key} a second time")
    table[key] = value
