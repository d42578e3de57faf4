"""Early fusion: all bands of all modalities as one image for one network.

Source: the customary baseline, on the framework of DF2RQ (https://github.com/I3ab/DF2RQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.base import MODELS, Inputs, ModelInfo
from models.layers.semantic_family import STEM_WIDTH, UPerNetModel, ViTFamilyConfig, stem
from models.vision import ViT


@dataclass(frozen=True)
class EarlyFusionConfig(ViTFamilyConfig):
    """One branch on ViT-B/8."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    stem: bool = True
    """1x1 convolutions before the ViT, as in the models beside it; false: its patch embedding reads all bands."""


@MODELS.register("early_fusion")
class EarlyFusion(UPerNetModel):
    """Concatenated bands, one branch and the common heads."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="Early fusion",
        paper="Baseline; framework of Feng et al., IEEE TGRS 2025, https://github.com/I3ab/DF2RQ",
        task="semantic",
        components={"stem": False},
        note="Our baseline: all bands concatenated before the stem of the published framework.",
    )
    Config: ClassVar[type[Any]] = EarlyFusionConfig

    def __init__(self, config: EarlyFusionConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        bands = sum(self.modalities.values())
        self.stem = stem(bands) if config.stem else nn.Identity()
        self.trunk = ViT(config.trunk, image_size=inputs.image_size, channels=STEM_WIDTH if config.stem else bands)

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        maps: list[Tensor] = self.trunk(self.stem(torch.cat(list(images), dim=1)))
        return maps
