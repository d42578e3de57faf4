"""Late concatenation: one branch per modality, features of four depths concatenated and mixed; DF2RQ as published.

Source: the released code of DF2RQ (https://github.com/I3ab/DF2RQ), which holds this fuser and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo
from models.layers.modality_fusers import ConcatFuser, MeanFuser
from models.layers.semantic_family import Branches, UPerNetModel, ViTFamilyConfig


@dataclass(frozen=True)
class LateConcatConfig(ViTFamilyConfig):
    """The published framework on ViT-B/8."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fusion: Literal["concat", "sum"] = "concat"
    """The published fuser, or the mean over modalities."""
    shared_trunk: bool = True
    """One ViT for all modalities, or one each."""
    hidden: int | None = None
    """Width inside the fuser, at least 1; null is the ViT's; `matched_hidden` gives that of a control."""

    def __post_init__(self) -> None:
        if self.hidden is not None and self.hidden < 1:
            raise HarnessError(f"model.hidden must be at least 1 or null; received {self.hidden}")


def matched_hidden(parameters: int, *, channels: int, num_modalities: int) -> int:
    """Width `hidden` at which one concat fuser has as many parameters as another fuser, to the nearest.

    Args:
        parameters: Of the other fuser, per map.
        channels: Of the ViT.
        num_modalities: At least 2.
    """
    return max(1, round((parameters - channels) / ((num_modalities + 1) * channels + 1)))


@MODELS.register("late_concat")
class LateConcat(UPerNetModel):
    """Stems, ViT, four concat fusers and the common heads."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="Late concat",
        paper="Baseline; released code of Feng et al., IEEE TGRS 2025, https://github.com/I3ab/DF2RQ",
        task="semantic",
        components={"fusion": "sum"},
        note="Re-implementation of the only fuser that DF2RQ's authors published.",
    )
    Config: ClassVar[type[Any]] = LateConcatConfig

    def __init__(self, config: LateConcatConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.branches = Branches(
            config.trunk, modalities=self.modalities, image_size=inputs.image_size, shared=config.shared_trunk
        )
        width, M = config.trunk.width, len(self.modalities)
        self.fusers = nn.ModuleList(
            ConcatFuser(width, num_modalities=M, hidden=config.hidden) if config.fusion == "concat" else MeanFuser()
            for _ in range(4)
        )

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        return [fuser(maps) for fuser, maps in zip(self.fusers, self.branches(images), strict=True)]
