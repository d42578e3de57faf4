"""RMSIN: rotated multi-scale interaction network for referring remote-sensing segmentation.

Source: Liu et al., CVPR 2024, https://arxiv.org/abs/2312.12470, re-implemented from a specification of the released
code. Differences from that code: the visual branch and the gates of the last stage, whose output nothing reads, are not
built, and cross-scale interaction takes any image size and Swin width, not 480x480 and Swin-B alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.base import MODELS, ModelInfo
from models.layers.lavt_family import LavtFamilyConfig, LavtFamilyModel


@dataclass(frozen=True)
class RmsinConfig(LavtFamilyConfig):
    """RMSIN as released: the family without noise, with a sum as fusion and one rotated convolution per level."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fusion: Literal["sum", "correlation"] = "sum"
    """See `LanguageSwinConfig`."""
    noise: bool = False
    """See `LanguageSwinConfig`."""
    decoder: Literal["plain", "arc", "msrc"] = "arc"
    """See `DecoderConfig`."""


@MODELS.register("rmsin")
class RMSIN(LavtFamilyModel):
    """Language-aware Swin with a visual branch per stage, cross-scale interaction and a rotated decoder."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="RMSIN",
        paper="Liu et al., CVPR 2024, https://arxiv.org/abs/2312.12470",
        task="referring",
        components={"visual_branch": False, "cim": False, "decoder": "plain"},
        note="Re-implementation; parts of the released code that cannot influence the output are not built.",
    )
    Config: ClassVar[type[Any]] = RmsinConfig
