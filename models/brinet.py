"""BRINet: bi-directional relationship inferring network, a CNN and LSTM model for referring segmentation.

Source: Hu et al., CVPR 2020, https://openaccess.thecvf.com/content_CVPR_2020/html/\
Hu_Bi-Directional_Relationship_Inferring_Network_for_Referring_Image_Segmentation_CVPR_2020_paper.html, re-implemented
from a specification of the released TensorFlow code. Differences from it: batches of any size, padding at the right,
timm's ImageNet ResNet-101 instead of DeepLab's, RGB, half-pixel bilinear resizing. The sentence's part of the four
convolutions of `[sentence, map, grid]` is computed once per image, which is exact.

Shapes: `B` images, `C` channels of a level, `A` channels of the attention, `h w` the map at stride 8, `HW` its
positions, `H W` pixels, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput, ParameterGroup, SegmentationModel
from models.layers.language_cnn import (
    GRID_CHANNELS,
    LanguageCnn,
    LanguageCnnConfig,
    SumOfMaps,
    TiledConv,
    convolution_groups,
    map_side,
    require_positive,
    two_class_logits,
    xavier,
)
from models.words import WordsConfig

_ASPP_STD = 0.01


@dataclass(frozen=True)
class BrinetWordsConfig(WordsConfig):
    """The text encoder of BRINet, whose released code starts all words at random."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    dim: int = 1000
    """Embedding width, at least 1."""


@dataclass(frozen=True)
class BrinetConfig(LanguageCnnConfig):
    """BRINet; the defaults are the released code's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    text: BrinetWordsConfig = field(default_factory=BrinetWordsConfig)
    """Word embedding and tokens per sentence."""
    linguistic_attention: bool = True
    """Whether every position reads the words it asks for; without it every position reads the last LSTM state."""
    word_slots: Literal["all", "words"] = "all"
    """What a position chooses among: `all` `text.max_tokens` slots, empty ones being zero vectors (released code), or
    the `words` only."""
    visual_attention: bool = True
    """Whether positions attend to each other, guided by the words they read."""
    attention: Literal["code", "journal"] = "code"
    """The visual attention is normalised over the positions that receive (`code`) or that give (`journal`)."""
    attention_width: int = 500
    """Channels of the visual attention, at least 1."""
    aspp_rates: tuple[int, ...] = (1, 3, 5, 7)
    """Dilations of the parallel convolutions of a level, each at least 1; none switches them off."""
    aspp_width: int = 512
    """Channels of each of them, at least 1."""
    fusion: Literal["gated", "sum"] = "gated"
    """How the levels become one: gated in both directions, or added."""
    training_size: Literal["map", "image"] = "map"
    """Size of the logits in training: that of the levels (released code), or of the image."""

    def __post_init__(self) -> None:
        LanguageCnnConfig.__post_init__(self)
        require_positive(self, "attention_width", "aspp_width")
        if any(rate < 1 for rate in self.aspp_rates):
            raise HarnessError(f"aspp_rates must each be at least 1; received {list(self.aspp_rates)}")


class LinguisticAttention(nn.Module):
    """Vision-guided attention over words: `softmax_t(v . h_t)` weighs the words of every position.

    Args:
        num_slots: Word slots, empty ones included; None attends to words only.
    """

    def __init__(self, num_slots: int | None) -> None:
        super().__init__()
        self.num_slots = num_slots

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Read words.

        Args:
            x: `(B, C, h, w)`, what positions ask for.
            words: `(B, T, C)`.
            mask: `(B, T)` bool, true at words.

        Returns:
            `(B, C, h, w)`.
        """
        words = words * mask[..., None]
        scores = words @ x.flatten(2)  # B T HW
        scores = scores.masked_fill(~mask[..., None], -torch.inf)
        if self.num_slots is not None:
            # An empty slot scores 0 and adds nothing to what is read; how the batch is padded plays no part.
            num_empty = self.num_slots - mask.sum(1)
            empty = num_empty.to(scores.dtype).log()[:, None, None].expand(-1, 1, scores.shape[2])
            scores = torch.cat([scores, empty], dim=1)
        weights = scores.softmax(1)[:, : words.shape[1]]
        return (words.transpose(1, 2) @ weights).view_as(x)  # B C HW -> B C h w


