"""Generated scenes: one object that a sentence refers to, among look-alikes that only the sentence rules out.

A scene holds 2 to 6 objects with distinct saturated colours and simple outlines on a muted textured ground. Objects of
the target's class have similar sizes, and no cue but the sentence tells the target from them: a model that ignores the
sentence can only guess. Colour sentences are the most frequent because a tiny network learns them within a few hundred
steps. Coordinates are pixels, x to the right, y down; `S` is the side of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.coco_mask import draw_polygon
from harness.errors import DataError

Kind = Literal["colour", "position", "size", "category"]
Points = tuple[tuple[float, float], ...]


class Box(NamedTuple):
    """Rectangle in shares of the image side."""

    left: float
    top: float
    right: float
    bottom: float

    def holds(self, x: float, y: float) -> bool:
        """Whether the point lies inside."""
        return self.left <= x <= self.right and self.top <= y <= self.bottom


class Region(NamedTuple):
    """A position phrase: where the centre of a target must lie, and where one of a look-alike must not."""

    clear: Box
    loose: Box


def _circle(num_points: int) -> Points:
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return tuple((float(np.cos(a)) / 2, float(np.sin(a)) / 2) for a in angles)


_PLUS: Points = (
    *((-0.15, -0.5), (0.15, -0.5), (0.15, -0.15), (0.5, -0.15), (0.5, 0.15), (0.15, 0.15)),
    *((0.15, 0.5), (-0.15, 0.5), (-0.15, 0.15), (-0.5, 0.15), (-0.5, -0.15), (-0.15, -0.15)),
)

OUTLINES: Mapping[str, Points] = {
    "airplane": _PLUS,
    "baseballfield": ((0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)),
    "ship": ((-0.5, 0), (-0.2, -0.28), (0.5, -0.28), (0.5, 0.28), (-0.2, 0.28)),
    "storagetank": _circle(16),
    "tenniscourt": ((-0.5, -0.35), (0.5, -0.35), (0.5, 0.35), (-0.5, 0.35)),
    "windmill": ((0, -0.5), (0.5, 0.45), (-0.5, 0.45)),
}
"""Outline of each class in a unit square around its centre."""

NOUNS: Mapping[str, str] = {
    **{name: name for name in OUTLINES},
    "baseballfield": "baseball field",
    "storagetank": "storage tank",
    "tenniscourt": "tennis court",
}
"""How a class is called in a sentence."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "blue": (35, 60, 220),
    "yellow": (235, 215, 30),
    "white": (250, 250, 250),
    "green": (25, 175, 60),
}

REGIONS: Mapping[str, Region] = {
    "on the left": Region(Box(0, 0.2, 0.36, 0.8), Box(0, 0, 0.5, 1)),
    "on the right": Region(Box(0.64, 0.2, 1, 0.8), Box(0.5, 0, 1, 1)),
    "at the top": Region(Box(0.2, 0, 0.8, 0.36), Box(0, 0, 1, 0.5)),
    "at the bottom": Region(Box(0.2, 0.64, 0.8, 1), Box(0, 0.5, 1, 1)),
    "on the upper left": Region(Box(0, 0, 0.4, 0.4), Box(0, 0, 0.55, 0.55)),
    "on the upper right": Region(Box(0.6, 0, 1, 0.4), Box(0.45, 0, 1, 0.55)),
    "on the lower left": Region(Box(0, 0.6, 0.4, 1), Box(0, 0.45, 0.55, 1)),
    "on the lower right": Region(Box(0.6, 0.6, 1, 1), Box(0.45, 0.45, 1, 1)),
    "in the middle": Region(Box(0.4, 0.4, 0.6, 0.6), Box(0.28, 0.28, 0.72, 0.72)),
}

SUPERLATIVES: Mapping[str, tuple[bool, bool]] = {
    "larger": (True, False),
    "smaller": (False, False),
    "largest": (True, True),
    "smallest": (False, True),
}
"""Size word -> (whether the target is the large one, whether it stands among more than two)."""

MIN_AREA_RATIO = 1.7
"""A size word needs at least this ratio of areas to every look-alike."""

