"""CMX: two pyramid transformers that rectify each other and are fused after every stage.

Source: Zhang et al., IEEE T-ITS 2023, https://arxiv.org/abs/2203.04838, re-implemented from a specification, with
PVT v2 (https://arxiv.org/abs/2106.13797) in place of MiT, which has the same widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput
from models.layers.cross_modal import STRIDE, CrossModalConfig, Meeting, MlpHead
from models.layers.semantic_family import SemanticModel
from models.vision import PyramidViT


@dataclass(frozen=True)
class CmxConfig(CrossModalConfig):
    """CMX with the widths of MiT-B2."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@MODELS.register("cmx")
class CMX(SemanticModel):
    """Two branches that meet after each of four stages, and an all-MLP head."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="CMX",
        paper="Zhang et al., IEEE T-ITS 2023, https://arxiv.org/abs/2203.04838",
        task="semantic",
        components={"rectify": False, "fusion": "sum"},
        note="Re-implementation with PVT v2 in place of MiT, without pretrained weights; two modalities.",
    )
    Config: ClassVar[type[Any]] = CmxConfig
    config: CmxConfig

    def __init__(self, config: CmxConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, multiple=STRIDE)
        if len(self.modalities) != 2:
            raise HarnessError(
                f"cmx reads exactly two modalities, received {', '.join(self.modalities)}; choose two with "
                "model.modalities, or use cmnext"
            )
        self.branches = nn.ModuleList(PyramidViT(config.backbone, bands=bands) for bands in self.modalities.values())
        self.meetings = nn.ModuleList(Meeting(config, stage=stage) for stage in range(4))
        self.head = MlpHead(config, num_classes=inputs.num_classes)

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Map two images `(B, Cm, H, W)` to logits at a quarter of the size."""
        a, b = images
        first, second = cast("Sequence[PyramidViT]", self.branches)
        fused = []
        for index, meeting in enumerate(self.meetings):
            a, b, both = meeting(first.stage(index, a), second.stage(index, b))
            fused.append(both)
        return ModelOutput(self.head(fused))
