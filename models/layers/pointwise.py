"""1x1 convolutions as matrix products, and the initial values of a Swin backbone with language branches.

The published models start every linear layer of the backbone from a truncated normal and leave convolutions at
PyTorch's default; `Pointwise` keeps that difference although it computes with a matrix product.
"""

from __future__ import annotations

from torch import Tensor, nn


class Pointwise(nn.Linear):
    """A 1x1 convolution over the last axis; starts like a convolution."""


class Gate(nn.Module):
    """Tanh gate: `tanh(W2 relu(W1 z)) * z`, both matrices without bias (LAVT, Yang et al. CVPR 2022).

    Args:
        channels: Width C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)

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
