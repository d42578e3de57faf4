"""MCANet: two ResNets, joint self-attention of both modalities at two depths, a DeepLabv3+ decoder.

Source: Li et al., Int. J. Applied Earth Observation and Geoinformation 106, 2022,
https://doi.org/10.1016/j.jag.2021.102638, re-implemented from a specification. Ours: keys and values are pooled at the
low level, scores are scaled, rows of the joint attention sum to one.

Shapes: `B` images, `C` channels, `H W` pixels, `N` queries, `S` keys, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput
from models.layers.backbone_sizes import StridedResNetConfig
from models.layers.semantic_family import SemanticConfig, SemanticModel
from models.layers.semantic_heads import as_map, convolution, resize
from models.vision import StridedResNet

STRIDE = 16
RATES = (6, 12, 18)
LOW_POOLING = 4
LOW_WIDTH = 48


@dataclass(frozen=True)
class McanetConfig(SemanticConfig):
    """MCANet with two ResNet-101."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backbone: StridedResNetConfig = field(default_factory=StridedResNetConfig)
    """The ResNet of a branch."""
    joint_attention: bool = True
    """Whether the joint attention of both modalities is built; false: the decoder reads their concatenation."""
    width: int = 256
    """Channels of the decoder, at least 1."""


class JointSide(nn.Module):
    """One modality's attention map and values; a key's bias could not influence anything and is not built."""

    def __init__(self, channels: int, *, pooling: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.pooling, self.scale = pooling, 1 / math.sqrt(inner)
        self.theta, self.g = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the attention `(B, N, S)` and values `(B, S, C / 2)` of `x (B, C, H, W)`."""
        kernel = (min(self.pooling, x.shape[2]), min(self.pooling, x.shape[3]))
        fewer = F.max_pool2d(x, kernel)
        scores = self.theta(x).flatten(2).transpose(1, 2) @ self.phi(fewer).flatten(2) * self.scale
        return scores.log_softmax(dim=2), self.g(fewer).flatten(2).transpose(1, 2)


class JointAttention(nn.Module):
    """What both modalities attend to, read from both and multiplied; zero at the start."""

    def __init__(self, channels: int, *, pooling: int) -> None:
        super().__init__()
        self.first, self.second = JointSide(channels, pooling=pooling), JointSide(channels, pooling=pooling)
        self.leave = nn.Conv2d(max(1, channels // 2), channels, 1)
        for p in self.leave.parameters():
            nn.init.zeros_(p)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Map two maps `(B, C, H, W)` to one."""
        (map_a, values_a), (map_b, values_b) = self.first(a), self.second(b)
        # product of both maps with rows that sum to one: softmax of the sum of their logarithms
        joint = (map_a + map_b).softmax(dim=2)
        read = (joint @ values_a) * (joint @ values_b)
        y: Tensor = self.leave(as_map(read, a.shape[2:]))
        return y


class AtrousPooling(nn.Module):
    """1x1, three dilated 3x3 convolutions and the image's mean, joined (DeepLabv3, https://arxiv.org/abs/1706.05587)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.point, self.image = convolution(channels, width), convolution(channels, width)
        self.dilated = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for rate in RATES
        )
        self.join = convolution((2 + len(RATES)) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, width, H, W)`."""
        image = self.image(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        y: Tensor = self.join(torch.cat((self.point(x), *(branch(x) for branch in self.dilated), image), dim=1))
        return y


@MODELS.register("mcanet")
class MCANet(SemanticModel):
    """Two ResNets, joint attention at strides 4 and 16, atrous pooling, decoder."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="MCANet",
        paper="Li et al., JAG 2022, https://doi.org/10.1016/j.jag.2021.102638",
        task="semantic",
        components={"joint_attention": False},
        note="Re-implementation; pooled keys, scaled scores and renormalised rows are ours; two modalities.",
    )
    Config: ClassVar[type[Any]] = McanetConfig
    config: McanetConfig

    def __init__(self, config: McanetConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, multiple=STRIDE)
        if len(self.modalities) != 2:
            raise HarnessError(
                f"mcanet reads exactly two modalities, received {', '.join(self.modalities)}; choose two with "
                "model.modalities"
            )
        self.branches = nn.ModuleList(StridedResNet(config.backbone, bands=b) for b in self.modalities.values())
        low, high = config.backbone.widths
        parts, width = 3 if config.joint_attention else 2, config.width
        self.joint_low = JointAttention(low, pooling=LOW_POOLING) if config.joint_attention else None
        self.joint_high = JointAttention(high, pooling=1) if config.joint_attention else None
        self.aspp = AtrousPooling(parts * high, width)
        self.reduce = convolution(parts * low, LOW_WIDTH)
        self.decode = nn.Sequential(
            convolution(width + LOW_WIDTH, width, kernel=3),
            convolution(width, width, kernel=3),
            nn.Conv2d(width, inputs.num_classes, 1),
        )

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Map two images `(B, Cm, H, W)` to logits at a quarter of the size."""
        (low_a, high_a), (low_b, high_b) = (branch(x) for branch, x in zip(self.branches, images, strict=True))
        low, high = [low_a, low_b], [high_a, high_b]
        if self.joint_low is not None and self.joint_high is not None:
            low.append(self.joint_low(low_a, low_b))
            high.append(self.joint_high(high_a, high_b))
        deep = self.aspp(torch.cat(high, dim=1))
        near = self.reduce(torch.cat(low, dim=1))
        return ModelOutput(self.decode(torch.cat((resize(deep, near.shape[2:]), near), dim=1)))
