"""Multi-scale rotated convolution, the decoder block of MAFN (section III-D, as released).

Shapes: `B` images, `C` channels, `H W` map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from harness.errors import HarnessError
from models.layers.arc import AdaptiveRotatedConv


@dataclass(frozen=True)
class MsrcConfig:
    """Options of the multi-scale rotated convolution."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kernels: tuple[int, ...] = (1, 3, 5)
    """Sides of the depth-wise kernels in order, odd; decoder `msrc` only."""
    msrc_sum: Literal["local", "state"] = "local"
    """What is summed over scales: `local` the depth-wise outputs (released code), `state` the running maps (paper)."""
    msrc_expansion: int = 1
    """Factor on the channels inside the block, at least 1 (released code: 1)."""
    arc_n: int = 1
    """Kernels of a rotated convolution, at least 1 (released code: 1); decoders `arc` and `msrc`."""
    arc_shared: bool = True
    """One rotated convolution for all scales (released code), or one per scale (paper)."""

    def __post_init__(self) -> None:
        if not self.kernels or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise HarnessError(f"kernels must be a non-empty list of odd positive numbers; received {self.kernels}")
        if self.msrc_expansion < 1 or self.arc_n < 1:
            raise HarnessError(
                f"msrc_expansion and arc_n must be at least 1; received {self.msrc_expansion} and {self.arc_n}"
            )

    @property
    def num_arc_passes(self) -> int:
        """Rotated convolutions that something reads; with `local` nothing reads the map after the last scale."""
        return len(self.kernels) - (1 if self.msrc_sum == "local" else 0)


def point_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Bias-free 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def depthwise_convolution(channels: int, kernel: int) -> nn.Sequential:
    """Bias-free depth-wise convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class MultiScaleRotatedConv(nn.Module):
    """Depth-wise convolutions of growing size, with a rotated convolution between them.

    Rotated convolutions whose output nothing reads are neither built nor computed. The channel shuffle of the released
    code is left out: with expansion 1 it is the identity, otherwise a permutation that the last convolution learns.

    Args:
        channels: Width C of input and output.
        config: Kernels and variants.
    """

    def __init__(self, channels: int, config: MsrcConfig) -> None:
        super().__init__()
        inner = config.msrc_expansion * channels
        self.config = config
        self.enter = nn.Sequential(*point_convolution(channels, inner), nn.ReLU(inplace=True))
        self.scales = nn.ModuleList(depthwise_convolution(inner, k) for k in config.kernels)
        passes = config.num_arc_passes
        num_arcs = min(passes, 1) if config.arc_shared else passes
        self.arcs = nn.ModuleList(AdaptiveRotatedConv(inner, inner, num_kernels=config.arc_n) for _ in range(num_arcs))
        self.leave = point_convolution(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, C, H, W)` to `(B, C, H, W)`."""
        state = self.enter(x)
        total = None
        for i, scale in enumerate(self.scales):
            local = scale(state)
            if i < self.config.num_arc_passes:
                state = self.arcs[0 if self.config.arc_shared else i](state).add_(local)
            term = local if self.config.msrc_sum == "local" else state
            total = term if total is None else total + term
        y: Tensor = self.leave(total).add_(x)
        return y
