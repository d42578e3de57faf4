"""What plain MAFN (`plain_mafn.py`) joins by: correlation-aware fusion in a stage, interaction across scales.

Shapes: `B` images, `H W` map, `N = H * W`, `C` channels, `G` windows per image, `h` heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_encoder import Gate, VisualBranch, pad_to_windows, partition, unpartition

WINDOWS = (3, 5, 7)


# Correlation-aware fusion: section 4.4


class WindowGatedMlp(nn.Module):
    """Gated MLP on k x k windows, everything after the cut into windows."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.gate_norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(window * window, window * window)
        self.contract = nn.Linear(channels, channels)

    def forward(self, n: Tensor) -> Tensor:
        """Map `n (B, H, W, C)` to the same shape."""
        H, W = n.shape[1:3]
        padded = pad_to_windows(n, self.window)
        height, width = padded.shape[1:3]
        windows = partition(padded, self.window)
        a, b = F.gelu(self.expand(self.norm(windows))).chunk(2, dim=-1)
        b = self.gate(self.gate_norm(b).transpose(1, 2)).transpose(1, 2)
        o = self.contract(a * (b + 1.0)) + windows
        return unpartition(o, self.window, height, width)[:, :H, :W]


class MultiWindow(nn.Module):
    """Three gated MLPs weighted per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.branches = nn.ModuleList(WindowGatedMlp(channels, k) for k in WINDOWS)
        self.weigh_inner = nn.Linear(channels, channels // 4)
        self.weigh_outer = nn.Linear(channels // 4, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, y: Tensor) -> Tensor:
        """Map `y (B, H, W, C)` to the same shape."""
        B, _, _, C = y.shape
        n = self.norm(y)
        outputs = [branch(n) for branch in self.branches]
        pooled = (outputs[0] + outputs[1] + outputs[2]).mean(dim=(1, 2))
        weights = torch.softmax(self.weigh_outer(F.gelu(self.weigh_inner(pooled))).view(B, C, 3), dim=-1)
        weights = weights[:, None, None]
        mixed = weights[..., 0] * outputs[0] + weights[..., 1] * outputs[1] + weights[..., 2] * outputs[2]
        m: Tensor = self.project(mixed) + y
        return m


class Intensify(nn.Module):
    """Two 3x3 convolutions and squeeze-excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, m: Tensor) -> Tensor:
        """Map `m (B, H, W, C)` to the same shape."""
        q = self.conv2(F.leaky_relu(self.conv1(self.norm(m).permute(0, 3, 1, 2)), 0.2))
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(q.mean(dim=(2, 3), keepdim=True)))))
        return m + (weights * q).permute(0, 2, 3, 1)


class CorrelationFusion(nn.Module):
    """Nine correlations between the two maps, a convolution, the multi-window block, the intensification."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels + 9, channels, 3, padding=1)
        self.multi_window = MultiWindow(channels)
        self.intensify = Intensify(channels)

    def forward(self, visual: Tensor, language: Tensor) -> Tensor:
        """Map two maps `(B, C, H, W)` to one."""
        H, W = visual.shape[2:]
        padded = F.pad(language, (1, 1, 1, 1))
        correlations = [
            (visual * padded[:, :, 1 + dy : 1 + dy + H, 1 + dx : 1 + dx + W]).mean(dim=1, keepdim=True)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        ]
        y = self.conv(torch.cat([visual, *correlations, language], dim=1)).permute(0, 2, 3, 1)
        fused: Tensor = self.intensify(self.multi_window(y)) + y
        return fused.permute(0, 3, 1, 2)


class Fusion(nn.Module):
    """Visual branch, both gates and the correlation-aware fusion of a stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.language_gate = Gate(channels)
        self.visual_branch = VisualBranch()
        self.visual_gate = Gate(channels)
        self.correlation = CorrelationFusion(channels)

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        """Map `x` and `read`, `(B, H, W, C)`, to the next `x`."""
        visual = self.visual_branch(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        # three times, as released; two results are dropped
        for _ in range(3):
            gated_visual = self.visual_gate(visual) * visual
        gated_language = self.language_gate(read) * read
        fused = self.correlation(gated_visual.permute(0, 3, 1, 2), gated_language.permute(0, 3, 1, 2))
        y: Tensor = x + fused.permute(0, 2, 3, 1)
        return y


# Cross-scale interaction: section 3.2


def feed_forward(channels: int) -> nn.Sequential:
    """Inverted bottleneck of the interaction."""
    inner = 2 * channels
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, inner, 1),
        nn.BatchNorm2d(inner),
        nn.Conv2d(inner, inner, 3, padding=1, groups=channels),
        nn.ReLU6(),
        nn.Conv2d(inner, channels, 1),
    )


