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
from models.layers.upsampled_conv import convolve_upsampled

_LEAST_NUMBERS = 2**18
"""Smaller maps are enlarged: nine small products take longer than one convolution of few channels."""


@dataclass(frozen=True)
class DecoderConfig(MsrcConfig):
    """Which decoder, and its options."""

    decoder: Literal["plain", "arc", "msrc"] = "msrc"
    """Second convolution of a level: `plain` 3x3, `arc` rotated, `msrc` multi-scale rotated."""
    msrc_order: Literal["conv_first", "msrc_first"] = "conv_first"
    """`conv_first`: 3x3 convolution, then multi-scale block (released code); `msrc_first`: the reverse (paper)."""


class Convolution(nn.Sequential):
    """Bias-free 3x3 convolution, batch norm, ReLU.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

    def join(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Return what `deep` enlarged to the size of `skip`, and `skip` give, without enlarging and concatenating."""
        weight = self.get_parameter("0.weight")
        y = F.conv2d(skip, weight[:, deep.shape[1] :], padding=1)
        enlarged = convolve_upsampled(deep, weight[:, : deep.shape[1]], size=(skip.shape[2], skip.shape[3]))
        joined: Tensor = self[2](self[1](y.add_(enlarged)))
        return joined


def second_block(hidden: int, *, config: DecoderConfig) -> nn.Module:
    """Build what a level applies after its 3x3 convolution: `(B, hidden, H, W)` to the same shape."""
    if config.decoder == "plain":
        return Convolution(hidden, hidden)
    if config.decoder == "arc":
        rotated = AdaptiveRotatedConv(hidden, hidden, num_kernels=config.arc_n)
        return nn.Sequential(rotated, nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
    return MultiScaleRotatedConv(hidden, config)


class DecoderLevel(nn.ModuleList):
    """Enlarge the deeper map, concatenate the shallower one, apply two blocks.

    Args:
        in_channels: Of both maps together.
        hidden: Channels of the output.
        config: Which blocks.
    """

    def __init__(self, in_channels: int, hidden: int, *, config: DecoderConfig) -> None:
        if config.decoder == "msrc" and config.msrc_order == "msrc_first":
            super().__init__([MultiScaleRotatedConv(in_channels, config), Convolution(in_channels, hidden)])
        else:
            super().__init__([Convolution(in_channels, hidden), second_block(hidden, config=config)])

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Map `deep (B, C, h, w)` and `skip (B, D, H, W)` to `(B, hidden, H, W)`."""
        first = self[0]
        if isinstance(first, Convolution) and _spares_time(deep, skip):
            y = first.join(deep, skip)
        else:
            enlarged = F.interpolate(deep, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            y = first(torch.cat([enlarged, skip], dim=1))
        out: Tensor = self[1](y)
        return out


def _spares_time(deep: Tensor, skip: Tensor) -> bool:
    """Whether enlarging after the convolution is quicker; measured on a CPU in training, and only there."""
    on_cpu = skip.device.type == "cpu" and skip.dtype != torch.bfloat16 and torch.is_grad_enabled()
    return on_cpu and not torch.is_autocast_enabled("cpu") and deep.numel() >= _LEAST_NUMBERS


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
            DecoderLevel(deep + skip, hidden, config=config) for deep, skip in zip(above, widths[2::-1], strict=True)
        )
        self.classify = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the four stage maps `(B, Ci, Hi, Wi)`, shallow first, to logits `(B, K, H1, W1)`."""
        y = maps[3].contiguous(memory_format=torch.channels_last)
        for level, skip in zip(self.levels, (maps[2], maps[1], maps[0]), strict=True):
            y = level(y, skip.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.classify(y)
        return logits
