"""MAFN: multimodal-aware fusion network for referring remote-sensing segmentation.

Source: Shi and Zhang, IEEE GRSL 2025, https://arxiv.org/abs/2503.11183, re-implemented from a specification of the
released code; where paper and code differ, an option names both and the default is the code. LAVT and RMSIN are other
settings of the same family.

Shapes: `B` images, `H W` pixels, `T` tokens, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from models.base import MODELS, Inputs, ModelInfo, ModelOutput, ParameterGroup, SegmentationModel
from models.layers.decoder import Decoder, DecoderConfig
from models.layers.language_swin import LanguageSwin, LanguageSwinConfig
from models.text import TextConfig, TextEncoder
from models.vision import load_swin_weights


@dataclass(frozen=True)
class MafnConfig(LanguageSwinConfig, DecoderConfig):
    """Every switch of the LAVT, RMSIN, MAFN family; the defaults are MAFN as released, for images of 480x480."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder."""

    def __post_init__(self) -> None:
        LanguageSwinConfig.__post_init__(self)
        DecoderConfig.__post_init__(self)


@MODELS.register("mafn")
class MAFN(SegmentationModel):
    """Language-aware Swin with adaptive noise, correlation-aware fusion and a multi-scale rotated decoder.

    Args:
        config: Switches.
        inputs: Images of modality `image`; their size fixes the grid of the cross-scale interaction.
    """

    info: ClassVar[ModelInfo] = ModelInfo(
        title="MAFN",
        paper="Shi and Zhang, IEEE GRSL 2025, https://arxiv.org/abs/2503.11183",
        task="referring",
        components={"fusion": "sum", "noise": False, "decoder": "arc", "cim": False, "visual_branch": False},
        note="Re-implementation; parts of the released code that cannot influence the output are not built.",
    )
    Config: ClassVar[type[Any]] = MafnConfig
    config: MafnConfig

    def __init__(self, config: MafnConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.text = TextEncoder(
            config.text, vocab_size=inputs.vocab_size or config.text.vocab_size, pad_id=inputs.pad_id
        )
        self.backbone = LanguageSwin(
            config, bands=inputs.modalities["image"], text_width=self.text.width, image_size=inputs.image_size
        )
        self.decoder = Decoder(config, widths=config.backbone.widths, num_classes=inputs.num_classes)
        if config.backbone.pretrained is not None:
            load_swin_weights(self.backbone, config.backbone.pretrained)

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment `image (B, 3, H, W)` by `tokens (B, T)` and `token_mask (B, T)`; logits are `(B, K, H, W)`."""
        image, mask = batch["image"], batch["token_mask"]
        words = self.text(batch["tokens"], mask)
        logits = self.decoder(self.backbone(image, words, mask))
        return ModelOutput(F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=True))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of the published recipe: norms and position tables of the backbone undecayed, then the rest."""
        undecayed = list(self.backbone.undecayed_parameters())
        seen = {id(p) for p in undecayed}
        groups = [
            ParameterGroup(undecayed, 0.0),
            ParameterGroup([p for p in self.backbone.parameters() if id(p) not in seen], None),
            ParameterGroup(list(self.decoder.parameters()), None),
            ParameterGroup([p for p in self.text.parameters() if p.requires_grad], None),
        ]
        return [group for group in groups if group.parameters]
