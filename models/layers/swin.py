"""Swin Transformer stages on maps of any size (Liu et al., ICCV 2021, https://arxiv.org/abs/2103.14030).

Maps are padded before they are rolled, as in the detection and segmentation code of the Swin authors. Libraries that
roll first compute another function whenever the map is not a multiple of the window.

Shapes: `B` images, `H W` height and width of the map, `C` channels, `w` window side, `G` windows per image, `h` heads,
`d = C / h`. Maps are channels last: `(B, H, W, C)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.layers.fused_windows import attend_windows
from models.layers.pointwise import Linear
from models.layers.recompute import recompute
from models.layers.stochastic import DropPath

_PATCH = 4
_OUTSIDE_REGION = -100.0
_LEAST_FUSED_WINDOW = 7
"""Smaller windows are so many and so cheap that one at a time takes longer than all at once."""


@dataclass(frozen=True)
class SwinConfig:
    """Size and initial weights of the visual backbone; the defaults are Swin-B with window 12."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pretrained: str | None = "swin_base_patch4_window12_384.ms_in22k"
    """timm name of a Swin checkpoint, or path of a .pth or .safetensors file; null starts from random weights."""
    embed_dim: int = 128
    """Channels of the first stage; doubles at every further stage."""
    depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    """Blocks per stage, at least 1."""
    heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    """Attention heads per stage; divide the stage's channels."""
    window: int = 12
    """Side of an attention window in tokens, at least 2."""
    drop_path: float = 0.3
    """Probability of dropping the residual branches of the last block, 0 to below 1; grows linearly from 0."""

    def __post_init__(self) -> None:
        if self.embed_dim < 1 or self.window < 2 or min(self.depths) < 1 or min(self.heads) < 1:
            raise HarnessError(
                f"backbone: embed_dim, depths and heads must be at least 1 and window at least 2; received {self}"
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise HarnessError(
                    f"backbone.heads must divide the channels of their stage; received {heads} for {width} channels"
                )
        if not 0.0 <= self.drop_path < 1.0:
            raise HarnessError(f"backbone.drop_path must be at least 0 and below 1; received {self.drop_path}")

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Channels of the four stages."""
        return self.embed_dim, 2 * self.embed_dim, 4 * self.embed_dim, 8 * self.embed_dim


def stage_sides(image_size: int) -> tuple[int, int, int, int]:
    """Return the map side of the four stages for a square image of `image_size` pixels; odd sides are rounded up."""
    side = -(-image_size // _PATCH)
    sides = [side]
    for _ in range(3):
        side = -(-side // 2)
        sides.append(side)
    return sides[0], sides[1], sides[2], sides[3]


def extend_map(x: Tensor, value: Tensor, *, multiple: int) -> Tensor:
    """Extend a map at the bottom and the right to sides that are multiples of `multiple`.

    Args:
        x: `(B, H, W, C)`.
        value: `(C,)`, what the new positions hold.
        multiple: Positive.

    Returns:
        `(B, H', W', C)`.
    """
    B, H, W, C = x.shape
    rows, columns = -H % multiple, -W % multiple
    value = value.to(x.dtype)
    if columns:
        x = torch.cat([x, value.expand(B, H, columns, C)], dim=2)
    if rows:
        x = torch.cat([x, value.expand(B, rows, W + columns, C)], dim=1)
    return x


def relative_position_index(window: int) -> Tensor:
    """Return `(w*w, w*w)` int64: the row of the bias table for each pair of positions of a window."""
    axis = torch.arange(window, device="cpu")
    points = torch.cartesian_prod(axis, axis)
    offsets = points[:, None] - points[None, :] + (window - 1)
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


@lru_cache(maxsize=32)
def shift_mask(height: int, width: int, *, window: int, shift: int, device: torch.device) -> Tensor:
    """Return `(G, w*w, w*w)`: 0 for pairs that were neighbours before the roll, -100 for the others.

    Args:
        height: Of the padded map, a multiple of `window`.
        width: Likewise.
        window: Window side.
        shift: By how much the map was rolled towards the top left.
        device: Where the mask is wanted.
    """

    def regions(side: int) -> Tensor:
        positions = torch.arange(side, device=device)
        return (positions >= side - window).long() + (positions >= side - shift).long()

    with torch.inference_mode(False):
        labels = 3 * regions(height)[:, None] + regions(width)[None, :]
        # H W -> G w*w
        windows = labels.view(height // window, window, width // window, window).transpose(1, 2)
        windows = windows.reshape(-1, window * window)
        different = windows[:, :, None] != windows[:, None, :]
        return different.to(torch.float32) * _OUTSIDE_REGION


class WindowAttention(nn.Module):
    """Multi-head attention inside (shifted) windows with a relative position bias.

    Args:
        channels: Width C.
        heads: Number of heads, divides C.
        window: Window side.
        shift: Cyclic shift, 0 or half the window.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, *, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.channels, self.heads, self.window, self.shift = channels, heads, window, shift
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window).view(-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows; `x` and the result are `(B, H, W, C)`.

        Positions added to fill the last windows are zero tokens, so their projection is the bias: projecting before
        padding gives the same result for fewer products.
        """
        qkv = self.qkv(x)
        on_cpu = x.device.type == "cpu" and qkv.dtype != torch.bfloat16
        pays = self.window >= _LEAST_FUSED_WINDOW and on_cpu and torch.is_grad_enabled()
        mix = self._mix_one_by_one if pays else self._mix_at_once
        projected: Tensor = self.proj(mix(qkv))
        return projected

    def _bias(self) -> Tensor:
        N = self.window**2
        # N*N h -> h N N
        return (
            F.embedding(self.relative_position_index, self.relative_position_bias_table).view(N, N, -1).permute(2, 0, 1)
        )

    def _shift_mask(self, qkv: Tensor, height: int, width: int) -> Tensor:
        return shift_mask(height, width, window=self.window, shift=self.shift, device=qkv.device)

    def _mix_one_by_one(self, qkv: Tensor) -> Tensor:
        H, W = (side + -side % self.window for side in qkv.shape[1:3])
        mask = self._shift_mask(qkv, H, W).to(qkv.dtype) if self.shift else None
        return attend_windows(qkv, padding=self.qkv.bias, bias=self._bias(), mask=mask, shift=self.shift)

    def _mix_at_once(self, qkv: Tensor) -> Tensor:
        B, H, W, C = *qkv.shape[:3], self.channels
        w, h = self.window, self.heads
        qkv = extend_map(qkv, self.qkv.bias, multiple=w)
        if self.shift:
            qkv = qkv.roll((-self.shift, -self.shift), dims=(1, 2))
        padded_height, padded_width = qkv.shape[1:3]
        rows, columns = padded_height // w, padded_width // w
        # B H W 3C -> 3 B G h w*w d
        qkv = qkv.view(B, rows, w, columns, w, 3, h, C // h).permute(5, 0, 1, 3, 6, 2, 4, 7)
        qkv = qkv.reshape(3, B, rows * columns, h, w * w, C // h)
        y = self._attend(qkv, (padded_height, padded_width))
        # B G h w*w d -> B H W C
        y = y.view(B, rows, columns, h, w, w, C // h).permute(0, 1, 4, 2, 5, 3, 6)
        y = y.reshape(B, padded_height, padded_width, C)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        return y[:, :H, :W]

    def _attend(self, qkv: Tensor, padded: tuple[int, int]) -> Tensor:
        _, B, G, h, N, d = qkv.shape
        bias = self._bias().to(qkv.dtype)
        if not self.shift:
            # windows share the bias: 3 B G h N d -> 3 B*G h N d
            q, k, v = qkv.view(3, B * G, h, N, d).unbind(0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        mask = self._shift_mask(qkv, *padded)
        # every window has its own mask: 3 B G h N d -> 3 B G*h N d
        q, k, v = qkv.view(3, B, G * h, N, d).unbind(0)
        masked = (bias[None] + mask[:, None]).reshape(1, G * h, N, N)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=masked.to(q.dtype))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between.

    Args:
        channels: Width C; the inner width is 4 C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, 4 * channels)
        self.fc2 = Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (..., C)` to `(..., C)`."""
        return recompute(self._contract, self.fc1(x))

    def _contract(self, inner: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(inner))
        return y


class SwinBlock(nn.Module):
    """Window attention and MLP, each with layer norm before and a residual around.

    Args:
        attention: The window attention; its width is the block's.
        drop_path: Probability of dropping a residual branch.
        noise: What is applied to the attended map inside the attention's residual, for example `AdaptiveNoise`.
    """

    def __init__(self, attention: WindowAttention, *, drop_path: float, noise: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(attention.channels)
        self.attn = attention
        self.noise = noise
        self.norm2 = nn.LayerNorm(attention.channels)
        self.mlp = Mlp(attention.channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, H, W, C)` to `(B, H, W, C)`."""
        x = self.drop_path.add(x, self._attend)
        return self.drop_path.add(x, self._transform)

    def _attend(self, x: Tensor) -> Tensor:
        update: Tensor = self.attn(self.norm1(x))
        return update if self.noise is None else self.noise(update)

    def _transform(self, x: Tensor) -> Tensor:
        update: Tensor = self.mlp(self.norm2(x))
        return update


class PatchMerging(nn.Module):
    """Halve the map and double the channels; odd sides are padded with one zero row or column.

    Args:
        channels: Width C of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, H, W, C)` to `(B, ceil(H/2), ceil(W/2), 2C)`."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        B, H, W, C = x.shape
        # neighbours (row, column) in the order (0,0) (1,0) (0,1) (1,1): B H W C -> B H/2 W/2 4C
        x = x.view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).reshape(B, H // 2, W // 2, 4 * C)
        y: Tensor = self.reduction(self.norm(x))
        return y


class PatchEmbedding(nn.Module):
    """Cut an image into 4x4 patches, one token each.

    Args:
        bands: Bands of the image.
        channels: Width C of a token.
    """

    def __init__(self, bands: int, *, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, channels, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map `image (B, bands, H, W)` to `(B, ceil(H/4), ceil(W/4), C)`."""
        image = F.pad(image, (0, -image.shape[3] % _PATCH, 0, -image.shape[2] % _PATCH))
        # B C H W -> B H W C
        tokens: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return tokens
