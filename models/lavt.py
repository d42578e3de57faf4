"""LAVT: language-aware vision transformer for referring image segmentation.

Source: Yang et al., CVPR 2022, https://arxiv.org/abs/2112.02244, re-implemented from a specification of the released
code. Differences from that code: the gate of the last stage, whose output nothing reads, is not built. Like the code,
and unlike the paper, pixel-word attention uses GELU (`pwam_act`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.base import MODELS, ModelInfo
from models.layers.lavt_family import LavtFamilyConfig, LavtFamilyModel


@dataclass(frozen=True)
class LavtConfig(LavtFamilyConfig):
    """LAVT as released: the family with a sum of gated language features, and a plain decoder."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fusion: Literal["sum", "correlation"] = "sum"
    """See `LanguageSwinConfig`."""
    noise: bool = False
    """See `LanguageSwinConfig`."""
    visual_branch: bool = False
    """See `LanguageSwinConfig`."""
    cim: bool = False
    """See `LanguageSwinConfig`."""
    decoder: Literal["plain", "arc", "msrc"] = "plain"
    """See `DecoderConfig`."""


@MODELS.register("lavt")
class LAVT(LavtFamilyModel):
    """Language-aware Swin whose stages add what the words said, and a plain top-down decoder."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="LAVT",
        paper="Yang et al., CVPR 2022, https://arxiv.org/abs/2112.02244",
        task="referring",
        components={"language_pathway": False, "language_gate": False},
        note="Re-implementation; parts of the released code that cannot influence the output are not built.",
    )
    Config: ClassVar[type[Any]] = LavtConfig
