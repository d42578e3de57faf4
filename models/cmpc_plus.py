"""CMPC+: CMPC whose levels also pass on the entity map, the entity vector and the grid of positions.

Source: Liu et al., TPAMI 2021, https://arxiv.org/abs/2105.07175, image version, re-implemented from a specification of
the released TensorFlow code. Differences from that code are those of `models/cmpc.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from models.base import MODELS, ModelInfo
from models.cmpc import CMPC, COMPONENTS, CmpcConfig


@dataclass(frozen=True)
class CmpcPlusConfig(CmpcConfig):
    """CMPC+; the defaults are the released code's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cmpc_concat: Literal["plus", "cvpr"] = "plus"
    """See `CmpcLevelConfig`; this is the only difference between CMPC and CMPC+."""


@MODELS.register("cmpc_plus")
class CMPCPlus(CMPC):
    """CMPC with the released code's concatenation."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="CMPC+",
        paper="Liu et al., TPAMI 2021, https://arxiv.org/abs/2105.07175",
        task="referring",
        components=COMPONENTS,
        note="Re-implementation of the image version on an ImageNet ResNet-101.",
    )
    Config: ClassVar[type[Any]] = CmpcPlusConfig
