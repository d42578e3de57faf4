"""From files to what a model sees: black boxes, resize to a square, normalise.

Order and arithmetic of the code published with LAVT, RMSIN and MAFN: boxes on the full-resolution image, Pillow's
bilinear (antialiased) resize of the image and nearest resize of the mask, each to S x S without keeping the aspect
ratio, division by 255, ImageNet mean and deviation. Letters: `H W` native size, `S` size of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MIN_WIDTH_IN_BOXES = 8
_PUBLISHED_WIDTH_IN_BOXES = 25


@dataclass(frozen=True)
class BlackBoxes:
    """Augmentation of RMSIN and MAFN: a fixed share of the training samples gets new boxes at each access."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    fraction: float = 0.2
    """Share of the samples that get boxes, 0..1; drawn once per run."""
    min_count: int = 20
    """Fewest boxes per image, at least 0."""
    max_count: int = 60
    """Most boxes per image, included; at least `min_count`."""
    size: int = 32
    """Side of a box in pixels of the full-resolution image, at least 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"black_boxes.fraction must be in 0..1, got {self.fraction}; 0.2 is the published value")
        if not 0 <= self.min_count <= self.max_count:
            raise ValueError(
                f"black_boxes must have 0 <= min_count <= max_count, got {self.min_count} and {self.max_count}"
            )
        if self.size < 1:
            raise ValueError(f"black_boxes.size must be at least 1 pixel, got {self.size}")


def draw_black_box_refs(num_records: int, fraction: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose the records that get black boxes for a whole run.

    Args:
        num_records: Number of training records.
        fraction: Share of them, 0..1; the count is rounded to the nearest integer.
        rng: Source of the draw.

    Returns:
        Sorted indices without repetition.
    """
    chosen = rng.choice(num_records, size=round(num_records * fraction), replace=False)
    return np.sort(chosen).astype(np.int64)


def box_side(boxes: BlackBoxes, width: int) -> int:
    """Side of a box in pixels on an image of that width.

    `boxes.size` on every image at least 8 boxes wide. On a narrower one (tests, tiny studies) twenty boxes would cover
    everything, so the side becomes width / 25, at least 1: the share that 32 pixels have of RRSIS-D's 800.
    """
    if width >= _MIN_WIDTH_IN_BOXES * boxes.size:
        return boxes.size
    return max(1, min(boxes.size, width // _PUBLISHED_WIDTH_IN_BOXES))


def black_out(image: NDArray[np.uint8], boxes: BlackBoxes, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a copy of a full-resolution image with black boxes.

    The width bounds the corner on both axes, as published; what falls below the image is cut off.

    Args:
        image: `(H, W, 3)`.
        boxes: Count and size.
        rng: Source of the draws; give one that depends on (seed, epoch, sample) only.
    """
    covered = image.copy()
    width = image.shape[1]
    side = box_side(boxes, width)
    count = int(rng.integers(boxes.min_count, boxes.max_count, endpoint=True))
    for x, y in rng.integers(0, width - side, size=(count, 2), endpoint=True):
        covered[y : y + side, x : x + side] = 0
    return covered


def resize_image(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`(H, W, 3)` -> `(S, S, 3)`, Pillow bilinear."""
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), np.uint8)


def resize_mask(mask: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`(H, W)` -> `(S, S)`, Pillow nearest."""
    return np.array(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST), np.uint8)


def normalise(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(S, S, 3)` of 0..255 -> `(3, S, S)` with ImageNet's mean and deviation taken out."""
    out = np.empty((3, *image.shape[:2]), np.float32)
    for channel, (mean, std) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        plane = out[channel]  # one plane at a time stays in the processor's cache
        np.divide(image[..., channel], np.float32(255), out=plane)
        plane -= np.float32(mean)
        plane /= np.float32(std)
    return out
