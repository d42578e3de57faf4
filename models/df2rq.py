"""DF2RQ: dynamic feature fusion by region-wise queries for multimodal semantic segmentation.

Source: Feng, Li, Zhang and Wang, IEEE TGRS 63, 2025, https://doi.org/10.1109/TGRS.2025.3526247. Published are the
stems, the trunk, the concat fuser, the pyramid and the heads (https://github.com/I3ab/DF2RQ); the two modules SR and DF
are not, and here are our design after the abstract (`models.layers.region_query`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput
from models.layers.modality_fusers import ConcatFuser, MeanFuser
from models.layers.region_query import (
    FusionMaps,
    RegionQueryConfig,
    RegionQueryFuser,
    region_foreground_loss,
)
from models.layers.semantic_family import Branches, UPerNetModel, ViTFamilyConfig


@dataclass(frozen=True)
class Df2rqConfig(ViTFamilyConfig, RegionQueryConfig):
    """DF2RQ on ViT-B/8."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fusion: Literal["queries", "concat", "sum"] = "queries"
    """`queries`: SR and DF as switched; `concat`: the published fuser; `sum`: mean over modalities."""
    shared_trunk: bool = True
    """One ViT for all modalities, or one each."""
    taps: Literal["all", "last"] = "all"
    """Maps that are fused by `fusion`; `last`: the others by their mean."""
    region_loss: float = 0.0
    """Weight of the region-foreground loss, at least 0; our addition, 0.1 in the ablation, not part of DF2RQ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.region_loss < 0 or (self.region_loss and not (self.fusion == "queries" and self.reconstruction)):
            raise HarnessError(
                "model.region_loss must be at least 0, and 0 without fusion: queries and reconstruction: true, whose "
                f"memberships it judges; received {self.region_loss}"
            )


class ExplainedOutput(NamedTuple):
    """A forward pass and what the fusers decided in it."""

    output: ModelOutput
    fusion: tuple[FusionMaps, ...]
    """Per map that queries fused, in the order of the trunk; carries gradients."""


@MODELS.register("df2rq")
class DF2RQ(UPerNetModel):
    """Stems, ViT, four fusers by region queries, pyramid, UPerNet and FCN heads."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="DF2RQ",
        paper="Feng et al., IEEE TGRS 2025, https://doi.org/10.1109/TGRS.2025.3526247",
        task="semantic",
        components={
            "reconstruction": False,
            "dynamic_fusion": False,
            "reference": "fixed",
            "fusion": "concat",
        },
        note="Re-implementation; SR and DF are our design after the abstract: the authors' modules are not public.",
    )
    Config: ClassVar[type[Any]] = Df2rqConfig
    slow_layers: ClassVar[tuple[str, ...]] = ("reference", "shared_reference", "offsets")
    config: Df2rqConfig

    def __init__(self, config: Df2rqConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.branches = Branches(
            config.trunk, modalities=self.modalities, image_size=inputs.image_size, shared=config.shared_trunk
        )
        kinds = [config.fusion if config.taps == "all" or tap == 3 else "sum" for tap in range(4)]
        self.fusers = nn.ModuleList(self._fuser(kind) for kind in kinds)

    def _fuser(self, kind: str) -> nn.Module:
        width, num_modalities = self.config.trunk.width, len(self.modalities)
        if kind == "sum":
            return MeanFuser()
        if kind == "concat":
            return ConcatFuser(width, num_modalities=num_modalities)
        return RegionQueryFuser(self.config, channels=width, num_modalities=num_modalities)

    def _fuse(self, images: Sequence[Tensor]) -> tuple[list[Tensor], tuple[FusionMaps, ...]]:
        fused, decided = [], []
        for fuser, maps in zip(self.fusers, self.branches(images), strict=True):
            if isinstance(fuser, RegionQueryFuser):
                y, how = fuser(maps)
                decided.append(how)
            else:
                y = fuser(maps)
            fused.append(y)
        return fused, tuple(decided)

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        return self._fuse(images)[0]

    def _penalty(self, fusion: Sequence[FusionMaps], target: Tensor) -> Tensor:
        """Weighted mean over the fused maps; what padding added to the images counts nowhere."""
        sizes = {"num_classes": self.inputs.num_classes, "multiple": self.multiple}
        losses = [region_foreground_loss(maps, target, **sizes) for maps in fusion]
        return self.config.region_loss * torch.stack(losses).mean()

    def explain(self, batch: Mapping[str, Tensor]) -> ExplainedOutput:
        """A forward pass that also returns weights, reference positions and memberships of every fused map."""
        maps, decided = self._fuse(self.read(batch))
        output = self.finish(self.decode(maps), batch)
        if self.training and self.config.region_loss and "target" in batch:
            output = output._replace(penalty=self._penalty(decided, batch["target"]))
        return ExplainedOutput(output, decided)

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment modalities `(B, Cm, H, W)`; in training with `region_loss`, `target (B, H, W)` gives the penalty."""
        return self.explain(batch).output