class CrossScaleAttention(nn.Module):
    """Attention over three scales of the grid, with the two raw reshapes of the released code."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        sides = (side, (side - 1) // 2 + 1, (side - 1) // 3 + 1)
        self.norm = nn.BatchNorm2d(channels)
        self.by_two = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels), nn.BatchNorm2d(channels)
        )
        self.by_three = nn.Sequential(
            nn.Conv2d(channels, channels, 5, stride=3, padding=2, groups=channels), nn.BatchNorm2d(channels)
        )
        self.qkv = nn.Linear(channels, 1024, bias=False)
        self.qkv_norm = nn.BatchNorm1d(1024)
        self.local = nn.Conv2d(512, 512, 3, padding=1, groups=512)
        self.tokens = nn.Linear(sum(s * s for s in sides), side * side)
        self.project = nn.Linear(512, channels)
        self.leave = nn.Sequential(nn.BatchNorm2d(channels), nn.Hardswish(), nn.Conv2d(channels, channels, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, C, s, s)` to the same shape."""
        B, C, s, _ = z.shape
        t0 = self.norm(z)
        tokens = torch.cat([t.flatten(2) for t in (t0, self.by_two(t0), self.by_three(t0))], dim=2).transpose(1, 2)
        N = tokens.shape[1]
        qkv = self.qkv_norm(self.qkv(tokens).reshape(B * N, 1024)).view(B, N, 8, 128).permute(0, 2, 1, 3)
        q, k, v = qkv.split([32, 32, 64], dim=-1)
        local = self.local(F.hardswish(v[:, :, : s * s].reshape(B, 512, s, s))).view(B, 512, s * s)
        attended = torch.softmax(q @ k.transpose(-2, -1) * 32**-0.5, dim=-1) @ v
        attended = self.tokens(attended.permute(0, 2, 1, 3).reshape(B, 512, N))
        y = self.project((attended + local).transpose(1, 2))
        out: Tensor = self.leave(y.transpose(1, 2).reshape(B, C, s, s))
        return out


class InteractionBlock(nn.Module):
    """Attention, feed-forward per stage, attention, joint feed-forward."""

    def __init__(self, groups: Sequence[int], side: int) -> None:
        super().__init__()
        self.groups = list(groups)
        self.first = CrossScaleAttention(sum(groups), side)
        self.per_stage = nn.ModuleList(Bottleneck(d) for d in groups)
        self.second = CrossScaleAttention(sum(groups), side)
        self.joint = Bottleneck(sum(groups))

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, C, s, s)` to the same shape."""
        z = z + self.first(z)
        parts = z.split(self.groups, dim=1)
        z = z + torch.cat([part + f(part) for part, f in zip(parts, self.per_stage, strict=True)], dim=1)
        z = z + self.second(z)
        y: Tensor = z + self.joint(z)
        return y


class Bottleneck(nn.Module):
    """`feed_forward` as a module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = feed_forward(channels)

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (B, C, s, s)` to the same shape."""
        y: Tensor = self.layers(z)
        return y


class ScaleGate(nn.Module):
    """Weigh and shift a stage map by the global one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.local, self.weight, self.shift = (
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)) for _ in range(3)
        )

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Map `x (B, C, H, W)` and `g (B, C, s, s)` to `(B, C, H, W)`."""
        weight = F.interpolate(F.relu6(self.weight(g) + 3.0) / 6.0, x.shape[2:], mode="bilinear", align_corners=False)
        shift = F.interpolate(self.shift(g), x.shape[2:], mode="bilinear", align_corners=False)
        return self.local(x) * weight + shift


class Interaction(nn.Module):
    """Cross-scale interaction of the four stage maps."""

    def __init__(self, widths: Sequence[int], side: int) -> None:
        super().__init__()
        self.widths, self.side = list(widths), side
        groups = [width // 4 for width in widths]
        self.down = nn.Conv2d(sum(widths), sum(groups), 1)
        self.block = InteractionBlock(groups, side)
        self.norm = nn.BatchNorm2d(sum(groups))
        self.up = nn.Conv2d(sum(groups), sum(widths), 1)
        self.gates = nn.ModuleList(ScaleGate(width) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map four maps to four maps of the same shapes."""
        pooled = torch.cat([F.adaptive_avg_pool2d(x, self.side) for x in maps], dim=1)
        parts = self.up(self.norm(self.block(self.down(pooled)))).split(self.widths, dim=1)
        return [gate(x, g) for gate, x, g in zip(self.gates, maps, parts, strict=True)]
