"""Writes generated scenes as triplets: image file, mask file, line of text; referents of several regions on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.scenes import NOUNS, Scene, check_config, draw_image, draw_scene, stretch
from harness.data.triplets import FAINT, TripletLayout
from harness.errors import DataError

QUIRKS = {("test", 0): "empty", ("train", 0): "height", ("train", 1): "faint", ("train", 2): "channels"}
"""(split, index) -> defect: empty mask, image of another height than its mask, an outline of faint values beside the
object, mask with three equal channels. With quirks the phrase files also have CRLF, blank lines and no last newline."""

GROUP_SHARE = 0.5
"""Share of the samples that mean several objects, where groups are asked for."""

_FAINT_VALUE = FAINT // 2
_STRIDE = 100_000
_MAX_TRIES = 200


class Referent(NamedTuple):
    """A scene and the objects that a sentence means."""

    scene: Scene
    members: tuple[int, ...]
    """Indices of `scene.objects`, ascending."""
    sentence: str
    place: int
    """Index that `draw_image` takes."""

    def mask(self) -> NDArray[np.uint8]:
        """Mask `(S, S)` of 0 and 1 of all members."""
        found: NDArray[np.uint8] = np.max([self.scene.mask(i) for i in self.members], axis=0)
        return found


def draw_referent(config: SyntheticConfig, split: str, index: int, *, groups: bool) -> Referent:
    """The scene and sentence of one sample.

    Args:
        config: Seed and size.
        split: `train`, `val` or `test`.
        index: Place in the split.
        groups: Whether half of the samples mean several objects, such as `The red ships`, among look-alikes.
    """
    rng = np.random.default_rng([config.seed, config.size, SPLITS.index(split), index, 2])
    if groups and rng.random() < GROUP_SHARE:
        return _draw_group(config, split, index, rng)
    scene = draw_scene(config, split, index)
    return Referent(scene, (scene.target,), scene.sentence, index)


def write_triplets(
    root: Path,
    config: SyntheticConfig,
    layout: TripletLayout,
    *,
    name: Callable[[str, int], str],
    groups: bool,
) -> None:
    """Write images, masks and phrase files.

    Args:
        root: Folder to write into; created if missing, its files of the same names are replaced.
        config: Equal configs give equal bytes with the same version of Pillow.
        layout: Where the files go.
        name: Split and index -> name as the phrase file has it.
        groups: See `draw_referent`.

    Raises:
        DataError: The config cannot be generated.
    """
    check_config(config)
    for folder in (layout.images, layout.masks):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = []
        for i in range(getattr(config, split)):
            quirk = QUIRKS.get((split, i), "") if config.quirks else ""
            referent = draw_referent(config, split, i, groups=groups)
            pixels = draw_image(referent.scene, config, split, referent.place)
            file_name = name(split, i) + layout.suffix
            Image.fromarray(stretch(pixels) if quirk == "height" else pixels).save(root / layout.images / file_name)
            Image.fromarray(_stored_mask(referent.mask(), quirk)).save(root / layout.masks / file_name)
            lines.append(f"{name(split, i)} {referent.sentence}")
        text = "\r\n\r\n".join(lines) if config.quirks else "\n".join(lines) + "\n"
        (root / layout.phrases(split)).write_bytes(text.encode())


def _draw_group(config: SyntheticConfig, split: str, index: int, rng: np.random.Generator) -> Referent:
    """A scene with look-alikes of several colours: some get the target's colour, at least one keeps its own."""
    for attempt in range(_MAX_TRIES):
        place = index + attempt * _STRIDE
        scene = draw_scene(config, split, place)
        target = scene.objects[scene.target]
        others = [i for i, o in enumerate(scene.objects) if o.category == target.category and i != scene.target]
        if scene.kind != "colour" or len(others) < 2:
            continue
        joined = others[: int(rng.integers(1, len(others)))]
        objects = tuple(replace(o, colour=target.colour) if i in joined else o for i, o in enumerate(scene.objects))
        sentence = f"The {target.colour} {NOUNS[target.category]}s"
        return Referent(replace(scene, objects=objects), tuple(sorted((scene.target, *joined))), sentence, place)
    raise DataError(f"no room for a group after {_MAX_TRIES} scenes at {config.size} pixels; choose a larger size")


def _stored_mask(mask: NDArray[np.uint8], quirk: str) -> NDArray[np.uint8]:
    """`(S, S)` or `(S, S, 3)` of 0 and 255, with the defect."""
    stored = np.zeros_like(mask) if quirk == "empty" else mask * np.uint8(255)
    if quirk == "faint":
        beside = np.roll(mask, 1, axis=1) > mask
        stored[beside] = _FAINT_VALUE
    return np.repeat(stored[..., None], 3, axis=2) if quirk == "channels" else stored
