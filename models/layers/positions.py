"""Tables of absolute positions of a plain vision transformer: fixed ones, and how a table is made for another grid.

Shapes: `h w` tokens, `D` width; the first row of a table belongs to the class token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import HarnessError
from models.layers.semantic_heads import as_map


def encode_grid(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed positions of MAE (arXiv 2111.06377): sines and cosines of column, then row; zeros for the class token.

    Args:
        grid: `(h, w)`.
        width: D, a multiple of 4.

    Returns:
        `(1, 1 + h * w, D)`.

    Raises:
        HarnessError: The width is not a multiple of 4.
    """
    if width % 4:
        raise HarnessError(f"trunk.width must be a multiple of 4 with fixed positions; received {width}")
    rates = 10000.0 ** (-torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(float(size)) for size in grid), indexing="ij")
    # h w -> h*w D/4, for columns and rows
    angles = [place.reshape(-1, 1) * rates for place in (columns, rows)]
    table = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return F.pad(table, (0, 0, 1, 0))[None]


def resize_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize a position table `(1, 1 + s * s, D)`, bicubic, to `(1, 1 + h * w, D)`; the class token's row is kept."""
    side = round((table.shape[1] - 1) ** 0.5)
    maps = as_map(table[:, 1:], (side, side))
    resized = F.interpolate(maps.float(), size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)), dim=1)


def is_square(table: Tensor, *, width: int) -> bool:
    """Whether a table is `(1, 1 + s * s, width)` for some s, so that it can be resized."""
    if table.ndim != 3 or table.shape[2] != width:
        return False
    tokens = table.shape[1] - 1
    return math.isqrt(tokens) ** 2 == tokens
