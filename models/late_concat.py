"""Late concatenation: one branch per modality, features of four depths concatenated and mixed; DF2RQ as published.

Source: the released code of DF2RQ (https://github.com/I3ab/DF2RQ), which holds this fuser and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo
from models.layers.modality_fusers import ConcatFuser, MeanFuser
from models.layers.region_query import RegionQueryConfig, RegionQueryFuser
from models.layers.semantic_family import Branches, UPerNetModel, ViTFamilyConfig


@dataclass(frozen=True)
class LateConcatConfig(ViTFamilyConfig):
    """The published framework on ViT-B/8."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fusion: Literal["concat", "sum"] = "concat"
    """The published fuser, or the mean over modalities."""
    shared_trunk: bool = True
    """One ViT for all modalities, or one each."""
    hidden: int | Literal["df2rq"] | None = None
    """Width inside the fuser, at least 1; null is the ViT's; `df2rq` that with as many parameters as `queries`."""
    queries: RegionQueryConfig = field(default_factory=RegionQueryConfig)
    """DF2RQ's fuser that `hidden: df2rq` is as large as; without it, the defaults."""

    def __post_init__(self) -> None:
        if isinstance(self.hidden, int) and self.hidden < 1:
            raise HarnessError(f"model.hidden must be at least 1, df2rq or null; received {self.hidden}")
        if self.hidden != "df2rq" and self.queries != RegionQueryConfig():
            raise HarnessError("model.queries must be left out without hidden: df2rq, which alone reads it")


def matched_hidden(parameters: int, *, channels: int, num_modalities: int) -> int:
    """Width `hidden` at which one concat fuser has as many parameters as another fuser, to the nearest.

    Args:
        parameters: Of the other fuser, per map.
        channels: Of the ViT.
        num_modalities: At least 2.
    """
    return max(1, round((parameters - channels) / ((num_modalities + 1) * channels + 1)))


def hidden_width(config: LateConcatConfig, *, num_modalities: int) -> int | None:
    """Width inside each concat fuser, or None for the ViT's; of a control, from DF2RQ's own fuser.

    Raises:
        HarnessError: `hidden: df2rq` with one modality, which is not fused.
    """
    if config.hidden != "df2rq":
        return config.hidden
    if num_modalities < 2:
        raise HarnessError("model.hidden: df2rq needs at least 2 modalities; received 1, which has no concat fuser")
    with torch.device("meta"):
        other = RegionQueryFuser(config.queries, channels=config.trunk.width, num_modalities=num_modalities)
    parameters = sum(p.numel() for p in other.parameters())
    return matched_hidden(parameters, channels=config.trunk.width, num_modalities=num_modalities)


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
        hidden = hidden_width(config, num_modalities=M)
        self.fusers = nn.ModuleList(
            ConcatFuser(width, num_modalities=M, hidden=hidden) if config.fusion == "concat" else MeanFuser()
            for _ in range(4)
        )

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        return [fuser(maps) for fuser, maps in zip(self.fusers, self.branches(images), strict=True)]
