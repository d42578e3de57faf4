"""MAFN as one first writes it down, from sections 1 to 4 of the specification; the yardstick and an oracle for ours.

It computes everything the released model computes, also what nothing reads: the fusion, the gates and the visual branch
of stage 4, the rotated convolution after the last scale, the vision gate three times per stage. Noise attention loops
over the batch with `nn.MultiheadAttention`, windows are padded before the projections, scores and masks are
materialised, kernels are turned by `grid_sample`. Only the text encoder is shared with our model.

    python -m benchmarks.plain_mafn

counts its parameters at full size, which must be the published 350,056,899.

Shapes: `B` images, `H W` map, `N = H * W`, `C` channels, `T` words, `D` text width, `G` windows per image, `h` heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import Inputs
from models.mafn import MAFN, MafnConfig
from models.text import TextConfig, TextEncoder

PUBLISHED_PARAMETERS = 350_056_899
NOISE_HEADS = 8
WINDOWS = (3, 5, 7)


class DropPath(nn.Module):
    """Drop a residual branch for whole samples."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, ...)` to the same shape."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1)) < keep
        return x / keep * kept


# Swin with adaptive noise: sections 1.3 and 4.1


def partition(x: Tensor, window: int) -> Tensor:
    """Cut `x (B, H, W, C)` into `(B*G, w*w, C)`."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, C)


def unpartition(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undo `partition`."""
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Fill `x (B, H, W, C)` with zeros at the bottom and the right."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % window, 0, -x.shape[1] % window))


def make_shift_mask(height: int, width: int, window: int) -> Tensor:
    """`(G, w*w, w*w)`: -100 between positions of different regions."""
    regions = torch.zeros(1, height, width, 1)
    slices = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    for i, rows in enumerate(slices):
        for j, columns in enumerate(slices):
            regions[:, rows, columns] = 3 * i + j
    labels = partition(regions, window)[..., 0]
    return (labels[:, None, :] != labels[:, :, None]).float() * -100.0


