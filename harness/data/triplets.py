"""Datasets of triplets: an image file, a mask file and a line of text for each sample.

RefSegRS and RISBench are published like this: a folder of images, a folder of masks, and `output_phrase_<split>.txt`
with one `<name> <expression>` per line, split at the first white space. The split is the file a line stands in, never a
prefix of the name. A byte order mark, CRLF, blank lines and a missing last newline are accepted. A pixel of a mask
belongs to the object if its first channel is above 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import SPLITS, DataReport, DatasetInfo, ReferringRecord, digest
from harness.data.checking import Finding, pixel_findings, report_of
from harness.data.layout import read_pixels, require_layout
from harness.errors import DataError, nearest

FAINT = 50
"""Loaders written for these files take values above 50 for the object, this one values above 0; `check` reports masks
in which that makes a difference."""


class TripletLayout(NamedTuple):
    """Where the files are."""

    images: str
    """Folder of the images."""
    masks: str
    """Folder of the masks, each named like its image."""
    suffix: str
    """What the names in the phrase files lack, for example `.tif`; empty where they are whole file names."""

    def phrases(self, split: str) -> str:
        """File with the names and expressions of a split."""
        return f"output_phrase_{split}.txt"


class TripletDataset:
    """A dataset of triplets opened at its folder; a subclass names its layout.

    Every line is a sample, as in the published loaders: a name that comes again gets the key `<stem>#2`, and `check`
    reports it.

    Raises:
        DataError: The folder is not in the layout, or a line does not start with a plain file name.
    """

    info: ClassVar[DatasetInfo]
    layout: ClassVar[TripletLayout]
    remarks: ClassVar[Sequence[str]] = ()
    """Notes for `check` when the counts are not the published ones."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        files = tuple(self.layout.phrases(split) for split in SPLITS)
        require_layout(self._root, self.info.title, files=files, folders=(self.layout.images, self.layout.masks))
        self._records = _read_records(self._root, self.layout)

    def records(self, split: str) -> Sequence[ReferringRecord]:
        """The samples of a split in the order of its phrase file."""
        if split not in self._records:
            raise DataError(f"unknown split {split!r} of {self.info.title}; {nearest(split, SPLITS)}")
        return self._records[split]

    def read_image(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """RGB pixels `(H, W, 3)`, 0..255."""
        pixels: NDArray[np.uint8] = read_pixels(record.image, f"the image of sample {record.key}", mode="RGB")
        return pixels

    def read_mask(self, record: ReferringRecord) -> NDArray[np.uint8]:
        """Mask `(H, W)`: 1 where the first channel of the file is above 0."""
        is_object: NDArray[np.bool_] = _first_channel(record) > 0
        return is_object.astype(np.uint8)

    def fingerprint(self) -> str:
        """Hash of names, splits, sentences and pixels of the masks' files, and of the images' sizes in bytes."""
        records = [record for split in SPLITS for record in self._records[split]]
        lines = [(r.split, r.image.name, r.sentences[0]) for r in records]
        try:
            sizes = [r.image.stat().st_size for r in records]
            with ThreadPoolExecutor(8) as pool:
                masks = list(pool.map(lambda r: hashlib.sha256(r.mask.read_bytes()).hexdigest(), records))
        except FileNotFoundError as error:
            raise DataError(
                f"{error.filename}: every file that a line names must exist; 'harness data check' lists the missing"
            ) from error
        return digest(json.dumps([lines, sizes, masks]).encode())

    def check(self) -> DataReport:
        """Read every mask and the header of every image; pixel data of the images is not decoded."""
        owners: dict[str, set[str]] = {}
        for split in SPLITS:
            for record in self._records[split]:
                owners.setdefault(record.image.name, set()).add(split)
        return report_of(
            self.info,
            self._records,
            lambda record: self._find(record, owners[record.image.name]),
            remarks=self.remarks,
        )

    def _find(self, record: ReferringRecord, splits: set[str]) -> Iterator[Finding]:
        if record.key != record.image.stem:
            yield "duplicated names", f"{record.key} ({record.split})"
        if len(splits) > 1:
            yield "in several splits", f"{record.key} ({record.split})"
        yield from pixel_findings(record, self.read_mask, mask_name=record.mask.name)
        try:
            values = _first_channel(record)
        except DataError:
            return
        if ((values > 0) & (values <= FAINT)).any():
            yield f"mask values 1 to {FAINT}", record.key


def _first_channel(record: ReferringRecord) -> NDArray[Any]:
    values = read_pixels(record.mask, f"the mask of sample {record.key}", mode=None)
    return values if values.ndim == 2 else values[..., 0]


def _read_records(root: Path, layout: TripletLayout) -> dict[str, tuple[ReferringRecord, ...]]:
    keys: set[str] = set()
    return {split: tuple(_split_records(root, layout, split, keys)) for split in SPLITS}


def _split_records(root: Path, layout: TripletLayout, split: str, keys: set[str]) -> Iterator[ReferringRecord]:
    """The records of a split; their keys are added to `keys`."""
    path = root / layout.phrases(split)
    for number, line in _lines(path):
        name, expression = (*line.split(maxsplit=1), "")[:2]
        file_name = name + layout.suffix
        if Path(file_name).name != file_name or not file_name.isprintable():
            raise DataError(f"{path}: line {number} must start with a file name without folders, got {name!r:.60}")
        if not Path(file_name).suffix:
            raise DataError(f"{path}: line {number} must start with a file name with its ending, got {name!r:.60}")
        key = _free_key(Path(file_name).stem, keys)
        keys.add(key)
        yield ReferringRecord(
            key=key,
            split=split,
            image=root / layout.images / file_name,
            sentences=(expression,),
            mask=root / layout.masks / file_name,
        )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be UTF-8 text, got: {error}; save it again as UTF-8") from error


def _free_key(stem: str, keys: set[str]) -> str:
    if stem not in keys:
        return stem
    number = 2
    while f"{stem}#{number}" in keys:
        number += 1
    return f"{stem}#{number}"
