"""Text-guided feature exchange: every level takes from the two others what the sentence asks for.

Source: CMPC (Huang et al., CVPR 2020, https://arxiv.org/abs/2010.00514).

Shapes: `B` images, `D` channels, `h w` the map, `HW` its positions, `C` width of the sentence vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.language_cnn import unit, xavier


class LevelExchange(nn.Module):
    """What one level takes from two others.

    Args:
        channels: D.
        text_width: C.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        # Without the published bias, which adds the same to all positions before a softmax over them.
        self.key = xavier(nn.Linear(channels, channels, bias=False))
        self.query = xavier(nn.Linear(text_width, channels))
        self.summary = xavier(nn.Linear(channels + text_width, channels))
        self.takes = nn.ModuleList(xavier(nn.Conv2d(channels, channels, 1)) for _ in range(2))
        self.gates = nn.ModuleList(xavier(nn.Linear(channels, channels)) for _ in range(2))

    def forward(self, x: Tensor, others: Sequence[Tensor], sentence: Tensor) -> Tensor:
        """Exchange.

        Args:
            x: `(B, D, h, w)`.
            others: The two other levels, of the same shape.
            sentence: `(B, C)`.

        Returns:
            `(B, D, h, w)`.
        """
        pooled = self.pool(x.flatten(2), sentence)
        summary = unit(self.summary(torch.cat([pooled, sentence], dim=1)), dim=1)
        taken = x
        for other, take, gate in zip(others, self.takes, self.gates, strict=True):
            taken = taken + F.relu(take(other)) * gate(summary).sigmoid()[..., None, None]
        return unit(taken, dim=1)

    def pool(self, flat: Tensor, sentence: Tensor) -> Tensor:
        """Mean of `flat (B, D, HW)` over positions, weighted by how well they fit the sentence; `(B, D)`.

        The projection of the positions is applied to the sentence, `(W f) . q = f . (W^T q)`.
        """
        query = self.query(sentence) @ self.key.weight * flat.shape[1] ** -0.5
        weights = (query[:, None] @ flat).softmax(-1)  # B 1 HW
        pooled: Tensor = weights @ flat.transpose(1, 2)
        return pooled.squeeze(1)


class TextExchange(nn.Module):
    """One round of exchange between three levels.

    Args:
        channels: D.
        text_width: C.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LevelExchange(channels, text_width) for _ in range(3))

    def forward(self, maps: Sequence[Tensor], sentence: Tensor) -> list[Tensor]:
        """Three maps `(B, D, h, w)` and `sentence (B, C)` to three new maps."""
        return [
            level(maps[i], [other for j, other in enumerate(maps) if j != i], sentence)
            for i, level in enumerate(self.levels)
        ]
