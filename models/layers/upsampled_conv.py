"""A 3x3 convolution of an enlarged map without enlarging the map, for training on a CPU.

A convolution mixes channels and enlarging mixes positions, so the two can change places: each tap's matrix is applied
to the small map, and the nine results are enlarged, shifted and summed by one small matrix per axis. For maps enlarged
twice that takes about a third of the multiply-adds, and the enlarged map is never kept for the gradient.

Shapes: `B` images, `I O` input and output channels, `h w` small map, `H W` large map.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from models.layers.pointwise import project


@lru_cache(maxsize=32)
def tap_matrices(small: int, large: int, dtype: torch.dtype) -> Tensor:
    """Return `(3, large, small)`: per tap, what an axis enlarged bilinearly with aligned corners holds one step before,
    at, and one step after each position; zero outside.
    """
    with torch.inference_mode(False):
        places = torch.arange(large, dtype=torch.float64) * ((small - 1) / max(large - 1, 1))
        weights = (1.0 - (places[:, None] - torch.arange(small, dtype=torch.float64)).abs()).relu()
        padded = torch.cat([weights.new_zeros(1, small), weights, weights.new_zeros(1, small)])
        return torch.stack([padded[tap : tap + large] for tap in range(3)]).to(dtype)


def convolve_upsampled(x: Tensor, weight: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Enlarge a map bilinearly with aligned corners, then convolve it with zero padding 1 and no bias.

    Args:
        x: `(B, I, h, w)`, best channels last.
        weight: `(O, I, 3, 3)`.
        size: `(H, W)`.

    Returns:
        `(B, O, H, W)`, channels last.
    """
    B, I, h, w = x.shape  # noqa: E741 - shape letter
    O, (H, W) = len(weight), size  # noqa: E741 - shape letter
    rows, columns = tap_matrices(h, H, x.dtype), tap_matrices(w, W, x.dtype)
    # 3 W w -> B*h W w*3: columns of a row and taps are one axis
    columns = columns.permute(1, 2, 0).reshape(1, W, 3 * w).expand(B * h, -1, -1)
    x = x.permute(0, 2, 3, 1)
    y = x.new_zeros(B, H, W * O)
    for tap in range(3):
        # taps of this row of the kernel: O I 3 -> 3*O I
        taps = weight[:, :, tap].permute(2, 0, 1).reshape(3 * O, I)
        # B h w 3*O -> B*h w*3 O -> B*h W O
        wide = torch.bmm(columns, project(x, taps).view(B * h, 3 * w, O))
        y.baddbmm_(rows[tap].expand(B, -1, -1), wide.view(B, h, W * O))
    # B H W O -> B O H W
    return y.view(B, H, W, O).permute(0, 3, 1, 2)
