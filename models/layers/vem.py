"""Variance enhancement and prompts: what one modality has of its own guides the reading of another (UPSeg).

Our design after the abstract of UPSeg (Sun et al., Acta Aeronautica et Astronautica Sinica 47(10), 2026,
https://doi.org/10.7527/S1000-6893.2025.32910), whose network is not public.

Shapes: `B` images, `N = h * w` tokens, `D` width, `p` side of the prompt grid.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.semantic_heads import as_map

VemMode = Literal["subtract", "negative", "plain"]
EPSILON = 1e-6


class CrossAttention(nn.Module):
    """Tokens of one modality read those of another; a key's bias could not influence anything and is not built."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, asking: Tensor, asked: Tensor, *, sign: float = 1.0) -> Tensor:
        """Map `(B, N, D)` and `(B, N, D)` to `(B, N, D)`; `sign` -1 attends to the least similar tokens."""
        # B N D -> B heads N D/heads
        q, k, v = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x in (sign * self.query(asking), self.key(asked), self.value(asked))
        )
        read = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return y


class VarianceEnhancement(nn.Module):
    """VEM(A | B): what is distinctive in A given B, emphasised per channel by variance and per token by energy.

    Args:
        width: D.
        heads: Of the attention.
        mode: `subtract`: A minus what B explains of it; `negative`: what A reads from the tokens of B least like it;
            `plain`: ordinary cross-attention, which emphasises what is common.
    """

    def __init__(self, width: int, *, heads: int, mode: VemMode) -> None:
        super().__init__()
        self.mode = mode
        self.norm_own, self.norm_other = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        inner = max(1, width // 4)
        self.gate = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.sharpness = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(width, width)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Map tokens `(B, N, D)` of A and of B to `(B, N, D)`."""
        a, b = self.norm_own(own), self.norm_other(other)
        read = self.attention(a, b, sign=-1.0 if self.mode == "negative" else 1.0)
        e = a - read if self.mode == "subtract" else read
        variance = e.float().var(dim=1, unbiased=False)
        relative = variance / (variance.mean(dim=1, keepdim=True) + EPSILON)
        channels = self.gate((relative + EPSILON).log()).sigmoid()
        energy = e.float().square().mean(dim=2)
        spread = energy.var(dim=1, unbiased=False, keepdim=True).add(EPSILON).sqrt()
        tokens = (self.sharpness * (energy - energy.mean(dim=1, keepdim=True)) / spread).sigmoid()
        # both gates are 1/2 where nothing stands out, hence 2 x 2
        y: Tensor = self.out(4 * e * channels[:, None] * tokens[:, :, None])
        return y


class TokenPrompts(nn.Module):
    """A map pooled to `p x p` prompt tokens.

    Args:
        width: D.
        side: p.
    """

    def __init__(self, width: int, *, side: int) -> None:
        super().__init__()
        self.side = side
        inner = max(1, width // 4)
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, guide: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map `(B, N, D)` on a grid `(h, w)` to `(B, p * p, D)`."""
        pooled = F.adaptive_avg_pool2d(as_map(guide, grid), self.side)
        y: Tensor = self.layers(pooled.flatten(2).transpose(1, 2))
        return y


def dense_prompt(width: int) -> nn.Linear:
    """What is added to each token of the target; zero at the start, so that a pretrained model begins unchanged."""
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
