"""Matrix products over the last axis, and the initial values of a Swin backbone with language branches.

The published models start every linear layer of the backbone from a truncated normal and leave convolutions at
PyTorch's default; `Pointwise` keeps that difference although it computes like `Linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x (..., I)` times `weight (O, I)` plus `bias (O,)`, `(..., O)`.

    On a CPU a 1x1 convolution computes it: oneDNN uses the widest instructions of every processor, the BLAS library
    behind `F.linear` does not (benchmarks/RESULTS.md).
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() < 3:
        return F.linear(x, weight, bias)
    # ... I -> 1 I N 1, whose strides are those of a channels-last map
    columns = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(columns, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """A linear layer over the last axis, computed by `project`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (..., I)` to `(..., O)`."""
        return project(x, self.weight, self.bias)


class Pointwise(Linear):
    """A 1x1 convolution over the last axis; starts like a convolution."""


class Gate(nn.Module):
    """Tanh gate: `tanh(W2 relu(W1 z)) * z`, both matrices without bias (LAVT, Yang et al. CVPR 2022).

    Args:
        channels: Width C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = Linear(channels, channels, bias=False)
        self.outer = Linear(channels, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Gate `z (..., C)`."""
        gated: Tensor = self.outer(self.inner(z).relu_()).tanh() * z
        return gated


def initialise_backbone(backbone: nn.Module) -> None:
    """Set linear layers to a truncated normal (std 0.02) with zero bias and layer norms to one and zero, in place."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, Pointwise):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
