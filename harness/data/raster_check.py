"""What `harness data check` does with a dataset of rasters: read every pixel once, name what is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from harness.data.base import SPLITS, DataReport
from harness.data.raster import raster_info
from harness.data.raster_dataset import RasterDataset
from harness.data.semantic import IGNORED, SemanticTile, strips
from harness.data.splits import equal_content, shared_pixels
from harness.errors import DataError

Finding = tuple[str, str]
"""Kind of problem and the tile it concerns."""


def check_rasters(data: RasterDataset) -> DataReport:
    """Counts, problems and class shares of a dataset of rasters."""
    problems: dict[str, list[str]] = defaultdict(list)
    pixels: Counter[int] = Counter()
    hashes: dict[str, str] = {}
    tiles = [tile for split in SPLITS for tile in data.tiles(split)]
    for tile in tiles:
        try:
            findings = [*_sizes(data, tile), *_labels(data, tile, pixels), *_values(data, tile, hashes)]
        except DataError as error:
            findings = [("unreadable tiles", f"{tile.key}: {error}")]
        for kind, finding in findings:
            problems[kind].append(finding)
    shared = [*shared_pixels(tiles), *equal_content([t for t in tiles if t.key in hashes], hashes)]
    for found in shared:
        problems[f"in several splits, {found.kind}"].append(str(found))
    if "unreadable tiles" not in problems:
        for kind, finding in data.remarks():
            problems[kind].append(finding)
    counts = {split: len(data.tiles(split)) for split in SPLITS}
    return DataReport(counts=counts, problems=dict(problems), notes=_notes(data, counts, pixels))


def _sizes(data: RasterDataset, tile: SemanticTile) -> Iterator[Finding]:
    sizes = {path: raster_info(path)[:2] for path in (tile.label, *tile.files.values())}
    if len(set(sizes.values())) > 1 and data.slack:
        shown = ", ".join(f"{path.parent.name} {h}x{w}" for path, (h, w) in sizes.items())
        yield "rasters of different sizes, cut to the smallest", f"{tile.key}: {shown}"


def _labels(data: RasterDataset, tile: SemanticTile, pixels: Counter[int]) -> Iterator[Finding]:
    """Codes in no table; counts the classes in `pixels`."""
    unknown: Counter[str] = Counter()
    for window in strips(tile):
        decoded = data.decode_label(tile, window)
        counts = np.bincount(decoded.indices.ravel(), minlength=256)
        pixels.update({int(index): int(counts[index]) for index in np.flatnonzero(counts)})
        unknown.update(decoded.unknown)
    if unknown:
        shown = ", ".join(f"{code}: {count} pixels" for code, count in unknown.most_common(3))
        yield "unknown label codes, ignored", f"{tile.key}: {shown}"


def _values(data: RasterDataset, tile: SemanticTile, hashes: dict[str, str]) -> Iterator[Finding]:
    """Pixels without a value; enters the hash of what was read."""
    content = hashlib.sha256(f"{tile.height}x{tile.width}".encode())
    missing: Counter[str] = Counter()
    for window in strips(tile):
        for name, values in data.read(tile, window).items():
            content.update(values.tobytes())
            missing[name] += int(np.isnan(values).any(axis=0).sum())
    hashes[tile.key] = content.hexdigest()
    for name, count in missing.items():
        if count:
            yield "pixels without a value", f"{tile.key}: {name}, {count} pixels"


def _notes(data: RasterDataset, counts: dict[str, int], pixels: Counter[int]) -> tuple[str, ...]:
    total = sum(count for index, count in pixels.items() if index != IGNORED)
    shares = ", ".join(f"{c.name} {pixels[c.index] / max(total, 1):.1%}" for c in data.classes)
    notes = [f"split: {data.split_name}" + (", LEAKY: neighbouring pixels in different splits" * data.leaky)]
    notes.append(f"labelled pixels: {shares}; ignored {pixels[IGNORED] / max(pixels.total(), 1):.1%} of all")
    published = {split: count for split, count in data.info.expected.items() if counts.get(split) != count}
    if published:
        shown = ", ".join(f"{split} {count}" for split, count in data.info.expected.items())
        notes.append(f"not the published data set, which has {shown}")
    return tuple(notes)
