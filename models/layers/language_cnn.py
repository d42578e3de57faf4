"""What CMPC, CMPC+ and BRINet share: ResNet levels of one width, LSTM word features, a grid of positions, score heads.

Sources: CMPC (Huang et al., CVPR 2020, https://arxiv.org/abs/2010.00514), BRINet (Hu et al., CVPR 2020).

Shapes: `B` images, `C` channels, `h w` the map at stride 8, `HW` its positions, `T` tokens, `V` width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import Inputs, ParameterGroup
from models.vision import ResNet, ResNetConfig
from models.words import WordEncoder, WordFeatures, WordsConfig

STRIDE = 8
GRID_CHANNELS = 8
_EPSILON = 1e-6

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear, "TiledConv")


@dataclass(frozen=True)
class LanguageCnnConfig:
    """Encoders of both modalities and what the positions are told about where they are."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backbone: ResNetConfig = field(default_factory=ResNetConfig)
    """Image encoder."""
    text: WordsConfig = field(default_factory=WordsConfig)
    """Word embedding and tokens per sentence."""
    width: int = 1000
    """Channels of the three levels and of the words, at least 1."""
    position_grid: bool = True
    """Whether every position knows its place in the image."""
    auxiliary: bool = True
    """Whether every level has a score of its own in training."""

    def __post_init__(self) -> None:
        require_positive(self, "width")


def require_positive(config: object, *names: str) -> None:
    """Raise HarnessError unless every named field is at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise HarnessError(f"{name} must be at least 1; received {getattr(config, name)}")


def unit(x: Tensor, dim: int) -> Tensor:
    """`x` divided by its length along `dim`; TensorFlow's bound of 1e-12 on the squared length."""
    return F.normalize(x, dim=dim, eps=_EPSILON)


def map_side(image_size: int) -> int:
    """Height and width of the levels for images of `image_size` pixels."""
    return -(-image_size // STRIDE)


def position_grid(height: int, width: int) -> Tensor:
    """Where each cell is: `(8, h, w)` of left, top, right, bottom, centre x and y in -1..1, then 1/w and 1/h."""
    axes = []
    for size in (width, height):
        low = torch.arange(size) * (2 / size) - 1
        axes.append((low, low + 2 / size, low + 1 / size))
    x, y = ([edge.view(1, -1) for edge in axes[0]], [edge.view(-1, 1) for edge in axes[1]])
    rows = [x[0], y[0], x[1], y[1], x[2], y[2], torch.tensor([[1 / width]]), torch.tensor([[1 / height]])]
    return torch.stack([row.expand(height, width) for row in rows])


def xavier(layer: Layer, *, parts: int = 1) -> Layer:
    """The layer with Xavier uniform weights and a bias of zeros.

    Args:
        layer: Convolution or linear layer.
        parts: Layers of the publication that it computes at once; each starts as it would alone.
    """
    with torch.no_grad():
        for part in layer.weight.chunk(parts):
            nn.init.xavier_uniform_(part)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TiledConv(nn.Conv2d):
    """1x1 convolution of `[map, vector repeated at every position]`, without repeating the vector.

    Args:
        channels: Of the map.
        vector: Width V of the vector.
        out_channels: Of the result.
    """

    def __init__(self, channels: int, vector: int, out_channels: int) -> None:
        super().__init__(channels + vector, out_channels, 1)
        self.parts = [channels, vector]

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:  # type: ignore[override]  # one input more
        """Map `x (B, C, h, w)` and `vector (B, V)` to `(B, out, h, w)`."""
        of_map, of_vector = torch.split(self.weight, self.parts, dim=1)
        tiled = F.linear(vector, of_vector.flatten(1), self.bias)
        return F.conv2d(x, of_map) + tiled[..., None, None]


class Encoded(NamedTuple):
    """Both modalities, before they meet."""

    levels: tuple[Tensor, Tensor, Tensor]
    """`(B, C, h, w)` of stages 3, 4 and 5, each position of length 1."""
    words: WordFeatures
    """States `(B, T, C)` and the last one `(B, C)`."""
    mask: Tensor
    """`(B, T)` bool, true at words."""


class LanguageCnn(nn.Module):
    """Image and sentence encoders of the LSTM models.

    Args:
        config: Sizes.
        inputs: Images and words.

    Attributes:
        grid: `(8, h, w)` positions; without a position grid `(0, h, w)`.
    """

    grid: Tensor

    def __init__(self, config: LanguageCnnConfig, inputs: Inputs) -> None:
        super().__init__()
        self.backbone = ResNet(config.backbone, bands=inputs.modalities["image"])
        self.text = WordEncoder(
            config.text,
            width=config.width,
            vocab_size=inputs.vocab_size or config.text.vocab_size,
            vocabulary=inputs.vocabulary,
        )
        self.project = nn.ModuleList(xavier(nn.Conv2d(width, config.width, 1)) for width in config.backbone.widths)
        self.image_size = inputs.image_size
        side = map_side(inputs.image_size)
        grid = position_grid(side, side)
        self.register_buffer("grid", grid if config.position_grid else grid[:0], persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        """Encode `image (B, 3, H, W)`, `tokens (B, T)` and `token_mask (B, T)`."""
        image, mask = batch["image"], batch["token_mask"]
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise HarnessError(
                f"images must have the {self.image_size} x {self.image_size} pixels that the weights were made for; "
                f"received {image.shape[-2]} x {image.shape[-1]}"
            )
        words = self.text(batch["tokens"], mask)
        c3, c4, c5 = (
            unit(project(level), dim=1) for project, level in zip(self.project, self.backbone(image), strict=True)
        )
        return Encoded((c3, c4, c5), words, mask.bool())

    def grid_of(self, x: Tensor) -> Tensor:
        """The grid `(B, 8, h, w)` for a batch of maps `x (B, C, h, w)`; no channels without a position grid."""
        return self.grid.to(x.dtype).expand(len(x), -1, -1, -1)


class SumOfMaps(nn.Module):
    """Stands in for a learned fusion of levels."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Add maps `(B, C, h, w)`."""
        return sum(maps[1:], maps[0])


def two_class_logits(score: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Logits `(B, 2, H, W)` of background (0) and object from `score (B, 1, h, w)`, resized to `size` if given.

    Their softmax cross entropy is the published sigmoid cross entropy of the score.
    """
    if size is not None:
        score = F.interpolate(score, size=size, mode="bilinear", align_corners=False)
    return torch.cat([torch.zeros_like(score), score], dim=1)


def convolution_groups(model: nn.Module) -> list[ParameterGroup]:
    """Weights of convolutions and linear layers with the recipe's weight decay, everything else without."""
    decayed = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        ParameterGroup([p for p in trained if id(p) in decayed], None),
        ParameterGroup([p for p in trained if id(p) not in decayed], 0.0),
    ]
    return [group for group in groups if group.parameters]