class WindowAttention(nn.Module):
    """Attention inside windows with a relative position bias."""

    index: Tensor

    def __init__(self, channels: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        rows, columns = torch.meshgrid(
            torch.arange(window, device="cpu"), torch.arange(window, device="cpu"), indexing="ij"
        )
        rows, columns = rows.flatten(), columns.flatten()
        down, right = rows[:, None] - rows[None] + window - 1, columns[:, None] - columns[None] + window - 1
        self.register_buffer("index", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x (B*G, w*w, C)` to the same shape; `mask` is `(G, w*w, w*w)`."""
        M, N, C = x.shape
        h = self.heads
        q, k, v = self.qkv(x).reshape(M, N, 3, h, C // h).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (C // h) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            G = len(mask)
            scores = (scores.view(M // G, G, h, N, N) + mask[None, :, None]).view(M, h, N, N)
        y: Tensor = self.proj((torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(M, N, C))
        return y


class Noise(nn.Module):
    """Every position attends to itself plus a learned vector, and to itself weighted by scores over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score_inner = nn.Linear(channels, channels)
        self.score_outer = nn.Linear(channels, channels)
        self.key_noise = nn.Embedding(2, channels)
        self.value_noise = nn.Embedding(2, channels)
        self.attention = nn.MultiheadAttention(channels, NOISE_HEADS)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, N, C)` to the same shape."""
        scores = torch.softmax(self.score_outer(F.gelu(self.score_inner(x))), dim=-1)
        row = torch.zeros(1, dtype=torch.long, device=x.device)
        samples = []
        for w, r in zip(x, scores, strict=True):
            keys = torch.stack([w + self.key_noise(row), w * r])
            values = torch.stack([w + self.value_noise(row), w])
            samples.append(w + self.attention(w[None], keys, values)[0][0])
        return torch.stack(samples)


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (..., C)` to the same shape."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """A Swin block with noise."""

    def __init__(self, channels: int, *, heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads=heads, window=window)
        self.noise = Noise(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, H: int, W: int, mask: Tensor) -> Tensor:
        """Map `x (B, N, C)` to the same shape."""
        B, N, C = x.shape
        y = pad_to_windows(self.norm1(x).view(B, H, W, C), self.window)
        height, width = y.shape[1:3]
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = self.attn(partition(y, self.window), mask if self.shift else None)
        y = unpartition(y, self.window, height, width)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        y = self.noise(y[:, :H, :W].reshape(B, N, C))
        x = x + self.drop_path(y)
        z: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return z


class PatchMerging(nn.Module):
    """Halve the map, double the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, H, W, C)` to `(B, H/2, W/2, 2C)`."""
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        y: Tensor = self.reduction(self.norm(torch.cat(parts, dim=-1)))
        return y


class PatchEmbedding(nn.Module):
    """4x4 patches to tokens."""

    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map `image (B, bands, H, W)` to `(B, H/4, W/4, C)`."""
        y: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return y


# The two branches and their gates: sections 1.4, 1.5 and 3.1


class PixelWordAttention(nn.Module):
    """Positions read words; 1x1 convolutions on `(B, C, N)`."""

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(text_width, channels, 1)
        self.value = nn.Conv1d(text_width, channels, 1)
        self.read = nn.Conv1d(channels, channels, 1)
        self.visual = nn.Conv1d(channels, channels, 1)
        self.mix = nn.Conv1d(channels, channels, 1)
        self.query_norm = nn.InstanceNorm1d(channels)
        self.read_norm = nn.InstanceNorm1d(channels)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Map `x (B, N, C)`, `words (B, D, T)`, `mask (B, 1, T)` to `(B, N, C)`."""
        x = x.transpose(1, 2)
        q = self.query_norm(self.query(x))
        k, v = self.key(words) * mask, self.value(words) * mask
        scores = q.transpose(1, 2) @ k * x.shape[1] ** -0.5 + 1e4 * (mask - 1.0)
        attended = torch.softmax(scores, dim=-1) @ v.transpose(1, 2)
        o = self.read_norm(self.read(attended.transpose(1, 2)))
        r: Tensor = F.gelu(self.mix(F.gelu(self.visual(x)) * o))
        return r.transpose(1, 2)


class Gate(nn.Module):
    """Weights in -1..1 per position and channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels, bias=False)
        self.outer = nn.Linear(channels, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (..., C)` to the same shape."""
        return torch.tanh(self.outer(F.relu(self.inner(z))))


class ReceptiveField(nn.Module):
    """1x1, 1x1 then 3x3, and identity, each with batch norm, on one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
        self.wide = nn.Sequential(
            nn.Conv2d(1, 1, 1, bias=False),
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 1, 3, padding=1, bias=False),
            nn.BatchNorm2d(1),
        )
        self.identity = nn.BatchNorm2d(1)

    def forward(self, s: Tensor) -> Tensor:
        """Map `s (B, 1, H, W)` to the same shape."""
        y: Tensor = self.point(s) + self.wide(s) + self.identity(s)
        return y


