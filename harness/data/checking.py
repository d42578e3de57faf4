"""What `check` of every referring dataset does: read all masks and image headers, name what is wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import DataReport, DatasetInfo, ReferringRecord
from harness.errors import DataError

Finding = tuple[str, str]
"""Kind of problem and the sample it concerns."""


def report_of(
    info: DatasetInfo,
    records: Mapping[str, Sequence[ReferringRecord]],
    find: Callable[[ReferringRecord], Iterable[Finding]],
    *,
    remarks: Sequence[str] = (),
) -> DataReport:
    """Collect the findings of every record.

    Args:
        info: Says what the published counts are.
        records: Split -> samples.
        find: The findings of one record.
        remarks: Further notes for data that does not have the published counts.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    for found in records.values():
        for record in found:
            for kind, finding in find(record):
                problems[kind].append(finding)
    counts = {split: len(found) for split, found in records.items()}
    published = ", ".join(f"{split} {count}" for split, count in info.expected.items())
    notes = (f"not the published data set, which has {published} samples", *remarks)
    return DataReport(counts=counts, problems=dict(problems), notes=() if counts == info.expected else notes)


def pixel_findings(
    record: ReferringRecord, read_mask: Callable[[ReferringRecord], NDArray[np.uint8]], *, mask_name: str
) -> Iterator[Finding]:
    """Empty sentences, files that are missing or unreadable, empty masks, masks of another size than the image.

    Args:
        record: The sample.
        read_mask: The dataset's own; a `DataError` caused by a `FileNotFoundError` is a missing mask.
        mask_name: How to name its mask.
    """
    if not all(sentence.strip() for sentence in record.sentences):
        yield "empty sentences", record.key
    image_size, mask_size = None, None
    try:
        with Image.open(record.image) as image:
            image_size = (image.height, image.width)
    except FileNotFoundError:
        yield "missing images", f"{record.key} ({record.image.name})"
    except (OSError, SyntaxError, ValueError):
        yield "unreadable images", f"{record.key} ({record.image.name})"
    try:
        mask = read_mask(record)
    except DataError as error:
        is_missing = isinstance(error.__cause__, FileNotFoundError)
        yield "missing masks" if is_missing else "unreadable masks", f"{record.key} ({mask_name})"
    else:
        mask_size = mask.shape
        if not mask.any():
            yield "empty masks", record.key
    if image_size and mask_size and image_size != mask_size:
        shown = "image {}x{}, mask {}x{} (height x width)".format(*image_size, *mask_size)
        yield "size mismatches", f"{record.key} ({shown})"
