"""From four maps of one stride to logits: pyramid, UPerNet head, FCN head.

Sources: UPerNet (Xiao et al., ECCV 2018, https://arxiv.org/abs/1807.10221), FCN (Long et al., CVPR 2015,
https://arxiv.org/abs/1411.4038), in the settings of DF2RQ's published configurations
(https://github.com/I3ab/DF2RQ). A convolution before a batch norm has no bias, which could not influence anything.

Shapes: `B` images, `C` channels, `H W` pixels, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError

POOL_SCALES = (1, 2, 3, 6)


@dataclass(frozen=True)
class HeadConfig:
    """UPerNet and its auxiliary head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    width: int = 768
    """Channels of the UPerNet head, at least 1."""
    auxiliary_width: int = 256
    """Channels of the FCN head on the third map, which acts in training only; 0 builds none."""
    dropout: float = 0.1
    """Share of channels dropped before the classifiers, in 0..1."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.auxiliary_width < 0 or not 0 <= self.dropout <= 1:
            raise HarnessError(
                "head: width must be at least 1, auxiliary_width at least 0 and dropout in 0..1; received "
                f"{self.width}, {self.auxiliary_width}, {self.dropout}"
            )


def convolution(in_channels: int, out_channels: int, *, kernel: int = 1) -> nn.Sequential:
    """Bias-free convolution that keeps the size, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, `(B, C, h, w)` to `(B, C, *size)`."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """`(B, H * W, C)` to `(B, C, H, W)` for a size `(H, W)`."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


class Pyramid(nn.Module):
    """Four maps `(B, C, h, w)` to maps of 4, 2, 1 and 1/2 times the size (the last rounded down, at least 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, 2, 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, 2, 2),
        )
        self.up2 = nn.ConvTranspose2d(channels, channels, 2, 2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Resize each map by its factor."""
        first, second, third, last = maps
        kernel = (min(2, last.shape[2]), min(2, last.shape[3]))
        return [self.up4(first), self.up2(second), third, F.max_pool2d(last, kernel)]


class UPerNet(nn.Module):
    """Pyramid pooling on the last map, top-down sums, all levels together, classifier.

    Args:
        config: Width and dropout.
        channels: Of the maps, finest first.
        num_classes: K.
    """

    def __init__(self, config: HeadConfig, *, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        width = config.width
        self.pools = nn.ModuleList(convolution(channels[-1], width) for _ in POOL_SCALES)
        self.bottleneck = convolution(channels[-1] + len(POOL_SCALES) * width, width, kernel=3)
        self.laterals = nn.ModuleList(convolution(c, width) for c in channels[:-1])
        self.smooth = nn.ModuleList(convolution(width, width, kernel=3) for _ in channels[:-1])
        self.fuse = convolution(len(channels) * width, width, kernel=3)
        self.classify = nn.Sequential(nn.Dropout2d(config.dropout), nn.Conv2d(width, num_classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map `(B, Ci, Hi, Wi)` to logits `(B, K, H1, W1)`."""
        last = maps[-1]
        pooled = [
            resize(pool(F.adaptive_avg_pool2d(last, scale)), last.shape[2:])
            for pool, scale in zip(self.pools, POOL_SCALES, strict=True)
        ]
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=False)]
        levels.append(self.bottleneck(torch.cat((last, *pooled), dim=1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize(levels[i], levels[i - 1].shape[2:])
        size = levels[0].shape[2:]
        smooth = [conv(x) for conv, x in zip(self.smooth, levels, strict=False)]
        together = torch.cat([resize(x, size) for x in (*smooth, levels[-1])], dim=1)
        logits: Tensor = self.classify(self.fuse(together))
        return logits


def fcn_head(config: HeadConfig, *, channels: int, num_classes: int) -> nn.Sequential:
    """One 3x3 convolution and a classifier: `(B, C, H, W)` to logits `(B, K, H, W)`."""
    return nn.Sequential(
        convolution(channels, config.auxiliary_width, kernel=3),
        nn.Dropout2d(config.dropout),
        nn.Conv2d(config.auxiliary_width, num_classes, 1),
    )