class VisualBranch(nn.Module):
    """One weight per position from the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ReceptiveField()
        self.second = ReceptiveField()

    def forward(self, f: Tensor) -> Tensor:
        """Map `f (B, C, H, W)` to the same shape."""
        s = F.relu(self.first(f.mean(dim=1, keepdim=True)))
        return torch.sigmoid(self.second(s)) * f


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


# Decoder: sections 3.3 and 4.5


class Routing(nn.Module):
    """Weight and angle of the kernel, one each per image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.weight_dropout = nn.Dropout(0.2)
        self.angle_dropout = nn.Dropout(0.2)
        self.weight = nn.Linear(channels, 1)
        self.angle = nn.Linear(channels, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x (B, C, H, W)` to `(B,)` and `(B,)`."""
        normed = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(F.relu(normed), 1).flatten(1)
        weight = torch.sigmoid(self.weight(self.weight_dropout(pooled)))
        angle = F.softsign(self.angle(self.angle_dropout(pooled))) * math.radians(40.0)
        return weight[:, 0], angle[:, 0]


class RotatedConv(nn.Module):
    """3x3 convolution with a kernel turned per image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.routing = Routing(channels)
        self.weight = nn.Parameter(torch.randn(1, channels, channels, 3, 3) * (2.0 / (9 * channels)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, C, H, W)` to the same shape."""
        B, C, H, W = x.shape
        weight, angle = self.routing(x)
        c, s, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        turn = torch.stack([torch.stack([c, -s, zero], dim=1), torch.stack([s, c, zero], dim=1)], dim=1)
        taps = self.weight.view(1, C * C, 3, 3).expand(B, C * C, 3, 3)
        grid = F.affine_grid(turn, [B, C * C, 3, 3], align_corners=True)
        turned = F.grid_sample(taps, grid, mode="bilinear", padding_mode="border", align_corners=True)
        kernels = weight.view(B, 1, 1, 1) * turned
        y = F.conv2d(x.reshape(1, B * C, H, W), kernels.view(B * C, C, 3, 3), padding=1, groups=B)
        return y.view(B, C, H, W)


def normed_convolution(convolution: nn.Conv2d, *, relu: bool = True) -> nn.Sequential:
    """A convolution, batch norm and perhaps ReLU."""
    norm = nn.BatchNorm2d(convolution.out_channels)
    return nn.Sequential(convolution, norm, nn.ReLU()) if relu else nn.Sequential(convolution, norm)


class MultiScale(nn.Module):
    """Multi-scale rotated convolution."""

    def __init__(self, channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.enter = normed_convolution(nn.Conv2d(channels, channels, 1, bias=False))
        self.scales = nn.ModuleList(
            normed_convolution(nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=False))
            for k in kernels
        )
        self.arcs = nn.ModuleList([RotatedConv(channels)])
        self.leave = normed_convolution(nn.Conv2d(channels, channels, 1, bias=False), relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, C, H, W)` to the same shape."""
        v = self.enter(x)
        outputs = []
        for scale in self.scales:
            o = scale(v)
            outputs.append(o)
            v = self.arcs[0](v) + o
        y: Tensor = x + self.leave(torch.stack(outputs).sum(0))
        return y


class Decoder(nn.Module):
    """Upsample by 2, concatenate, convolve; three times."""

    def __init__(self, widths: Sequence[int], kernels: Sequence[int]) -> None:
        super().__init__()
        hidden = widths[3] // 2
        inputs = (widths[3] + widths[2], hidden + widths[1], hidden + widths[0])
        self.levels = nn.ModuleList(
            nn.Sequential(
                normed_convolution(nn.Conv2d(c, hidden, 3, padding=1, bias=False)), MultiScale(hidden, kernels)
            )
            for c in inputs
        )
        self.classify = nn.Conv2d(hidden, 2, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the four maps to logits `(B, 2, H1, W1)`."""
        y = maps[3]
        for level, skip in zip(self.levels, (maps[2], maps[1], maps[0]), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
            y = level(torch.cat([y, skip], dim=1))
        logits: Tensor = self.classify(y)
        return logits


# The model


class Stage(nn.Module):
    """Blocks, pixel-word attention, fusion, patch merging."""

    def __init__(self, index: int, config: MafnConfig, text_width: int) -> None:
        super().__init__()
        swin = config.backbone
        channels, self.window = swin.widths[index], swin.window
        first = sum(swin.depths[:index])
        self.blocks = nn.ModuleList(
            Block(
                channels,
                heads=swin.heads[index],
                window=swin.window,
                shifted=j % 2 == 1,
                drop_path=swin.drop_path * (first + j) / max(sum(swin.depths) - 1, 1),
            )
            for j in range(swin.depths[index])
        )
        self.pwam = PixelWordAttention(channels, text_width)
        self.fusion = Fusion(channels)
        self.merging = PatchMerging(channels) if index < 3 else None

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x (B, H, W, C)` to the next stage's `x` and to what leaves the stage, `(B, H, W, C)`."""
        B, H, W, C = x.shape
        shift_mask = make_shift_mask(H + -H % self.window, W + -W % self.window, self.window)
        tokens = x.view(B, H * W, C)
        for block in self.blocks:
            tokens = block(tokens, H, W, shift_mask)
        read = self.pwam(tokens, words, mask).view(B, H, W, C)
        x = self.fusion(tokens.view(B, H, W, C), read)
        return (x if self.merging is None else self.merging(x)), read


class Backbone(nn.Module):
    """Four stages, a layer norm for each output, cross-scale interaction."""

    def __init__(self, config: MafnConfig, inputs: Inputs, text_width: int) -> None:
        super().__init__()
        widths = config.backbone.widths
        self.patch_embed = PatchEmbedding(inputs.modalities["image"], widths[0])
        self.stages = nn.ModuleList(Stage(i, config, text_width) for i in range(4))
        self.out_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.cim = Interaction(widths, inputs.image_size // 32)

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the four maps `(B, Ci, Hi, Wi)`."""
        x = self.patch_embed(image)
        maps = []
        for stage, norm in zip(self.stages, self.out_norms, strict=True):
            x, read = stage(x, words, mask)
            maps.append(norm(read).permute(0, 3, 1, 2).contiguous())
        found: list[Tensor] = self.cim(maps)
        return found


class PlainMafn(nn.Module):
    """MAFN as released, written plainly.

    Args:
        config: Sizes and kernels; every switch must have its default.
        inputs: Three bands, sides that are multiples of 32.

    Raises:
        HarnessError: Another switch or another size.
    """

    def __init__(self, config: MafnConfig, inputs: Inputs) -> None:
        super().__init__()
        plain = replace(MafnConfig(), backbone=config.backbone, text=config.text, kernels=config.kernels)
        if config != plain or inputs.image_size % 32:
            raise HarnessError(
                f"the plain reference is MAFN as released, for sides that are multiples of 32; received {config} and "
                f"{inputs.image_size}"
            )
        self.text = TextEncoder(
            config.text, vocab_size=inputs.vocab_size or config.text.vocab_size, pad_id=inputs.pad_id
        )
        self.backbone = Backbone(config, inputs, self.text.width)
        self.decoder = Decoder(config.backbone.widths, config.kernels)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Map a batch to logits `(B, 2, H, W)`."""
        words = self.text(batch["tokens"], batch["token_mask"])
        mask = batch["token_mask"][:, None].to(words.dtype)
        maps = self.backbone(batch["image"], words.transpose(1, 2), mask)
        return F.interpolate(self.decoder(maps), batch["image"].shape[2:], mode="bilinear", align_corners=True)


_NAMES = {
    "noise.in_proj_": "noise.attention.in_proj_",
    "noise.out_proj.": "noise.attention.out_proj.",
    "noise.key_offset": "noise.key_noise.weight",
    "noise.value_offset": "noise.value_noise.weight",
}
"""Part of a name in our model -> the same part here; all other names agree."""


def copy_weights(plain: PlainMafn, ours: MAFN) -> list[str]:
    """Fill the plain model with our model's weights and statistics, in place.

    Returns:
        Names that our model does not build; they keep their values.
    """
    places = plain.state_dict()
    unfilled = set(places)
    for name, tensor in ours.state_dict().items():
        place = name
        for part, other in _NAMES.items():
            place = place.replace(part, other)
        # our vectors are the first row of a table, our matrices may be 1x1 convolutions
        target = places[place][0] if name.endswith("_offset") else places[place]
        target.copy_(tensor.reshape(target.shape))
        unfilled.remove(place)
    return sorted(unfilled)


def full_size(image_size: int = 480) -> tuple[MafnConfig, Inputs]:
    """The published sizes with random weights."""
    backbone = replace(MafnConfig().backbone, pretrained=None)
    config = MafnConfig(backbone=backbone, text=TextConfig(pretrained=None))
    return config, Inputs(image_size=image_size, modalities={"image": 3}, vocab_size=30522)


def check_size() -> int:
    """The number of parameters at full size, which must be the published one."""
    with torch.device("meta"):
        num_parameters = sum(p.numel() for p in PlainMafn(*full_size()).parameters())
    if num_parameters != PUBLISHED_PARAMETERS:
        raise AssertionError(f"the plain model must have {PUBLISHED_PARAMETERS:,} parameters, got {num_parameters:,}")
    return num_parameters


def main() -> None:
    """Count and print."""
    print(f"plain MAFN at full size: {check_size():,} parameters, as published")


if __name__ == "__main__":
    main()
