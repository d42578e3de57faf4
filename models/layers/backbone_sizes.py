"""Sizes of the backbones of multimodal models: plain ViT, pyramid transformer, ResNet with output stride 16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from harness.errors import HarnessError


@dataclass(frozen=True)
class ViTConfig:
    """A plain vision transformer; the defaults are ViT-B/8."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    patch: int = 8
    """Side of a patch in pixels, at least 1."""
    width: int = 768
    """Channels of a token, a multiple of `heads`."""
    depth: int = 12
    """Blocks, a multiple of 4: maps are taken after each quarter."""
    heads: int = 12
    """Attention heads."""
    pretrained: str | None = None
    """timm name of a ViT, or a `.pth` or `.safetensors` file under timm's names; null starts it at random."""
    layer_decay: float = 1.0
    """Factor on the learning rate per block from the top down, in (0, 1]; 0.75 to 0.9 suits pretrained weights."""

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise HarnessError(f"trunk.layer_decay must be above 0 and at most 1; received {self.layer_decay}")
        if min(self.patch, self.width, self.depth, self.heads) < 1 or self.depth % 4 or self.width % self.heads:
            raise HarnessError(
                "trunk: patch, width, depth and heads must be at least 1, depth a multiple of 4 and width of heads; "
                f"received {self.patch}, {self.width}, {self.depth}, {self.heads}"
            )


@dataclass(frozen=True)
class PyramidConfig:
    """A four-stage pyramid transformer (PVT v2); the defaults are pvt_v2_b2, with the widths of MiT-B2."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    widths: tuple[int, int, int, int] = (64, 128, 320, 512)
    """Channels of the stages, multiples of `heads`."""
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Blocks per stage, each at least 1."""
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    """Attention heads per stage."""

    def __post_init__(self) -> None:
        if min(*self.widths, *self.depths, *self.heads) < 1 or any(
            c % h for c, h in zip(self.widths, self.heads, strict=True)
        ):
            raise HarnessError(
                "backbone: widths, depths and heads must be at least 1 and each width a multiple of its heads; "
                f"received {list(self.widths)}, {list(self.depths)}, {list(self.heads)}"
            )


@dataclass(frozen=True)
class StridedResNetConfig:
    """A ResNet with output stride 16; the defaults are ResNet-101."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    block: Literal["basic", "bottleneck"] = "bottleneck"
    """Block of ResNet-18 and 34 (`basic`), or of 50 and 101."""
    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    """Blocks per stage, each at least 1; (2, 2, 2, 2) is ResNet-18."""
    width: int = 64
    """Inner channels of the first stage, at least 1; they double with every stage."""

    def __post_init__(self) -> None:
        if min(*self.depths, self.width) < 1:
            raise HarnessError(
                f"backbone: depths and width must be at least 1; received {list(self.depths)}, {self.width}"
            )

    @property
    def widths(self) -> tuple[int, int]:
        """Channels of the first and last stage, which `StridedResNet` returns."""
        factor = 1 if self.block == "basic" else 4
        return factor * self.width, 8 * factor * self.width
