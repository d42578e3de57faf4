"""Whether splits share pixels: the same file, overlapping extents, equal content.

Tiles of one scene in two splits are neighbours even where they do not overlap: land cover next to each other is
nearly the same, and a score on such a split says little about another place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from harness.data.semantic import Bounds, SemanticTile


class Shared(NamedTuple):
    """Two tiles of different splits that have something in common."""

    kind: str
    """`overlapping pixels`, `overlapping bounds`, `equal content` or `same scene`."""
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} and {self.second}"


def shared_pixels(tiles: Sequence[SemanticTile]) -> list[Shared]:
    """Pairs of tiles in different splits with common pixels or extents, and pairs of splits with a common scene.

    Args:
        tiles: Tiles of all splits.
    """
    found = list(_within_files(tiles))
    by_system: dict[str, list[SemanticTile]] = defaultdict(list)
    for tile in tiles:
        if tile.crs is not None and tile.bounds is not None:
            by_system[tile.crs].append(tile)
    for placed in by_system.values():
        found += [
            Shared("overlapping bounds", _name(a), _name(b))
            for a, b in _neighbours(placed)
            if a.split != b.split and a.label != b.label and _overlap(a.bounds, b.bounds)
        ]
    return found


def equal_content(tiles: Sequence[SemanticTile], hashes: Mapping[str, str]) -> list[Shared]:
    """Pairs of tiles in different splits with equal pixels.

    Args:
        tiles: Tiles of all splits.
        hashes: Key of a tile -> hash of its pixels.
    """
    owners: dict[str, list[SemanticTile]] = defaultdict(list)
    for tile in tiles:
        owners[hashes[tile.key]].append(tile)
    return [
        Shared("equal content", _name(a), _name(b))
        for same in owners.values()
        for a, b in combinations(same, 2)
        if a.split != b.split
    ]


def _within_files(tiles: Sequence[SemanticTile]) -> Iterator[Shared]:
    files: dict[Path, list[SemanticTile]] = defaultdict(list)
    for tile in tiles:
        files[tile.label].append(tile)
    for path, same in files.items():
        splits = sorted({tile.split for tile in same})
        if len(splits) > 1:
            yield Shared("same scene", f"{path.name} ({splits[0]})", f"({', '.join(splits[1:])})")
        for a, b in combinations(same, 2) if len(splits) > 1 else ():
            if a.split != b.split and _overlap(_extent(a), _extent(b)):
                yield Shared("overlapping pixels", _name(a), _name(b))


def _neighbours(tiles: Sequence[SemanticTile]) -> Iterator[tuple[SemanticTile, SemanticTile]]:
    """Pairs whose extents overlap from left to right: a sweep, because most pairs are far apart."""
    active: list[SemanticTile] = []
    for tile in sorted(tiles, key=lambda t: t.bounds.left if t.bounds else 0.0):
        active = [a for a in active if a.bounds and tile.bounds and a.bounds.right > tile.bounds.left]
        yield from ((other, tile) for other in active)
        active.append(tile)


def _overlap(a: Bounds | None, b: Bounds | None) -> bool:
    return (
        a is not None
        and b is not None
        and min(a.right, b.right) > max(a.left, b.left)
        and min(a.top, b.top) > max(a.bottom, b.bottom)
    )


def _extent(tile: SemanticTile) -> Bounds:
    """Its place within the file; rows count downwards, which is the same for both tiles."""
    return Bounds(tile.column, tile.row, tile.column + tile.width, tile.row + tile.height)


def _name(tile: SemanticTile) -> str:
    return f"{tile.key} ({tile.split})"