class VisualAttention(nn.Module):
    """Language-guided attention over positions, with a learned vector per position.

    Args:
        config: Widths and which axis is normalised.
        num_positions: HW.
    """

    def __init__(self, config: BrinetConfig, num_positions: int) -> None:
        super().__init__()
        self.of_words = xavier(nn.Linear(config.width, config.attention_width, bias=False))
        self.of_map = xavier(nn.Linear(config.width, config.attention_width, bias=False))
        self.positions = nn.Parameter(torch.empty(num_positions, config.attention_width))
        nn.init.xavier_uniform_(self.positions)
        self.axis = 2 if config.attention == "code" else 1

    def forward(self, key: Tensor, value: Tensor, read: Tensor) -> Tensor:
        """Attend.

        Args:
            key: `(B, C, h, w)`.
            value: `(B, C, h, w)`.
            read: `(B, C, h, w)`, the words that every position read.

        Returns:
            `o[j] = sum_i R[i, j] value[i]`, `(B, C, h, w)`, with `R = softmax(W_a A^T)`.
        """
        of_words, of_map = (x.flatten(2).transpose(1, 2) for x in (read, key))  # B HW C
        meeting = (self.of_words(of_words) + self.of_map(of_map)).tanh()  # B HW A
        weights = (self.positions @ meeting.transpose(1, 2)).softmax(self.axis)  # B HW HW
        attended: Tensor = value.flatten(2) @ weights
        return attended.view_as(value)


