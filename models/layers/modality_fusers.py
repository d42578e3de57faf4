"""Plain ways to make one map of the maps of M modalities: concatenation with an MLP, and the mean.

Source of the concatenation: DF2RQ's published code (https://github.com/I3ab/DF2RQ), which has no other fuser.

Shapes: `B` images, `M` modalities, `C` channels, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConcatFuser(nn.Module):
    """Concatenate on channels, then two linear layers with ReLU at every pixel; the identity for one modality.

    Args:
        channels: C.
        num_modalities: M.
        hidden: Width between the two layers; None is C, the published one.
    """

    def __init__(self, channels: int, *, num_modalities: int, hidden: int | None = None) -> None:
        super().__init__()
        self.layers: nn.Sequential | None = None
        if num_modalities == 1:
            return
        inner = channels if hidden is None else hidden
        first, second = nn.Linear(num_modalities * channels, inner), nn.Linear(inner, channels)
        for layer in (first, second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map M maps `(B, C, H, W)` to `(B, C, H, W)`."""
        if self.layers is None:
            return maps[0]
        # B M*C H W -> B H W M*C
        y: Tensor = self.layers(torch.cat(list(maps), dim=1).movedim(1, -1))
        return y.movedim(-1, 1)


class MeanFuser(nn.Module):
    """The sum of the maps over M, divided by M, so that its scale does not depend on how many there are."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map M maps `(B, C, H, W)` to `(B, C, H, W)`."""
        return torch.stack(list(maps)).mean(dim=0)
