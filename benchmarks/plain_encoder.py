"""The encoder of plain MAFN (`plain_mafn.py`): Swin with adaptive noise, the two branches and their gates.

Shapes: `B` images, `H W` map, `N = H * W`, `C` channels, `T` words, `D` text width, `G` windows per image, `h` heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE_HEADS = 8


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
