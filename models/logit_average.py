"""Logit averaging: one whole network per modality, trained together on the mean of their logits.

Source: the customary baseline, on the framework of DF2RQ (https://github.com/I3ab/DF2RQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from models.base import MODELS, Inputs, ModelInfo, ModelOutput
from models.layers.semantic_family import SemanticModel
from models.single_modality import SingleModality, SingleModalityConfig


@dataclass(frozen=True)
class LogitAverageConfig(SingleModalityConfig):
    """As one modality alone, once per modality; `modalities` holds all that are read, or is empty for all."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@MODELS.register("logit_average")
class LogitAverage(SemanticModel):
    """Branches that share nothing; logits and auxiliary logits are the means over them."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="Logit average",
        paper="Baseline; framework of Feng et al., IEEE TGRS 2025, https://github.com/I3ab/DF2RQ",
        task="semantic",
        components={"stem": False},
        note="Our baseline: the published single-branch framework once per modality, trained on the mean logits.",
    )
    Config: ClassVar[type[Any]] = LogitAverageConfig

    def __init__(self, config: LogitAverageConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, multiple=config.trunk.patch)
        self.branches = nn.ModuleList(
            SingleModality(
                SingleModalityConfig(modalities=(name,), trunk=config.trunk, head=config.head, stem=config.stem), inputs
            )
            for name in self.modalities
        )

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Mean logits of M images `(B, Cm, H, W)`, at four times the size of the ViT's maps."""
        branches = cast("Sequence[SingleModality]", self.branches)
        outputs = [branch.segment([image]) for branch, image in zip(branches, images, strict=True)]
        auxiliary = tuple(
            torch.stack(logits).mean(dim=0) for logits in zip(*(o.auxiliary for o in outputs), strict=True)
        )
        return ModelOutput(torch.stack([o.logits for o in outputs]).mean(dim=0), auxiliary)
