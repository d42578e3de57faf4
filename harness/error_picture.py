"""Hits, false alarms and misses of a mask painted over its image, the same in figures and in the tracking store.

Shapes: `S S` a mask, `P P` its enlarged picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Mask = NDArray[np.bool_]

HIT: Colour = (255, 224, 120)
"""Found object: light, solid."""
FALSE_ALARM: Colour = (190, 60, 0)
"""Found background: stripes between this and white."""
MISS: Colour = (0, 52, 110)
"""Object not found: dark, solid."""
WHITE: Colour = (255, 255, 255)

MIN_PICTURE = 240
"""Smallest side of a figure's picture in pixels; smaller masks are enlarged so that stripes can be seen."""
STRIPES = 20
"""Stripes across a picture."""


def error_picture(
    image: NDArray[np.uint8], truth: Mask, predicted: Mask, *, min_side: int = MIN_PICTURE
) -> NDArray[np.uint8]:
    """Paint hits, false alarms and misses over a dim grey copy of an image.

    The three differ in lightness and one of them is striped, so that they can be told apart in greyscale.

    Args:
        image: `(S, S, 3)`.
        truth: `(S, S)`.
        predicted: `(S, S)`.
        min_side: Smallest side of the picture in pixels.

    Returns:
        `(P, P, 3)`; P is the smallest multiple of S that is at least `min_side`.
    """
    factor = -(-min_side // len(image))
    # S S -> P P
    truth, predicted = (m.repeat(factor, 0).repeat(factor, 1) for m in (truth, predicted))
    grey = image.repeat(factor, 0).repeat(factor, 1).mean(axis=2, keepdims=True)
    picture = np.broadcast_to(85 + 0.35 * grey, (*truth.shape, 3)).copy()
    rows, columns = np.indices(truth.shape)
    striped = (rows + columns) * STRIPES // len(truth) % 2 == 0
    picture[truth & predicted] = 0.1 * picture[truth & predicted] + 0.9 * np.array(HIT)
    picture[predicted & ~truth & striped] = FALSE_ALARM
    picture[predicted & ~truth & ~striped] = WHITE
    picture[truth & ~predicted] = MISS
    painted: NDArray[np.uint8] = picture.round().clip(0, 255).astype(np.uint8)
    return painted
