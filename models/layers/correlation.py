"""Correlation-aware fusion of the visual and the language map of a stage (MAFN, section III-C, Eq. 10-13).

Shapes: `B` images, `H W` map, `C` channels, `k` window side. Maps are channels last: `(B, H, W, C)`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.pointwise import Linear, Pointwise
from models.layers.recompute import recompute
from models.layers.swin import extend_map

WINDOWS = (3, 5, 7)
"""Window sides of the three branches of the multi-window block."""
_NUM_OFFSETS = 9


def _shifted(padded: Tensor) -> list[Tensor]:
    """The nine views `(B, H, W, C)` of a map with a margin of 1, rows outer."""
    H, W = padded.shape[1] - 2, padded.shape[2] - 2
    return [padded[:, y : y + H, x : x + W] for y in range(3) for x in range(3)]


class _Correlation(torch.autograd.Function):
    """The correlations with a backward that adds nine times in place, where autograd fills eighteen maps of zeros."""

    @staticmethod
    def forward(ctx: Any, visual: Tensor, language: Tensor) -> Tensor:
        padded = F.pad(language, (0, 0, 1, 1, 1, 1))
        ctx.save_for_backward(visual, padded)
        return torch.stack([(visual * view).mean(-1) for view in _shifted(padded)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        visual, padded = ctx.saved_tensors
        shares = (gradients[0] / visual.shape[-1]).unsqueeze(-2).unbind(-1)
        dvisual, dpadded = torch.zeros_like(visual), torch.zeros_like(padded)
        for share, view, dview in zip(shares, _shifted(padded), _shifted(dpadded), strict=True):
            dvisual.addcmul_(view, share)
            dview.addcmul_(visual, share)
        return dvisual, dpadded[:, 1:-1, 1:-1]


def correlate(visual: Tensor, language: Tensor) -> Tensor:
    """Correlate each visual position with the language map around it.

    Args:
        visual: `(B, H, W, C)`.
        language: `(B, H, W, C)`, taken as zero outside the map.

    Returns:
        `(B, H, W, 9)`: mean over C of the products, offsets -1, 0, 1 in rows (outer) and columns (inner).
    """
    if visual.device.type == "cpu" and visual.dtype == language.dtype:
        y: Tensor = _Correlation.apply(visual, language)
        return y
    return torch.stack([(visual * view).mean(-1) for view in _shifted(F.pad(language, (0, 0, 1, 1, 1, 1)))], dim=-1)


def convolve(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to `x (B, H, W, C)`; the permutations only change strides."""
    y: Tensor = convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y


class WindowGatedMlp(nn.Module):
    """gMLP whose spatial gate mixes the positions of k x k windows (Tu et al., MAXIM, CVPR 2022).

    Args:
        channels: Width C.
        window: Side k.
    """

    def __init__(self, channels: int, *, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(channels)
        self.expand = Linear(channels, 2 * channels)
        self.gate_norm = nn.LayerNorm(channels)
        self.gate = nn.Linear(window * window, window * window)
        self.contract = Linear(channels, channels)

    def forward(self, n: Tensor) -> Tensor:
        """Map `n (B, H, W, C)` to `(B, H, W, C)`.

        Only the gate sees windows. Positions that fill the last windows are zero tokens; one of them is computed and
        copied.
        """
        return recompute(self._mix_windows, self.expand(self.norm(n))) + n

    def _mix_windows(self, expanded: Tensor) -> Tensor:
        content, gate = self._halves(expanded)
        B, H, W, C = gate.shape
        k = self.window
        if H % k or W % k:
            empty = self.expand(self.norm(gate.new_zeros(C)))
            gate = extend_map(gate, self._halves(empty)[1], multiple=k)
        rows, columns = gate.shape[1] // k, gate.shape[2] // k
        # B H W C -> k*k B*rows*columns*C
        gate = gate.view(B, rows, k, columns, k, C).permute(2, 4, 0, 1, 3, 5).reshape(k * k, -1)
        gate = torch.addmm(self.gate.bias[:, None], self.gate.weight, gate)
        # k*k B*rows*columns*C -> B H W C
        gate = gate.view(k, k, B, rows, columns, C).permute(2, 3, 0, 4, 1, 5).reshape(B, rows * k, columns * k, C)
        y: Tensor = self.contract(torch.addcmul(content, content, gate[:, :H, :W]))
        return y

    def _halves(self, expanded: Tensor) -> tuple[Tensor, Tensor]:
        content, gate = F.gelu(expanded).chunk(2, dim=-1)
        return content, self.gate_norm(gate)


class MultiWindow(nn.Module):
    """Three window-gated MLPs, weighted per channel, with a residual.

    Args:
        channels: Width C, divisible by 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.branches = nn.ModuleList(WindowGatedMlp(channels, window=k) for k in WINDOWS)
        self.weigh_inner = nn.Linear(channels, channels // 4)
        self.weigh_outer = nn.Linear(channels // 4, len(WINDOWS) * channels)
        self.project = Linear(channels, channels)

    def forward(self, y: Tensor) -> Tensor:
        """Map `y (B, H, W, C)` to `(B, H, W, C)`."""
        n = self.norm(y)
        outputs = [branch(n) for branch in self.branches]
        pooled = torch.stack([o.mean(dim=(1, 2)) for o in outputs]).sum(0)
        logits = self.weigh_outer(F.gelu(self.weigh_inner(pooled)))
        # B 3C -> 3 B 1 1 C
        weights = torch.softmax(logits.view(len(pooled), -1, len(WINDOWS)), dim=-1).permute(2, 0, 1)[:, :, None, None]
        mixed = weights[0] * outputs[0]
        for weight, output in zip(weights[1:], outputs[1:], strict=True):
            mixed = torch.addcmul(mixed, weight, output)
        m: Tensor = self.project(mixed) + y
        return m


class ChannelIntensification(nn.Module):
    """Two 3x3 convolutions and a squeeze-excite weight, with a residual.

    Args:
        channels: Width C, divisible by 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = Pointwise(channels, channels // 4)
        self.excite = Pointwise(channels // 4, channels)

    def forward(self, m: Tensor) -> Tensor:
        """Map `m (B, H, W, C)` to `(B, H, W, C)`."""
        q = convolve(self.conv2, F.leaky_relu_(convolve(self.conv1, self.norm(m)), 0.2))
        weights = torch.sigmoid(self.excite(self.squeeze(q.mean(dim=(1, 2))).relu()))
        return torch.addcmul(m, weights[:, None, None], q)


class CorrelationFusion(nn.Module):
    """Fuse a visual and a language map.

    Args:
        channels: Width C of both maps, divisible by 4.
        use_corr: Whether the nine correlations join the concatenation.
    """

    def __init__(self, channels: int, *, use_corr: bool = True) -> None:
        super().__init__()
        self.use_corr = use_corr
        self.conv = nn.Conv2d(2 * channels + (_NUM_OFFSETS if use_corr else 0), channels, 3, padding=1)
        self.multi_window = MultiWindow(channels)
        self.intensify = ChannelIntensification(channels)

    def forward(self, visual: Tensor, language: Tensor) -> Tensor:
        """Fuse two maps `(B, H, W, C)` into one `(B, H, W, C)`."""
        middle = [correlate(visual, language)] if self.use_corr else []
        y = convolve(self.conv, torch.cat([visual, *middle, language], dim=-1))
        fused: Tensor = self.intensify(self.multi_window(y)) + y
        return fused