class ParallelDilations(nn.Module):
    """ASPP: dilated 3x3 convolutions beside the map itself, then a 1x1 convolution and ReLU.

    Args:
        config: Rates and widths.
    """

    def __init__(self, config: BrinetConfig) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            xavier(nn.Conv2d(config.width, config.aspp_width, 3, padding=rate, dilation=rate))
            for rate in config.aspp_rates
        )
        for name, parameter in self.dilated.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=_ASPP_STD)
        joined = config.width + len(config.aspp_rates) * config.aspp_width
        self.join = xavier(nn.Conv2d(joined, config.width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, h, w)` to `(B, C, h, w)`."""
        return F.relu(self.join(torch.cat([*(conv(x) for conv in self.dilated), x], dim=1)))


class BrinetLevel(nn.Module):
    """Bi-directional cross-modal attention (BCAM) of one level.

    Args:
        config: Parts and sizes.
        num_positions: HW.
    """

    def __init__(self, config: BrinetConfig, num_positions: int) -> None:
        super().__init__()
        # Projections of [sentence, map, grid]: value, residual, then what asks for words and what is a key.
        self.num_projections = 2 + config.linguistic_attention + config.visual_attention
        grid = GRID_CHANNELS if config.position_grid else 0
        project = TiledConv(config.width + grid, config.width, self.num_projections * config.width)
        self.project = xavier(project, parts=self.num_projections)
        slots = config.text.max_tokens if config.word_slots == "all" else None
        self.read = LinguisticAttention(slots) if config.linguistic_attention else None
        self.attend = VisualAttention(config, num_positions) if config.visual_attention else None
        self.merge = xavier(nn.Conv2d(2 * config.width, config.width, 1))
        self.context = ParallelDilations(config)

    def forward(self, x: Tensor, last: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Let words and positions meet.

        Args:
            x: `(B, C, h, w)` with the grid's channels behind.
            last: `(B, C)`, the last LSTM state.
            words: `(B, T, C)`.
            mask: `(B, T)` bool, true at words.

        Returns:
            `(B, C, h, w)`.
        """
        value, residual, *others = F.relu(self.project(x, last)).chunk(self.num_projections, dim=1)
        if self.read is not None:
            read = self.read(others.pop(0), words, mask)
        else:
            read = last[..., None, None].expand_as(value)
        if self.attend is not None:
            value = self.attend(others.pop(0), value, read)
        merged = F.relu(self.merge(torch.cat([value, read], dim=1)))
        context: Tensor = self.context(merged + residual)
        return context


class FusionGate(nn.Module):
    """`sigmoid(conv3x3(relu(conv1x1([x1, x2])))) * x1 + x2`.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.join = xavier(nn.Conv2d(2 * width, width, 1))
        self.gate = xavier(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, onto: Tensor) -> Tensor:
        """Add what passes the gate of `x (B, C, h, w)` onto another map."""
        gate = self.gate(F.relu(self.join(torch.cat([x, onto], dim=1)))).sigmoid()
        return torch.addcmul(onto, gate, x)


class GatedFusion(nn.Module):
    """Gated bi-directional fusion (GBFM): from deep to shallow and from shallow to deep.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.ModuleList(FusionGate(width) for _ in range(3))
        self.right = nn.ModuleList(FusionGate(width) for _ in range(3))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Three maps `(B, C, h, w)`, shallow first, to one."""
        shallow, middle, deep = maps
        into_shallow, into_middle = self.left[0](middle, shallow), self.left[1](deep, middle)
        left: Tensor = self.left[2](into_middle, into_shallow)
        from_shallow, from_middle = self.right[0](shallow, middle), self.right[1](middle, deep)
        right: Tensor = self.right[2](from_shallow, from_middle)
        return left + right


@MODELS.register("brinet")
class BRINet(SegmentationModel):
    """Words read by positions, positions guided by words, dilated context; then gated fusion of three levels.

    Args:
        config: Parts and sizes.
        inputs: Images of modality `image`, whose size is part of the weights, and words.
    """

    info: ClassVar[ModelInfo] = ModelInfo(
        title="BRINet",
        paper="Hu et al., CVPR 2020, https://openaccess.thecvf.com/content_CVPR_2020/html/"
        "Hu_Bi-Directional_Relationship_Inferring_Network_for_Referring_Image_Segmentation_CVPR_2020_paper.html",
        task="referring",
        components={
            "linguistic_attention": False,
            "visual_attention": False,
            "aspp_rates": (),
            "fusion": "sum",
            "position_grid": False,
        },
        note="Re-implementation of the CVPR version on an ImageNet ResNet-101.",
    )
    Config: ClassVar[type[Any]] = BrinetConfig
    config: BrinetConfig

    def __init__(self, config: BrinetConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.encode = LanguageCnn(config, inputs)
        num_positions = map_side(inputs.image_size) ** 2
        self.levels = nn.ModuleList(BrinetLevel(config, num_positions) for _ in range(3))
        self.fuse: nn.Module = GatedFusion(config.width) if config.fusion == "gated" else SumOfMaps()
        self.refine = xavier(nn.Conv2d(config.width, config.width, 3, padding=1))
        self.score = xavier(nn.Conv2d(config.width, 1, 1))
        self.level_scores = nn.ModuleList(
            xavier(nn.Conv2d(config.width, 1, 1)) for _ in range(3 if config.auxiliary else 0)
        )

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment `image (B, 3, H, W)` by `tokens (B, T)` and `token_mask (B, T)`.

        Returns:
            Logits `(B, 2, H, W)`; in training `(B, 2, h, w)` unless `training_size` is `image`.
        """
        image_size = self.inputs.image_size, self.inputs.image_size
        size = None if self.training and self.config.training_size == "map" else image_size
        encoded = self.encode(batch)
        words, last = encoded.words
        grid = self.encode.grid_of(encoded.levels[0])
        maps = [
            level(torch.cat([x, grid], dim=1), last, words, encoded.mask)
            for level, x in zip(self.levels, encoded.levels, strict=True)
        ]
        auxiliary: tuple[Tensor, ...] = ()
        if self.training and self.config.auxiliary:
            scores = (score(x) for score, x in zip(self.level_scores, maps, strict=True))
            auxiliary = tuple(two_class_logits(score, size) for score in scores)
        fused = F.relu(self.refine(self.fuse(maps)))
        return ModelOutput(two_class_logits(self.score(fused), size), auxiliary)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weights of convolutions and linear layers decayed, everything else not."""
        return convolution_groups(self)
