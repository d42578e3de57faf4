"""Cross-scale interaction of the four stage maps (RMSIN, Liu et al., CVPR 2024, section 3.2, as released).

The released module fits Swin-B at 480x480 only; this one takes any channel widths and any grid, and computes the same
at the published size. Two reshapes without transposition mix heads, channels and positions; they are kept because the
published numbers were made with them.

Shapes: `B` images, `Ci Hi Wi` maps of stage i, `D = sum(Ci) / 4`, `(gh, gw)` grid of the deepest map, `P = gh * gw`,
`N` tokens of three scales, `h` heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HEADS = 8
_KEY_WIDTH = 32
_VALUE_WIDTH = 64
_VALUES = _HEADS * _VALUE_WIDTH


def num_tokens(grid: tuple[int, int]) -> int:
    """Tokens of the grid and of its reductions with stride 2 and 3; 314 for 15x15."""
    return sum(((grid[0] - 1) // stride + 1) * ((grid[1] - 1) // stride + 1) for stride in (1, 2, 3))


def pool_to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average `x (B, C, H, W)` over the cells of a grid, `(B, C, gh, gw)`.

    Plain pooling gives the same where the cells are equal, and unlike adaptive pooling is deterministic on a GPU.
    """
    H, W = x.shape[-2:]
    if H % grid[0] == 0 and W % grid[1] == 0:
        return F.avg_pool2d(x, (H // grid[0], W // grid[1]))
    return F.adaptive_avg_pool2d(x, grid)


class FeedForward(nn.Module):
    """Inverted bottleneck with a grouped 3x3 convolution.

    Args:
        channels: Width d; the inner width is 2 d.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 2 * channels, 1),
            nn.BatchNorm2d(2 * channels),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=channels),
            nn.ReLU6(),
            nn.Conv2d(2 * channels, channels, 1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, d, gh, gw)` to the same shape."""
        y: Tensor = self.layers(z)
        return y


def _reduction(channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


class CrossScaleAttention(nn.Module):
    """Attention over the positions of the grid and of two reductions of it.

    Args:
        channels: Width D.
        grid: `(gh, gw)`.
    """

    def __init__(self, channels: int, *, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.norm = nn.BatchNorm2d(channels)
        self.by_two = _reduction(channels, 3, 2)
        self.by_three = _reduction(channels, 5, 3)
        width = _HEADS * (2 * _KEY_WIDTH + _VALUE_WIDTH)
        self.qkv = nn.Linear(channels, width, bias=False)
        self.qkv_norm = nn.BatchNorm1d(width)
        self.local = nn.Conv2d(_VALUES, _VALUES, 3, padding=1, groups=_VALUES)
        self.tokens = nn.Linear(num_tokens(grid), grid[0] * grid[1])
        self.project = nn.Linear(_VALUES, channels)
        self.leave = nn.Sequential(nn.BatchNorm2d(channels), nn.Hardswish(), nn.Conv2d(channels, channels, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, D, gh, gw)` to the same shape."""
        B, D, gh, gw = z.shape
        P = gh * gw
        normed = self.norm(z)
        # three scales as one sequence: B D . . -> B N D
        tokens = torch.cat([t.flatten(2) for t in (normed, self.by_two(normed), self.by_three(normed))], dim=2)
        tokens = tokens.transpose(1, 2)
        qkv = self.qkv_norm(self.qkv(tokens).flatten(0, 1))
        # B*N h*128 -> B h N 128
        qkv = qkv.view(B, -1, _HEADS, 2 * _KEY_WIDTH + _VALUE_WIDTH).transpose(1, 2)
        q, k, v = qkv.split((_KEY_WIDTH, _KEY_WIDTH, _VALUE_WIDTH), dim=-1)
        # reshaped without transposition: B h P 64 -> B 512 gh gw -> B 512 P
        local = self.local(F.hardswish(v[:, :, :P].reshape(B, _VALUES, gh, gw))).flatten(2)
        attended = F.scaled_dot_product_attention(q, k, v)
        # reshaped without transposition: B N h 64 -> B 512 N -> B 512 P
        attended = self.tokens(attended.transpose(1, 2).reshape(B, _VALUES, -1))
        # B 512 P -> B P D -> B D gh gw
        y = self.project((attended + local).transpose(1, 2)).transpose(1, 2).reshape(B, D, gh, gw)
        out: Tensor = self.leave(y)
        return out


class InteractionBlock(nn.Module):
    """Attention, per-stage feed-forward, attention, joint feed-forward, each with a residual.

    Args:
        groups: Channels that belong to each stage, `Ci / 4`.
        grid: `(gh, gw)`.
    """

    def __init__(self, groups: Sequence[int], *, grid: tuple[int, int]) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.first = CrossScaleAttention(sum(groups), grid=grid)
        self.per_stage = nn.ModuleList(FeedForward(d) for d in groups)
        self.second = CrossScaleAttention(sum(groups), grid=grid)
        self.joint = FeedForward(sum(groups))

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, D, gh, gw)` to the same shape."""
        z = z + self.first(z)
        parts = z.split_with_sizes(self.groups, dim=1)
        # a part enters twice, once in each residual
        z = z + torch.cat([part + ff(part) for part, ff in zip(parts, self.per_stage, strict=True)], dim=1)
        z = z + self.second(z)
        y: Tensor = z + self.joint(z)
        return y


def _projection(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class ScaleGate(nn.Module):
    """Weight a stage map by the global map and add it.

    Args:
        channels: Width Ci.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local = _projection(channels)
        self.weight = _projection(channels)
        self.shift = _projection(channels)

    def forward(self, x: Tensor, interaction: Tensor) -> Tensor:
        """Combine `x (B, Ci, Hi, Wi)` with `interaction (B, Ci, gh, gw)` into `(B, Ci, Hi, Wi)`."""
        size = x.shape[-2:]

        def enlarge(t: Tensor) -> Tensor:
            return F.interpolate(t, size=size, mode="bilinear", align_corners=False)

        weight = F.hardsigmoid(self.weight(interaction))
        return torch.addcmul(enlarge(self.shift(interaction)), self.local(x), enlarge(weight))


class CrossScaleInteraction(nn.Module):
    """Let the four stage maps exchange information on the grid of the deepest one.

    Args:
        widths: `(C1, C2, C3, C4)`, each divisible by 4.
        grid: `(gh, gw)`, the size of the deepest map. In training mode batch norm needs more than one value per
            channel, so a 1x1 grid needs at least two images.
    """

    def __init__(self, widths: Sequence[int], *, grid: tuple[int, int]) -> None:
        super().__init__()
        self.widths, self.grid = tuple(widths), grid
        groups = [width // 4 for width in widths]
        self.down = nn.Conv2d(sum(widths), sum(groups), 1)
        self.block = InteractionBlock(groups, grid=grid)
        self.norm = nn.BatchNorm2d(sum(groups))
        self.up = nn.Conv2d(sum(groups), sum(widths), 1)
        self.gates = nn.ModuleList(ScaleGate(width) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map four maps `(B, Ci, Hi, Wi)` to four maps of the same shapes."""
        pooled = torch.cat([pool_to_grid(x, self.grid) for x in maps], dim=1)
        interactions = self.up(self.norm(self.block(self.down(pooled)))).split(self.widths, dim=1)
        return [gate(x, g) for gate, x, g in zip(self.gates, maps, interactions, strict=True)]
