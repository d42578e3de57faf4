"""CMNeXt: a pyramid transformer for the primary modality, one light branch for all others, meeting after every stage.

Source: Zhang et al., CVPR 2023, https://arxiv.org/abs/2303.01480, re-implemented from a specification, with PVT v2
(https://arxiv.org/abs/2106.13797) in place of MiT, which has the same widths.

Shapes: `B` images, `M` secondary modalities, `C` channels, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput
from models.layers.cross_modal import STRIDE, CrossModalConfig, Meeting, MlpHead
from models.layers.semantic_family import SemanticModel
from models.vision import PyramidViT

POOLS = (3, 7, 11)
MLP_RATIOS = (8, 8, 4, 4)
START_SCALE = 1e-2


@dataclass(frozen=True)
class CmnextConfig(CrossModalConfig):
    """CMNeXt with the widths of MiT-B2."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    scorer: bool = True
    """Whether every secondary map is amplified where a scorer finds it informative, before the maximum."""
    pooled_attention: bool = True
    """Whether the light branch has its blocks of parallel pooling."""


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `(B, C, H, W)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel."""
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class PooledAttention(nn.Module):
    """Gate by pooling of several sizes, mix channels; then a convolutional MLP; both added with a small scale."""

    def __init__(self, channels: int, *, ratio: int) -> None:
        super().__init__()
        C = channels
        self.norm1, self.norm2 = ChannelNorm(C), ChannelNorm(C)
        self.near, self.gate = nn.Conv2d(C, C, 7, padding=3, groups=C), nn.Conv2d(C, C, 1)
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.enter = nn.Conv2d(C, ratio * C, 1)
        self.depthwise = nn.Conv2d(ratio * C, ratio * C, 3, padding=1, groups=ratio * C)
        self.leave = nn.Conv2d(ratio * C, C, 1)
        self.scale1 = nn.Parameter(torch.full((C, 1, 1), START_SCALE))
        self.scale2 = nn.Parameter(torch.full((C, 1, 1), START_SCALE))

    def attend(self, x: Tensor) -> Tensor:
        """Gated and channel-mixed `(B, C, H, W)`."""
        near = self.near(x)
        pooled = [F.avg_pool2d(near, k, 1, k // 2, count_include_pad=False) for k in POOLS]
        gated = x + self.gate(near + torch.stack(pooled).sum(dim=0)).sigmoid() * x
        # B C -> B 1 C -> B C 1 1
        shares = self.mix(gated.mean(dim=(2, 3))[:, None]).sigmoid()[:, 0, :, None, None]
        y: Tensor = gated * shares
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same."""
        x = x + self.scale1 * self.attend(self.norm1(x))
        inner = F.gelu(self.depthwise(self.enter(self.norm2(x))))
        y: Tensor = x + self.scale2 * self.leave(inner)
        return y


class LightStage(nn.Module):
    """One stage of the secondary modalities: own patch embeddings and scorers, maximum, common blocks."""

    def __init__(self, config: CmnextConfig, *, stage: int, bands: Sequence[int]) -> None:
        super().__init__()
        C = config.backbone.widths[stage]
        kernel, stride = (7, 4) if stage == 0 else (3, 2)
        self.enter = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b, C, kernel, stride, kernel // 2), ChannelNorm(C)) for b in bands
        )
        self.scorers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(C, C, 3, padding=1, groups=C), nn.Conv2d(C, 1, 1), nn.Sigmoid())
            for _ in (bands if config.scorer else ())
        )
        depth = config.backbone.depths[stage] if config.pooled_attention else 0
        self.blocks = nn.Sequential(*(PooledAttention(C, ratio=MLP_RATIOS[stage]) for _ in range(depth)))

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """M maps of the stage before to M maps `(B, C, H, W)` and their common one."""
        own = [module(x) for module, x in zip(self.enter, maps, strict=True)]
        if len(self.scorers):
            own = [x + scorer(x) * x for scorer, x in zip(self.scorers, own, strict=True)]
        return own, self.blocks(torch.stack(own).amax(dim=0))


@MODELS.register("cmnext")
class CMNeXt(SemanticModel):
    """A primary and a light branch that meet after each of four stages, and an all-MLP head."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="CMNeXt",
        paper="Zhang et al., CVPR 2023, https://arxiv.org/abs/2303.01480",
        task="semantic",
        components={"rectify": False, "fusion": "sum", "scorer": False, "pooled_attention": False},
        note="Re-implementation with PVT v2 in place of MiT, no pretrained weights; the first modality is primary.",
    )
    Config: ClassVar[type[Any]] = CmnextConfig
    config: CmnextConfig

    def __init__(self, config: CmnextConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, multiple=STRIDE)
        primary, *others = self.modalities.values()
        if not others:
            raise HarnessError(
                f"cmnext reads at least two modalities, received {', '.join(self.modalities)}; use single_modality"
            )
        self.primary = PyramidViT(config.backbone, bands=primary)
        bands = [others] + [[c] * len(others) for c in config.backbone.widths[:3]]
        self.secondary = nn.ModuleList(LightStage(config, stage=i, bands=b) for i, b in enumerate(bands))
        self.meetings = nn.ModuleList(Meeting(config, stage=stage) for stage in range(4))
        self.head = MlpHead(config, num_classes=inputs.num_classes)

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Map images `(B, Cm, H, W)`, the primary one first, to logits at a quarter of the size."""
        a, *others = images
        fused = []
        for index, (light, meeting) in enumerate(zip(self.secondary, self.meetings, strict=True)):
            own, common = light(others)
            a, b, both = meeting(self.primary.stage(index, a), common)
            others = [x + b for x in own]
            fused.append(both)
        return ModelOutput(self.head(fused))
