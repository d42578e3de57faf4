"""Top-down decoders of the LAVT family: plain (LAVT), rotated (RMSIN) and multi-scale rotated convolutions (MAFN).

Shapes: `B` images, `C1..C4` channels of the four stages, `hidden = C4 / 2`, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.arc import AdaptiveRotatedConv
from models.layers.msrc import MsrcConfig, MultiScaleRotatedConv


@dataclass(frozen=True)
class DecoderConfig(MsrcConfig):
    """Which decoder, and its options."""

    decoder: Literal["plain", "arc", "msrc"] = "msrc"
    """Second convolution of a level: `plain` 3x3, `arc` rotated, `msrc` multi-scale rotated."""
    msrc_order: Literal["conv_first", "msrc_first"] = "conv_first"
    """`conv_first`: 3x3 convolution, then multi-scale block (released code); `msrc_first`: the reverse (paper)."""


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Bias-free 3x3 convolution, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def decoder_level(in_channels: int, hidden: int, *, config: DecoderConfig) -> nn.Sequential:
    """Build what one level applies to the concatenation: `(B, in_channels, H, W)` to `(B, hidden, H, W)`."""
    if config.decoder == "plain":
        return nn.Sequential(convolution(in_channels, hidden), convolution(hidden, hidden))
    if config.decoder == "arc":
        rotated = AdaptiveRotatedConv(hidden, hidden, num_kernels=config.arc_n)
        return nn.Sequential(
            convolution(in_channels, hidden), nn.Sequential(rotated, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
        )
    if config.msrc_order == "conv_first":
        return nn.Sequential(convolution(in_channels, hidden), MultiScaleRotatedConv(hidden, config))
    return nn.Sequential(MultiScaleRotatedConv(in_channels, config), convolution(in_channels, hidden))


class Decoder(nn.Module):
    """Upsample, concatenate the next shallower map, convolve; three times; then classify.

    Args:
        config: Which decoder.
        widths: `(C1, C2, C3, C4)`.
        num_classes: K.
    """

    def __init__(self, config: DecoderConfig, *, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        hidden = widths[3] // 2
        above = (widths[3], hidden, hidden)
        self.levels = nn.ModuleList(
            decoder_level(deep + skip, hidden, config=config) for deep, skip in zip(above, widths[2::-1], strict=True)
        )
        self.classify = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the four stage maps `(B, Ci, Hi, Wi)`, shallow first, to logits `(B, K, H1, W1)`."""
        y = maps[3]
        for level, skip in zip(self.levels, (maps[2], maps[1], maps[0]), strict=True):
            y = F.interpolate(y, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            y = level(torch.cat([y, skip], dim=1))
        logits: Tensor = self.classify(y)
        return logits
