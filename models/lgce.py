"""LGCE: LAVT with language-guided cross-scale enhancement of the two deep maps.

Source: Yuan et al., IEEE TGRS 2024, https://arxiv.org/abs/2306.08625. The authors published a training script without a
network, so this follows a specification of the network that a third party's code carries under LGCE's name: inferred,
not confirmed. Differences from it: parts without influence (the exchange of sentence tokens, modules of other level
pairs, patch embeddings, the last stage's gate) are not built; `lgce_exchange: effective` is our own reading of the
paper, in which the exchange has an effect. The official script selects on the test split and prints overall IoU - 1;
neither is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from models.base import MODELS, ModelInfo
from models.lavt import LavtConfig
from models.layers.lavt_family import LavtFamilyConfig, LavtFamilyModel
from models.layers.lgce import LanguageGuidance, LanguageGuidanceConfig


@dataclass(frozen=True)
class LgceConfig(LanguageGuidanceConfig, LavtConfig):
    """LAVT and the language-guided module."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        LavtConfig.__post_init__(self)
        self.require_fit(self.backbone.widths[2:])


@MODELS.register("lgce")
class LGCE(LavtFamilyModel):
    """LAVT whose maps of stages 3 and 4 attend together with a sentence token before the decoder."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="LGCE",
        paper="Yuan et al., IEEE TGRS 2024, https://arxiv.org/abs/2306.08625",
        task="referring",
        components={"language_guidance": False, "language_pathway": False, "language_gate": False},
        note="Re-implementation, inferred: the authors published no network; it follows a third party's, in which the "
        "cross-scale exchange has no influence. lgce_exchange: effective is our own reading of the paper.",
    )
    Config: ClassVar[type[Any]] = LgceConfig

    def build_refinement(self, config: LavtFamilyConfig) -> nn.Module | None:
        """The language-guided module, unless it is switched off."""
        if not isinstance(config, LgceConfig) or not config.language_guidance:
            return None
        return LanguageGuidance(config, widths=config.backbone.widths[2:], text_width=self.text.width)
