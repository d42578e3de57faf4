"""What the multimodal segmentation models share: choice of modalities, stems, padding, pyramid, UPerNet and FCN heads.

Source: the published framework of DF2RQ (Feng et al., IEEE TGRS 2025, https://github.com/I3ab/DF2RQ): one stem of 1x1
convolutions per modality, a plain ViT with maps after each quarter of its blocks, fusion of each map over modalities,
pyramid, heads.

Shapes: `B` images, `M` modalities, `C` channels, `H W` pixels, `D` ViT width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import Inputs, ModelOutput, ParameterGroup, SegmentationModel
from models.layers.backbone_sizes import ViTConfig
from models.layers.semantic_heads import HeadConfig, Pyramid, UPerNet, fcn_head, resize
from models.vision import ViT

STEM_WIDTH = 32
MANY_BANDS = 64
"""From this number of bands on, a stem reduces them in two steps."""
SLOW_RATE = 0.1
"""Share of the learning rate that slow layers learn at."""
TABLES = ("pos_embed", "cls_token", "modality_vectors", "weight_tokens", "bias_token", "query_vector")
"""Last parts of the names of learned vectors, which are not decayed."""


@dataclass(frozen=True)
class SemanticConfig:
    """What every multimodal model can be told."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    modalities: tuple[str, ...] = ()
    """Modalities that the model reads, by name; empty reads all that the dataset has."""


@dataclass(frozen=True)
class ViTFamilyConfig(SemanticConfig):
    """A model on plain ViT maps with a UPerNet head."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    trunk: ViTConfig = field(default_factory=ViTConfig)
    """The transformer."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """The heads."""


def choose_modalities(config: SemanticConfig, inputs: Inputs) -> dict[str, int]:
    """Modality -> bands of what the model reads, in the configured order.

    Raises:
        HarnessError: A name is not in the dataset, or is given twice.
    """
    names = config.modalities or tuple(inputs.modalities)
    if not names or len(set(names)) < len(names) or not set(names) <= set(inputs.modalities):
        raise HarnessError(
            f"model.modalities must be different names out of {', '.join(inputs.modalities)}; received {list(names)}"
        )
    return {name: inputs.modalities[name] for name in names}


def stem(bands: int) -> nn.Sequential:
    """1x1 convolutions, each with batch norm and ReLU: `(B, bands, H, W)` to `(B, 32, H, W)`."""
    layers: list[nn.Module] = []
    before = bands
    for width in (MANY_BANDS if bands >= MANY_BANDS else STEM_WIDTH, STEM_WIDTH):
        conv = nn.Conv2d(before, width, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)


class Branches(nn.Module):
    """One stem per modality and a shared or separate ViT: images to four maps per modality.

    Args:
        config: The transformer.
        modalities: Modality -> bands.
        image_size: Height and width in pixels.
        shared: Whether all modalities go through one ViT.
    """

    def __init__(self, config: ViTConfig, *, modalities: Mapping[str, int], image_size: int, shared: bool) -> None:
        super().__init__()
        self.stems = nn.ModuleList(stem(bands) for bands in modalities.values())
        count = 1 if shared else len(modalities)
        self.trunks = nn.ModuleList(ViT(config, image_size=image_size, channels=STEM_WIDTH) for _ in range(count))

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """Map M images `(B, Cm, H, W)` to four lists of M maps `(B, D, h, w)`."""
        entered = [module(image) for module, image in zip(self.stems, images, strict=True)]
        if len(self.trunks) == 1:
            # M of B C H W -> M*B C H W
            maps = self.trunks[0](torch.cat(entered))
            return [list(x.chunk(len(entered))) for x in maps]
        separate = [trunk(x) for trunk, x in zip(self.trunks, entered, strict=True)]
        return [list(taps) for taps in zip(*separate, strict=True)]


class SemanticModel(SegmentationModel):
    """Pads images to whole patches, calls `segment`, crops; parameters by the published decay rule.

    Args:
        config: Which modalities.
        inputs: Bands of the modalities.
        multiple: Height and width are padded to a multiple of this many pixels.
    """

    slow_layers: ClassVar[tuple[str, ...]] = ()
    """Names of submodules that learn at a tenth of the rate, undecayed."""

    def __init__(self, config: SemanticConfig, inputs: Inputs, *, multiple: int) -> None:
        super().__init__(config, inputs)
        self.modalities = choose_modalities(config, inputs)
        self.multiple = multiple

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Map M images `(B, Cm, H, W)` to logits of any size; auxiliary logits in training mode."""
        raise NotImplementedError

    def read(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """The chosen modalities, edges repeated to the right and below up to a multiple of the patch."""
        images = [batch[name] for name in self.modalities]
        h, w = images[0].shape[2:]
        below, right = -h % self.multiple, -w % self.multiple
        if not (below or right):
            return images
        return [F.pad(image, (0, right, 0, below), mode="replicate") for image in images]

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment modalities `(B, Cm, H, W)`; logits and auxiliary logits are `(B, K, H, W)`."""
        return self.finish(self.segment(self.read(batch)), batch)

    def finish(self, output: ModelOutput, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Logits at the size of the images of the batch."""
        h, w = batch[next(iter(self.modalities))].shape[2:]
        padded = (h + -h % self.multiple, w + -w % self.multiple)
        logits, *auxiliary = (resize(x, padded)[..., :h, :w] for x in (output.logits, *output.auxiliary))
        return output._replace(logits=logits, auxiliary=tuple(auxiliary))

    def parameter_groups(self) -> list[ParameterGroup]:
        """Matrices and kernels decayed; vectors and tables not; slow layers at a tenth of the rate, ViTs by depth."""
        rates = {id(p): rate for vit in self.modules() if isinstance(vit, ViT) for p, rate in vit.layer_rates()}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, p in self.named_parameters():
            parts = name.split(".")
            if not p.requires_grad:
                continue
            slow = any(part in self.slow_layers for part in parts)
            undecayed = slow or p.ndim < 2 or parts[-1] in TABLES
            rate = rates.get(id(p), 1.0) * (SLOW_RATE if slow else 1.0)
            groups.setdefault((rate, undecayed), []).append(p)
        return [
            ParameterGroup(groups[rate, undecayed], 0.0 if undecayed else None, rate)
            for rate, undecayed in sorted(groups, key=lambda key: (-key[0], key[1]))
        ]


class UPerNetModel(SemanticModel):
    """Four maps of one stride through pyramid and heads; subclasses make the maps in `fused_maps`.

    Args:
        config: Trunk and heads.
        inputs: Modalities and classes.
    """

    config: ViTFamilyConfig

    def __init__(self, config: ViTFamilyConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs, multiple=config.trunk.patch)
        width, num_classes = config.trunk.width, inputs.num_classes
        self.pyramid = Pyramid(width)
        self.head = UPerNet(config.head, channels=[width] * 4, num_classes=num_classes)
        self.auxiliary = (
            fcn_head(config.head, channels=width, num_classes=num_classes) if config.head.auxiliary_width else None
        )

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        raise NotImplementedError

    def segment(self, images: Sequence[Tensor]) -> ModelOutput:
        """Logits of the heads, at four times the size of the maps; the auxiliary ones at their size."""
        return self.decode(self.fused_maps(images))

    def decode(self, maps: Sequence[Tensor]) -> ModelOutput:
        """Logits of four fused maps `(B, D, h, w)`."""
        levels = self.pyramid(maps)
        auxiliary = (self.auxiliary(levels[2]),) if self.training and self.auxiliary is not None else ()
        return ModelOutput(self.head(levels), auxiliary)
