"""MAFN: multimodal-aware fusion network for referring remote-sensing segmentation.

Source: Shi and Zhang, IEEE GRSL 2025, https://arxiv.org/abs/2503.11183, re-implemented from a specification of the
released code; where paper and code differ, an option names both and the default is the code. Differences from the
released code: parts that cannot influence the output are neither built nor computed, the noise attention is computed
for the whole batch in closed form, and any image size and Swin width works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from models.base import MODELS, ModelInfo
from models.layers.lavt_family import LavtFamilyConfig, LavtFamilyModel


@dataclass(frozen=True)
class MafnConfig(LavtFamilyConfig):
    """MAFN as released."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


@MODELS.register("mafn")
class MAFN(LavtFamilyModel):
    """Language-aware Swin with adaptive noise, correlation-aware fusion and a multi-scale rotated decoder."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="MAFN",
        paper="Shi and Zhang, IEEE GRSL 2025, https://arxiv.org/abs/2503.11183",
        task="referring",
        components={"fusion": "sum", "noise": False, "decoder": "arc", "cim": False, "visual_branch": False},
        note="Re-implementation; parts of the released code that cannot influence the output are not built.",
    )
    Config: ClassVar[type[Any]] = MafnConfig
