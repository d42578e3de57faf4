"""What a trial predicts on a few samples, as pictures that MLflow's pages show beside each other.

A picture is a square, because MLflow shows every image in one: input and ground truth above, prediction and words
below. Which samples are shown depends on the split alone, so that all variants and replicates of a study show the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from harness.error_picture import WHITE, Colour

NUM_PICTURES = 4
"""Samples of a split that are shown."""
SIDE = 192
"""Largest side of each of the panels in pixels."""
GAP = 4
"""Pixels between panels."""
FOLDER = "pictures"
"""Folder of a trial's pictures: `<split>/<number>.png`, and as `.webp` what pages of many pictures load."""

_MARGIN = 4
_FONT_SIZE = 14
_LINE = 18
_SWATCH = 11
_MIN_LINES = 3
"""Lines of words that a legend leaves room for."""
_GREY: Colour = (128, 128, 128)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A sample and what was predicted for it: three panels `(h, w, 3)` of one size."""

    image: Pixels
    truth: Pixels
    prediction: Pixels
    words: Sequence[str]
    """Paragraphs; what does not fit is cut."""
    legend: Mapping[str, Colour] = field(default_factory=dict)
    """Meaning of colours, the most important first; what does not fit is cut."""


def chosen(count: int) -> list[int]:
    """Places of the shown among `count` samples in the dataset's order: the middles of `NUM_PICTURES` equal parts."""
    parts = min(count, NUM_PICTURES)
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def picture_key(split: str, number: int) -> str:
    """Name of a picture in MLflow, the same for every variant; its part before the slash is a section of a page."""
    return f"predictions/{split}-{number}"


def compose(picture: Picture) -> Image.Image:
    """The square of the panels, each enlarged or reduced to `SIDE` along its longer side."""
    whole = Image.new("RGB", (2 * SIDE + GAP, 2 * SIDE + GAP), WHITE)
    second = SIDE + GAP
    places = ((0, 0), (second, 0), (0, second))
    # colours of classes and of errors must not be mixed; an image may be
    kinds = (Image.Resampling.BILINEAR, Image.Resampling.NEAREST, Image.Resampling.NEAREST)
    for panel, place, kind in zip((picture.image, picture.truth, picture.prediction), places, kinds, strict=True):
        height, width = panel.shape[:2]
        scale = SIDE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        whole.paste(Image.fromarray(panel).resize(size, kind), place)
    whole.paste(_written(picture), (second, second))
    return whole


def write_pictures(folder: Path, split: str, pictures: Sequence[Picture]) -> None:
    """Write a split's pictures into a trial's folder, in place of those that an earlier attempt has left."""
    target = folder / FOLDER / split
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for number, picture in enumerate(pictures, start=1):
        whole = compose(picture)
        whole.save(target / f"{number}.png")
        whole.save(target / f"{number}.webp", quality=85)


def _written(picture: Picture) -> Image.Image:
    """The words and the legend in a panel of their own."""
    panel = Image.new("RGB", (SIDE, SIDE), WHITE)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(_FONT_SIZE)
    room = (SIDE - 2 * _MARGIN) // _LINE
    legend = list(picture.legend.items())[: room - _MIN_LINES]
    lines = [line for words in picture.words for line in _wrapped(words, font, SIDE - 2 * _MARGIN)]
    if len(lines) > room - len(legend):
        lines = [*lines[: room - len(legend) - 1], "…"]
    for row, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + row * _LINE), line, fill="black", font=font)
    for row, (name, colour) in enumerate(legend, start=len(lines)):
        top = _MARGIN + row * _LINE + 3
        pen.rectangle((_MARGIN, top, _MARGIN + _SWATCH, top + _SWATCH), fill=colour, outline=_GREY)
        pen.text((_MARGIN + 2 * _SWATCH - 4, _MARGIN + row * _LINE), name, fill="black", font=font)
    return panel


def _wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> Iterator[str]:
    """The lines of a paragraph; a word wider than a line is cut by the panel's edge."""
    line = ""
    for word in words.split():
        longer = f"{line} {word}".lstrip()
        if line and font.getlength(longer) > width:
            yield line
            longer = word
        line = longer
    if line:
        yield line
