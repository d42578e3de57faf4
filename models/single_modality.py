"""One modality alone: stem, plain vision transformer, pyramid, UPerNet; what fusion has to beat.

Source: the single-branch form of DF2RQ's published framework (https://github.com/I3ab/DF2RQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo
from models.layers.semantic_family import STEM_WIDTH, UPerNetModel, ViTFamilyConfig, stem
from models.vision import ViT


@dataclass(frozen=True)
class SingleModalityConfig(ViTFamilyConfig):
    """One branch on ViT-B/8; `modalities` holds the one that is read, or is empty for the dataset's first."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    stem: bool = True
    """1x1 convolutions before the ViT; false: its patch embedding reads the bands."""


@MODELS.register("single_modality")
class SingleModality(UPerNetModel):
    """One branch and the common heads."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="Single modality",
        paper="Baseline; framework of Feng et al., IEEE TGRS 2025, https://github.com/I3ab/DF2RQ",
        task="semantic",
        components={"stem": False},
        note="Re-implementation of the published single-branch framework, with the pyramid of the fused models.",
    )
    Config: ClassVar[type[Any]] = SingleModalityConfig

    def __init__(self, config: SingleModalityConfig, inputs: Inputs) -> None:
        if len(config.modalities) > 1:
            raise HarnessError(f"model.modalities of single_modality must be one name; received {config.modalities}")
        super().__init__(config, inputs)
        name, bands = next(iter(self.modalities.items()))
        self.modalities = {name: bands}
        self.stem = stem(bands) if config.stem else nn.Identity()
        self.trunk = ViT(config.trunk, image_size=inputs.image_size, channels=STEM_WIDTH if config.stem else bands)

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map one image `(B, C, H, W)` to four maps `(B, D, h, w)`."""
        maps: list[Tensor] = self.trunk(self.stem(images[0]))
        return maps