_KIND_SHARE: Mapping[Kind, float] = {"colour": 0.6, "position": 0.2, "size": 0.12, "category": 0.08}
_ANYWHERE = Box(0, 0, 1, 1)
_SIDE = (0.19, 0.235)
_SMALL, _MEDIUM, _LARGE = 0.14, 0.185, 0.245
_OTHERS_SHARE = 0.4
_GROUNDS = ((112, 108, 96), (98, 108, 90), (118, 114, 110))
_MAX_TRIES = 1000


@dataclass(frozen=True)
class SceneObject:
    """One object: class, colour, centre, side of its square extent, rotation."""

    category: str
    colour: str
    x: float
    y: float
    side: float
    quarter_turns: int

    def outline(self) -> list[float]:
        """Corners as `[x1, y1, x2, y2, ...]` in pixels."""
        points = OUTLINES[self.category]
        for _ in range(self.quarter_turns):
            points = tuple((-y, x) for x, y in points)
        return [round(v, 2) for px, py in points for v in (self.x + px * self.side, self.y + py * self.side)]


@dataclass(frozen=True)
class Scene:
    """Objects on a square image, one of which the sentence means."""

    size: int
    objects: tuple[SceneObject, ...]
    target: int
    kind: Kind
    word: str
    """Colour, position phrase or size word; empty for the bare class."""

    @property
    def sentence(self) -> str:
        """For example `The red ship` or `The ship on the left`."""
        noun = NOUNS[self.objects[self.target].category]
        if self.kind == "position":
            return f"The {noun} {self.word}"
        return f"The {self.word} {noun}" if self.word else f"The {noun}"

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Mask `(S, S)` of one object."""
        return draw_polygon(self.objects[index].outline(), height=self.size, width=self.size)


def referents(scene: Scene) -> tuple[int, ...]:
    """Every object the sentence could mean, read generously; a valid scene gives its target alone."""
    category = scene.objects[scene.target].category
    alike = [i for i, o in enumerate(scene.objects) if o.category == category]
    if scene.kind == "colour":
        return tuple(i for i in alike if scene.objects[i].colour == scene.word)
    if scene.kind == "position":
        loose = REGIONS[scene.word].loose
        return tuple(i for i in alike if loose.holds(scene.objects[i].x / scene.size, scene.objects[i].y / scene.size))
    if scene.kind == "size":
        is_large, is_superlative = SUPERLATIVES[scene.word]
        if is_superlative != (len(alike) > 2):
            return ()
        areas = {i: scene.objects[i].side ** (2 if is_large else -2) for i in alike}
        return tuple(i for i in alike if areas[i] * MIN_AREA_RATIO > max(areas.values()))
    return tuple(alike)


def check_config(config: SyntheticConfig) -> None:
    """Raise `DataError` when a miniature cannot be generated from the config."""
    counts = {split: getattr(config, split) for split in SPLITS}
    if min(counts.values()) < 1 or sum(counts.values()) > 90_000:
        raise DataError(f"a synthetic split must have 1 or more samples and all together at most 90000, got {counts}")
    if not 32 <= config.size <= 4096:
        raise DataError(f"the size of synthetic images must be 32 to 4096 pixels, got {config.size}")
    if config.seed < 0:
        raise DataError(f"the seed of synthetic data must be at least 0, got {config.seed}")
    if config.quirks and config.train < 3:
        raise DataError(f"synthetic data with quirks must have 3 or more training samples, got {config.train}")


def draw_scene(config: SyntheticConfig, split: str, index: int) -> Scene:
    """The scene of one sample; it depends on seed, size, split and index, not on the number of samples."""
    rng = np.random.default_rng([config.seed, config.size, SPLITS.index(split), index, 0])
    kind: Kind = list(_KIND_SHARE)[int(rng.choice(len(_KIND_SHARE), p=list(_KIND_SHARE.values())))]
    for _ in range(_MAX_TRIES):
        scene = _try_scene(kind, config.size, rng)
        if scene is not None and referents(scene) == (scene.target,):
            return scene
    raise DataError(f"no room for a scene after {_MAX_TRIES} tries at {config.size} pixels; choose a larger size")


def draw_image(scene: Scene, config: SyntheticConfig, split: str, index: int) -> NDArray[np.uint8]:
    """Pixels `(S, S, 3)` of a scene: muted low-frequency ground, flat objects, noise over both."""
    rng = np.random.default_rng([config.seed, config.size, SPLITS.index(split), index, 1])
    size = scene.size
    pixels = np.array(_GROUNDS[int(rng.integers(len(_GROUNDS)))], np.float32) + np.zeros((size, size, 1), np.float32)
    coarse = rng.normal(0, 13, (6, 6)).astype(np.float32)
    pixels += np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))[..., None]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.integers(0, size, 2)
        width, height = rng.integers(size // 6, size // 2, 2)
        pixels[y : y + height, x : x + width] += rng.normal(0, 9)
    for i, item in enumerate(scene.objects):
        pixels[scene.mask(i) > 0] = np.array(COLOURS[item.colour], np.float32) * rng.uniform(0.92, 1.0)
    pixels += rng.normal(0, 5, pixels.shape)
    return pixels.clip(0, 255).round().astype(np.uint8)


def stretch(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The quirk of published images that are a little higher than their masks: `(S, S, 3)` -> `(S + S // 60, S, 3)`."""
    size = pixels.shape[1]
    return np.array(Image.fromarray(pixels).resize((size, size + max(1, size // 60)), Image.Resampling.BILINEAR))


def _try_scene(kind: Kind, size: int, rng: np.random.Generator) -> Scene | None:
    categories = [str(c) for c in rng.permutation(list(OUTLINES))]
    num_alike = 1 if kind == "category" else int(rng.integers(2, 5))
    has_others = kind == "category" or rng.random() < _OTHERS_SHARE
    num_others = int(rng.integers(1, 4 if kind == "category" else 3)) if has_others else 0
    colours = [str(c) for c in rng.permutation(list(COLOURS))]
    sides = _sides(kind, num_alike, num_others, rng)
    target = int(rng.integers(2)) if kind == "size" else 0
    word = _word(kind, colours[0], num_alike, is_large=target == 0, rng=rng)
    region = REGIONS[word] if kind == "position" else Region(_ANYWHERE, _ANYWHERE)
    objects: list[SceneObject] = []
    for i, side in enumerate(sides):
        is_alike = i < num_alike
        draft = SceneObject(
            category=categories[0] if is_alike else categories[1 + i - num_alike],
            colour=colours[i] if is_alike else str(rng.choice(list(COLOURS))),
            x=0,
            y=0,
            side=side * size,
            quarter_turns=int(rng.integers(4)),
        )
        inside = region.clear if i == target else _ANYWHERE
        outside = region.loose if kind == "position" and is_alike and i != target else None
        placed = _place(draft, objects, size=size, inside=inside, outside=outside, rng=rng)
        if placed is None:
            return None
        objects.append(placed)
    order = [int(i) for i in rng.permutation(len(objects))]
    return Scene(size, tuple(objects[i] for i in order), order.index(target), kind, word)


def _sides(kind: Kind, num_alike: int, num_others: int, rng: np.random.Generator) -> list[float]:
    """Sides in shares of the image; a size word comes with both a largest and a smallest object."""
    base = float(rng.uniform(*_SIDE))
    similar = [base * float(rng.uniform(0.95, 1.05)) for _ in range(num_alike + num_others)]
    if kind == "size":
        similar[:num_alike] = [_LARGE, _SMALL, _MEDIUM, _MEDIUM][:num_alike]
    return similar


def _word(kind: Kind, colour: str, num_alike: int, *, is_large: bool, rng: np.random.Generator) -> str:
    if kind == "colour":
        return colour
    if kind == "position":
        return list(REGIONS)[int(rng.integers(len(REGIONS)))]
    if kind == "size":
        return next(w for w, found in SUPERLATIVES.items() if found == (is_large, num_alike > 2))
    return ""


def _place(
    draft: SceneObject,
    placed: Sequence[SceneObject],
    *,
    size: int,
    inside: Box,
    outside: Box | None,
    rng: np.random.Generator,
) -> SceneObject | None:
    """Give the object a centre inside one box, outside another and clear of what is placed; None if 60 draws fail."""
    margin = draft.side / 2 + 1
    low = np.maximum([inside.left * size, inside.top * size], margin)
    high = np.minimum([inside.right * size, inside.bottom * size], size - 1 - margin)
    for x, y in rng.uniform(low, high, (60, 2)):
        if outside is not None and outside.holds(x / size, y / size):
            continue
        if all(max(abs(x - o.x), abs(y - o.y)) > (draft.side + o.side) / 2 + 2 for o in placed):
            return replace(draft, x=float(x), y=float(y))
    return None
