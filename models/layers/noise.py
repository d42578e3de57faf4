"""Adaptive noise: every position attends to two altered copies of itself (MAFN, section III-A, as released).

Key 1 is the position plus a learned vector, key 2 the position re-weighted by scores over its channels. No two
positions are mixed in scope `pixel`; scope `window` is the other reading of the paper's Eq. 2-5, in which a position
attends to the altered copies of all positions of its window.

Shapes: `B` images, `H W` map, `C` channels, `h = 8` heads, `d = C / 8`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.pointwise import Linear, project
from models.layers.recompute import recompute
from models.layers.swin import extend_map

NUM_NOISE_HEADS = 8
"""Heads of the noise attention at every stage."""


def partition_windows(x: Tensor, window: int) -> Tensor:
    """Cut `x (B, H, W, C)` with sides that are multiples of `window` into `(B*G, w*w, C)`."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C).transpose(2, 3)
    return x.reshape(-1, window * window, C)


def join_windows(x: Tensor, window: int, *, height: int, width: int) -> Tensor:
    """Undo `partition_windows`: `(B*G, w*w, C)` to `(B, height, width, C)`."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, height, width, x.shape[-1])


class AdaptiveNoise(nn.Module):
    """Add the two-key attention to a map, inside the residual of the window attention.

    Args:
        channels: Width C, divisible by 8.
        init_std: Standard deviation of the two learned vectors at the start.
        scope: `pixel` or `window`.
        window: Window side for scope `window`; the windows are not shifted.
    """

    def __init__(self, channels: int, *, init_std: float, scope: Literal["pixel", "window"], window: int) -> None:
        super().__init__()
        self.scope, self.window = scope, window
        self.score_inner = Linear(channels, channels)
        self.score_outer = Linear(channels, channels)
        self.key_offset = nn.Parameter(torch.randn(channels) * init_std)
        self.value_offset = nn.Parameter(torch.randn(channels) * init_std)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def channel_scores(self, x: Tensor) -> Tensor:
        """Scores of the channels, `(..., C)` with sum 1 over C."""
        return torch.softmax(self._channel_logits(x), dim=-1)

    def _channel_logits(self, x: Tensor) -> Tensor:
        return recompute(lambda inner: self.score_outer(F.gelu(inner)), self.score_inner(x))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, H, W, C)` to `(B, H, W, C)`."""
        return self._add_pixel(x) if self.scope == "pixel" else x + self._attend_windows(x)

    def _add_pixel(self, x: Tensor) -> Tensor:
        # The softmax over two keys is a sigmoid of the difference of their logits, and the two values differ by the
        # projected offset only: with a the share of key 1,
        #   a = sigmoid(q . Wk (key1 - key2) / sqrt(d)),  out = x + Wo (Wv x + bv + a * Wv dv) + bo.
        # 1 + Wo Wv is one matrix, and Wo (a * Wv dv) one vector per head.
        C = x.shape[-1]
        h, d = NUM_NOISE_HEADS, C // NUM_NOISE_HEADS
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, _, value_bias = self.in_proj_bias.chunk(3)
        q = project(x, query_weight * d**-0.5, query_bias * d**-0.5)
        k = recompute(
            lambda x, logits: project(
                torch.addcmul(x, x, torch.softmax(logits, dim=-1), value=-1.0),
                key_weight,
                F.linear(self.key_offset, key_weight),
            ),
            x,
            self._channel_logits(x),
        )
        # B H W C -> B H W h
        share = torch.sigmoid((q * k).view(*x.shape[:-1], h, d).sum(-1))
        offset = F.linear(self.value_offset, value_weight)
        # C C -> C h: column i is the out-projection of head i's part of the offset
        spread = (self.out_proj.weight * offset).view(C, h, d).sum(-1)
        combined = torch.addmm(torch.eye(C, device=x.device, dtype=x.dtype), self.out_proj.weight, value_weight)
        combined_bias = self.out_proj.weight @ value_bias + self.out_proj.bias
        return project(x, combined, combined_bias) + project(share, spread)

    def _attend_windows(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        w, h = self.window, NUM_NOISE_HEADS
        empty = x.new_zeros(C)
        inside = extend_map(x.new_ones(1, H, W, 1), x.new_zeros(1), multiple=w)
        padded = extend_map(x, empty, multiple=w)
        height, width = padded.shape[1:3]
        # B H W C -> B*G N C
        tokens = partition_windows(padded, w)
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = self.in_proj_bias.chunk(3)
        keys = torch.cat([tokens + self.key_offset, tokens * self.channel_scores(tokens)], dim=1)
        values = torch.cat([tokens + self.value_offset, tokens], dim=1)

        def split(projected: Tensor) -> Tensor:
            # B*G N C -> B*G h N d
            return projected.view(*projected.shape[:2], h, C // h).transpose(1, 2)

        allowed = partition_windows(inside, w).squeeze(-1).bool().repeat(B, 2)[:, None, None, :]
        y = F.scaled_dot_product_attention(
            split(project(tokens, query_weight, query_bias)),
            split(project(keys, key_weight, key_bias)),
            split(project(values, value_weight, value_bias)),
            attn_mask=allowed,
        )
        # B*G h N d -> B H W C
        joined = join_windows(y.transpose(1, 2).flatten(2), w, height=height, width=width)
        projected: Tensor = self.out_proj(joined[:, :H, :W])
        return projected
