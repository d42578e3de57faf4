"""Rectify and fuse two branches at every stage, and the all-MLP head: the parts that CMX and CMNeXt share.

Sources: CMX (Zhang et al., IEEE T-ITS 2023, https://arxiv.org/abs/2203.04838); the head is SegFormer's (Xie et al.,
NeurIPS 2021, https://arxiv.org/abs/2105.15203). Linear layers and 1x1 convolutions before a batch norm have no bias.

Shapes: `B` images, `C` channels, `H W` pixels, `N = H * W` tokens, `h` heads, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from models.layers.backbone_sizes import PyramidConfig
from models.layers.semantic_family import SemanticConfig
from models.layers.semantic_heads import as_map, resize

SHARE = 0.5
"""Of the channel weights and of the spatial weights in what a branch receives."""
STRIDE = 32


@dataclass(frozen=True)
class CrossModalConfig(SemanticConfig):
    """What CMX and CMNeXt can be told; the first modality is the primary one."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backbone: PyramidConfig = field(default_factory=PyramidConfig)
    """Pyramid transformer of a branch."""
    rectify: bool = True
    """Whether the branches correct each other after every stage."""
    fusion: Literal["exchange", "sum"] = "exchange"
    """Fuse by exchanged linear attention, or by the sum of the branches."""
    head_width: int = 512
    """Channels of the head, at least 1."""
    dropout: float = 0.1
    """Share of channels dropped before the classifier, in 0..1."""


class Rectify(nn.Module):
    """Each branch receives the other, weighted by channel and by place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        C = channels
        self.by_channel = nn.Sequential(nn.Linear(4 * C, 4 * C), nn.ReLU(inplace=True), nn.Linear(4 * C, 2 * C))
        self.by_place = nn.Sequential(nn.Conv2d(2 * C, C, 1), nn.ReLU(inplace=True), nn.Conv2d(C, 2, 1))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Map two maps `(B, C, H, W)` to two."""
        both = torch.cat((a, b), dim=1)
        pooled = torch.cat((both.mean(dim=(2, 3)), both.amax(dim=(2, 3))), dim=1)
        channel_a, channel_b = self.by_channel(pooled).sigmoid()[:, :, None, None].chunk(2, dim=1)
        place_a, place_b = self.by_place(both).sigmoid().chunk(2, dim=1)
        return a + SHARE * (channel_b + place_b) * b, b + SHARE * (channel_a + place_a) * a


class Exchange(nn.Module):
    """One branch's side of the exchange: its context for the other, and what it makes of the other's context."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels / heads) ** -0.5
        self.enter = nn.Sequential(nn.Linear(channels, 2 * channels), nn.ReLU(inplace=True))
        self.key_value = nn.Linear(channels, 2 * channels, bias=False)
        self.leave, self.norm = nn.Linear(2 * channels, channels), nn.LayerNorm(channels)

    def _heads(self, x: Tensor) -> Tensor:
        # B N C -> B h N C/h
        B, N, _ = x.shape
        return x.reshape(B, N, self.heads, -1).transpose(1, 2)

    def context(self, u: Tensor) -> Tensor:
        """`(B, h, C/h, C/h)` of `u (B, N, C)`, normalised over the channels of the key."""
        key, value = (self._heads(x) for x in self.key_value(u).chunk(2, dim=2))
        y: Tensor = (key.transpose(2, 3) @ value * self.scale).softmax(dim=2)
        return y

    def finish(self, x: Tensor, kept: Tensor, u: Tensor, context: Tensor) -> Tensor:
        """New tokens `(B, N, C)` of tokens `x`, their kept half, and `u` read through the other's context."""
        read = (self._heads(u) @ context).transpose(1, 2).flatten(2)
        y: Tensor = self.norm(x + self.leave(torch.cat((kept, read), dim=2)))
        return y


class Fuse(nn.Module):
    """Two maps to one: exchanged linear attention, then a 1x1 and a depth-wise path."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        C = channels
        self.first, self.second = Exchange(C, heads), Exchange(C, heads)
        self.short = nn.Conv2d(2 * C, C, 1, bias=False)
        self.deep = nn.Sequential(
            nn.Conv2d(2 * C, C, 1),
            nn.Conv2d(C, C, 3, padding=1, groups=C),
            nn.ReLU(inplace=True),
            nn.Conv2d(C, C, 1, bias=False),
            nn.BatchNorm2d(C),
        )
        self.norm = nn.BatchNorm2d(C)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map two maps `(B, C, H, W)` to one."""
        size = a.shape[2:]
        # B C H W -> B N C
        ta, tb = a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)
        (kept_a, ua), (kept_b, ub) = self.first.enter(ta).chunk(2, dim=2), self.second.enter(tb).chunk(2, dim=2)
        context_a, context_b = self.first.context(ua), self.second.context(ub)
        new = (self.first.finish(ta, kept_a, ua, context_b), self.second.finish(tb, kept_b, ub, context_a))
        both = as_map(torch.cat(new, dim=2), size)
        y: Tensor = self.norm(self.short(both) + self.deep(both))
        return y


class Meeting(nn.Module):
    """What happens to two branches after a stage: rectified maps for the next stage, and the fused map."""

    def __init__(self, config: CrossModalConfig, *, stage: int) -> None:
        super().__init__()
        channels = config.backbone.widths[stage]
        self.rectify = Rectify(channels) if config.rectify else None
        self.fuse = Fuse(channels, config.backbone.heads[stage]) if config.fusion == "exchange" else None

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map two maps `(B, C, H, W)` to both rectified, and the fused one."""
        if self.rectify is not None:
            a, b = self.rectify(a, b)
        return a, b, a + b if self.fuse is None else self.fuse(a, b)


class MlpHead(nn.Module):
    """Project four maps to one width, concatenate them at the first one's size, classify."""

    def __init__(self, config: CrossModalConfig, *, num_classes: int) -> None:
        super().__init__()
        width = config.head_width
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in config.backbone.widths)
        self.join = nn.Sequential(
            nn.Conv2d(4 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.classify = nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(width, num_classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map `(B, Ci, Hi, Wi)` to logits `(B, K, H1, W1)`."""
        size = maps[0].shape[2:]
        together = [resize(project(x), size) for project, x in zip(self.project, maps, strict=True)]
        logits: Tensor = self.classify(self.join(torch.cat(together, dim=1)))
        return logits
