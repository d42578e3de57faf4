"""Pixel-word attention (LAVT, Yang et al., CVPR 2022, https://arxiv.org/abs/2112.02244, section 3.2).

Shapes: `B` images, `N` positions, `C` channels, `T` words, `D` text width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.pointwise import Pointwise
from models.layers.recompute import recompute

_EPSILON = 1e-5
_MASKED = 1e4


def normalise_positions(x: Tensor) -> Tensor:
    """Normalise each channel of `x (B, N, C)` over the N positions (instance norm without parameters)."""
    x = x.float()
    variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + _EPSILON)


class PixelWordAttention(nn.Module):
    """Let every position read the words, and multiply what it read onto the visual features.

    Args:
        channels: Width C of the map.
        text_width: Width D of the words.
        activation: After the visual projection and at the end; the released code uses GELU, the paper says ReLU.
    """

    def __init__(self, channels: int, *, text_width: int, activation: Literal["gelu", "relu"] = "gelu") -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.query = Pointwise(channels, channels)
        self.key = Pointwise(text_width, channels)
        self.value = Pointwise(text_width, channels)
        self.read = Pointwise(channels, channels)
        self.visual = Pointwise(channels, channels)
        self.mix = Pointwise(channels, channels)
        self.activation = F.gelu if activation == "gelu" else F.relu

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Fuse words into a map.

        Args:
            x: `(B, N, C)`.
            words: `(B, T, D)`.
            mask: `(B, T)`, 1 for words and 0 for padding.

        Returns:
            `(B, N, C)`.
        """
        present = mask.to(words.dtype)
        keys = self.key(words) * present[..., None]
        values = self.value(words) * present[..., None]
        # B N C, B T C -> B N T
        scores = recompute(
            lambda query: (normalise_positions(query).to(keys.dtype) * self.scale) @ keys.transpose(1, 2), self.query(x)
        )
        weights = torch.softmax(scores + _MASKED * (present[:, None] - 1.0), dim=-1)
        # The rows of `weights` sum to 1, so the output projection can be applied to the few words.
        read = weights.to(keys.dtype) @ self.read(values)
        y: Tensor = self.activation(recompute(self._multiply, self.visual(x), read))
        return y

    def _multiply(self, visual: Tensor, read: Tensor) -> Tensor:
        y: Tensor = self.mix(self.activation(visual) * normalise_positions(read).to(visual.dtype))
        return y
