"""The family of LAVT, RMSIN, MAFN and LGCE: BERT, a Swin that reads the sentence at every stage, a top-down decoder.

Sources: LAVT (Yang et al., CVPR 2022, https://arxiv.org/abs/2112.02244), RMSIN (Liu et al., CVPR 2024,
https://arxiv.org/abs/2312.12470), MAFN (Shi and Zhang, GRSL 2025, https://arxiv.org/abs/2503.11183), whose published
code is one code base. The models differ in the defaults of one configuration; LGCE adds a module before the decoder.

Shapes: `B` images, `H W` pixels, `Ci Hi Wi` maps of stage i, `T` tokens, `D` text width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import FeaturePoint, Inputs, ModelOutput, ParameterGroup, SegmentationModel
from models.layers.decoder import Decoder, DecoderConfig
from models.layers.language_swin import LanguageSwin, LanguageSwinConfig
from models.text import TextConfig, TextEncoder
from models.vision import load_swin_weights

FEATURE_POINTS: Mapping[str, FeaturePoint] = {
    **{f"words {i}": FeaturePoint(f"backbone.stages.{i - 1}.pwam", "B N C") for i in (1, 2, 3, 4)},
    **{f"visual {i}": FeaturePoint(f"backbone.stages.{i - 1}.fusion.visual_gate", "B H W C") for i in (1, 2, 3, 4)},
    **{f"fused {i}": FeaturePoint(f"backbone.stages.{i - 1}.fusion", "B H W C") for i in (1, 2, 3, 4)},
    **{f"scales {i}": FeaturePoint(f"backbone.cim.gates.{i - 1}", "B C H W") for i in (1, 2, 3, 4)},
    **{f"decoder {i}": FeaturePoint(f"decoder.levels.{3 - i}", "B C H W") for i in (3, 2, 1)},
}
"""Per stage: pixel-word attention, gated visual branch, what they become, cross-scale interaction, decoder level."""


@dataclass(frozen=True)
class LavtFamilyConfig(LanguageSwinConfig, DecoderConfig):
    """Every switch of the family; the defaults are MAFN as released, for images of 480x480."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder."""
    weights: str | None = None
    """File of `harness convert` with the initial weights of the whole model; `backbone.pretrained` is then not read."""

    def __post_init__(self) -> None:
        LanguageSwinConfig.__post_init__(self)
        DecoderConfig.__post_init__(self)


def load_converted(model: nn.Module, source: str) -> None:
    """Fill a model with weights that `harness convert` has written, in place.

    Raises:
        HarnessError: The file is missing or unreadable, or is not of exactly this model.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise HarnessError(f"weights must be a file written by `harness convert`; {path} is missing")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise HarnessError(f"weights must be a readable file of tensors; {path}: {reason}") from error
    try:
        model.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise HarnessError(
            f"weights must be of the model with exactly these settings, from `harness convert`; {path}: {reason}"
        ) from error


class LavtFamilyModel(SegmentationModel):
    """Text encoder, language-aware backbone, decoder.

    Args:
        config: Switches.
        inputs: Images of modality `image`; their size fixes the grid of the cross-scale interaction.
    """

    feature_points: ClassVar[Mapping[str, FeaturePoint]] = FEATURE_POINTS
    config: LavtFamilyConfig

    def __init__(self, config: LavtFamilyConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.text = TextEncoder(
            config.text, vocab_size=inputs.vocab_size or config.text.vocab_size, pad_id=inputs.pad_id
        )
        self.backbone = LanguageSwin(
            config, bands=inputs.modalities["image"], text_width=self.text.width, image_size=inputs.image_size
        )
        self.refine = self.build_refinement(config)
        self.decoder = Decoder(config, widths=config.backbone.widths, num_classes=inputs.num_classes)
        if config.weights is not None:
            load_converted(self, config.weights)
        elif config.backbone.pretrained is not None:
            load_swin_weights(self.backbone, config.backbone.pretrained)

    def build_refinement(self, config: LavtFamilyConfig) -> nn.Module | None:  # noqa: ARG002 - for subclasses
        """What works on the maps before the decoder: a module of `(maps, words)`, or None."""
        return None

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment `image (B, 3, H, W)` by `tokens (B, T)` and `token_mask (B, T)`; logits are `(B, K, H, W)`."""
        image, mask = batch["image"], batch["token_mask"]
        words = self.text(batch["tokens"], mask)
        maps: Sequence[Tensor] = self.backbone(image, words, mask)
        if self.refine is not None:
            maps = self.refine(maps, words)
        logits = self.decoder(maps)
        return ModelOutput(F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=True))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of the published recipe: norms and position tables of the backbone undecayed, then the rest."""
        undecayed = list(self.backbone.undecayed_parameters())
        seen = {id(p) for p in undecayed}
        head = [p for name, p in self.named_parameters() if name.startswith(("refine.", "decoder."))]
        groups = [
            ParameterGroup(undecayed, 0.0),
            ParameterGroup([p for p in self.backbone.parameters() if id(p) not in seen], None),
            ParameterGroup(head, None),
            ParameterGroup([p for p in self.text.parameters() if p.requires_grad], None),
        ]
        return [group for group in groups if group.parameters]
