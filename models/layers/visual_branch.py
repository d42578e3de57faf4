"""Visual branch: one spatial weight map from receptive fields of several sizes (RMSIN, Liu et al., CVPR 2024).

The published modules re-parameterise a sum of a 1x1 convolution, a 1x1 and 3x3 convolution and a batch norm, twice, on
the mean over channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _convolution(kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(1))


class MultiReceptiveField(nn.Module):
    """Sum of a 1x1 convolution, a 1x1 followed by a 3x3 convolution, and the input, each batch-normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.point = _convolution(1)
        self.wide = nn.Sequential(*_convolution(1), *_convolution(3))
        self.identity = nn.BatchNorm2d(1)

    def forward(self, s: Tensor) -> Tensor:
        """Map `s (B, 1, H, W)` to `(B, 1, H, W)`."""
        y: Tensor = self.point(s) + self.wide(s) + self.identity(s)
        return y


class VisualBranch(nn.Module):
    """Multiply a map by a spatial weight that is shared by all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = MultiReceptiveField()
        self.second = MultiReceptiveField()

    def weight_map(self, x: Tensor) -> Tensor:
        """Weights `(B, H, W, 1)` in 0..1 for `x (B, H, W, C)`."""
        mean = x.mean(dim=-1)[:, None]
        weights = torch.sigmoid(self.second(self.first(mean).relu()))
        # B 1 H W -> B H W 1
        return weights[:, 0, :, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """Weight `x (B, H, W, C)`."""
        return self.weight_map(x) * x
