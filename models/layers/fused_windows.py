"""Attention inside windows, one window at a time, for training on a CPU.

Written with tensors of all windows at once, window attention moves the map through memory about ten times (padding,
rolling, cutting, scores, bias, mask, softmax, and back). Here one window's tokens and scores live in the processor's
cache, nothing but the map itself is kept, and backward computes the scores again (the idea of Dao et al.,
FlashAttention, NeurIPS 2022; the gradient of the bias is what PyTorch's own kernels lack on a CPU).

Shapes: `B` images, `H W` map, `C` channels, `w` window side, `G` windows per image, `N = w*w`, `h` heads, `d = C / h`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Where the tokens of one window are."""

    positions: Tensor
    """`(n,)` rows of the flattened map, n <= N."""
    slots: Tensor
    """`(n,)` their places in the window; the other places are padding."""


@lru_cache(maxsize=64)
def find_windows(height: int, width: int, *, window: int, shift: int) -> tuple[Window, ...]:
    """Return the G windows of a map that is padded at the bottom and the right and then rolled by `shift`."""
    with torch.inference_mode(False):
        padded = height + -height % window, width + -width % window
        rows, columns = ((torch.arange(side) + shift) % side for side in padded)
        inside = (rows < height)[:, None] & (columns < width)
        flat = torch.where(inside, rows[:, None] * width + columns, -1)
        # H' W' -> G N
        flat = flat.view(padded[0] // window, window, padded[1] // window, window).transpose(1, 2)
        flat = flat.reshape(-1, window * window)
        return tuple(Window(row[row >= 0], (row >= 0).nonzero()[:, 0]) for row in flat)


def _tokens(image: Tensor, empty: Tensor, place: Window, heads: int) -> Tensor:
    """Queries, keys and values of one window, `(3, h, N, d)`, from a flattened map `(H*W, 3C)`."""
    N = len(empty)
    if len(place.slots) == N:
        found = image.index_select(0, place.positions)
    else:
        found = empty.index_copy(0, place.slots, image.index_select(0, place.positions))
    # N 3C -> 3 h N d
    return found.view(N, 3, heads, -1).permute(1, 2, 0, 3)


def _attention(q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    scores = torch.baddbmm(bias, q, k.mT, alpha=q.shape[-1] ** -0.5)
    return torch.softmax(scores if mask is None else scores.add_(mask), dim=-1)


class _FusedWindows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, padding: Tensor, bias: Tensor, mask: Tensor | None, shift: int) -> Tensor:
        ctx.save_for_backward(qkv, padding, bias, mask)
        ctx.shift = shift
        B, H, W, C3 = qkv.shape
        h, N, _ = bias.shape
        empty = padding.expand(N, C3).contiguous()
        y = qkv.new_empty(B, H * W, C3 // 3)
        for b, image in enumerate(qkv.view(B, H * W, C3)):
            for g, place in enumerate(find_windows(H, W, window=round(N**0.5), shift=shift)):
                q, k, v = _tokens(image, empty, place, h)
                weights = _attention(q, k, bias, None if mask is None else mask[g])
                # h N d -> N C
                out = torch.bmm(weights, v).transpose(0, 1).reshape(N, -1)
                y[b].index_copy_(0, place.positions, out.index_select(0, place.slots))
        return y.view(B, H, W, C3 // 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, padding, bias, mask = ctx.saved_tensors
        B, H, W, C3 = qkv.shape
        h, N, _ = bias.shape
        empty = padding.expand(N, C3).contiguous()
        dqkv, dpadding, dbias = torch.empty_like(qkv).view(B, H * W, C3), padding * 0.0, torch.zeros_like(bias)
        dy = gradients[0].reshape(B, H * W, C3 // 3)
        nothing = dy.new_zeros(N, C3 // 3)
        for b, image in enumerate(qkv.view(B, H * W, C3)):
            for g, place in enumerate(find_windows(H, W, window=round(N**0.5), shift=ctx.shift)):
                q, k, v = _tokens(image, empty, place, h)
                weights = _attention(q, k, bias, None if mask is None else mask[g])
                dout = nothing.index_copy(0, place.slots, dy[b].index_select(0, place.positions))
                # N C -> h N d
                dout = dout.view(N, h, -1).transpose(0, 1)
                # gradient of softmax: p * (dp - sum(p dp))
                dscores = torch.bmm(dout, v.mT).mul_(weights)
                dscores.addcmul_(weights, dscores.sum(-1, keepdim=True), value=-1.0)
                dbias += dscores
                scale = q.shape[-1] ** -0.5
                parts = (
                    torch.bmm(dscores, k).mul_(scale),
                    torch.bmm(dscores.mT, q).mul_(scale),
                    torch.bmm(weights.mT, dout),
                )
                # 3 h N d -> N 3C
                dtokens = torch.stack(parts).permute(2, 0, 1, 3).reshape(N, C3)
                found = dtokens.index_select(0, place.slots)
                dqkv[b].index_copy_(0, place.positions, found)
                if len(place.slots) < N:
                    dpadding += dtokens.sum(0) - found.sum(0)
        return dqkv.view(qkv.shape), dpadding, dbias, None, None


def attend_windows(qkv: Tensor, *, padding: Tensor, bias: Tensor, mask: Tensor | None, shift: int) -> Tensor:
    """Return what every position reads in its window, `(B, H, W, C)`.

    Args:
        qkv: `(B, H, W, 3C)`, queries, keys and values, each `h` heads of `d`.
        padding: `(3C,)`, what fills the last windows.
        bias: `(h, N, N)`, added to the scores of every window.
        mask: `(G, N, N)`, added to the scores of each window's heads; None adds nothing.
        shift: By how much the padded map is rolled towards the top left.
    """
    y: Tensor = _FusedWindows.apply(qkv.contiguous(), padding, bias.contiguous(), mask, shift)
    return y
