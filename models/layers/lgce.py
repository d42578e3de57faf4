"""Language-guided cross-scale module of LGCE: a sentence token joins the two deep maps and attends with them.

Source: LGCE (Yuan et al., TGRS 2024, https://arxiv.org/abs/2306.08625), which published no network; this follows a
specification of the network that a third party's code carries under LGCE's name. There, two levels exchange their
sentence tokens after the attention, and the tokens are then dropped: the exchange cannot influence the maps, and with
`lgce_exchange: code` it is not built (7,353,856 parameters at paper size). `effective` runs it before the attention, so
that the maps can read the exchanged tokens; that is our own reading of the paper, inferred and not confirmed.

Shapes: `B` images, `C H W` a map, `N = H * W` its positions, `T` tokens, `D` text width, `h` heads, `d = C / h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError

_MLP_RATIO = 2


@dataclass(frozen=True)
class LanguageGuidanceConfig:
    """Size and order of the language-guided module."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    language_guidance: bool = True
    """Whether the maps of stages 3 and 4 attend together with a sentence token before the decoder."""
    lgce_exchange: Literal["code", "effective"] = "code"
    """`code`: no exchange between the levels, as in the only code known, where it has no influence; `effective`: the
    levels exchange sentence tokens before they attend (our reading of the paper, inferred)."""
    guide_depths: tuple[int, int] = (1, 3)
    """Attention blocks on the maps of stages 3 and 4, at least 1."""
    guide_heads: tuple[int, int] = (8, 16)
    """Attention heads on the maps of stages 3 and 4; divide the channels of both, as the exchange swaps them."""

    def require_fit(self, widths: Sequence[int]) -> None:
        """Raise HarnessError unless the module can be built on maps of these two widths."""
        if min(self.guide_depths) < 1 or min(self.guide_heads) < 1:
            raise HarnessError(
                "guide_depths and guide_heads must be at least 1; "
                f"received {list(self.guide_depths)} and {list(self.guide_heads)}"
            )
        for width, heads in zip(widths, self.guide_heads, strict=True):
            if width % heads:
                raise HarnessError(f"guide_heads must divide the stage's channels; received {heads} for {width}")


def _split_heads(x: Tensor, heads: int) -> Tensor:
    # B N C -> B h N d
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


class TokenAttention(nn.Module):
    """Multi-head attention among all tokens.

    Args:
        channels: Width C.
        heads: h, divides C.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, N, C)` to `(B, N, C)`."""
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        y: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class TokenBlock(nn.Module):
    """Attention and MLP, each with layer norm before and a residual around.

    Args:
        channels: Width C; the MLP's inner width is 2 C.
        heads: h.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = TokenAttention(channels, heads=heads)
        self.norm2 = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, N, C)` to `(B, N, C)`."""
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


def _change_width(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_channels), nn.GELU(), nn.Linear(in_channels, out_channels))


class GuideExchange(nn.Module):
    """Let the sentence token of one level read the map of another, in that level's width.

    Args:
        channels: Width C of the token's level.
        other: Width C' of the level that is read.
        heads: h of the level that is read.
    """

    def __init__(self, channels: int, other: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.enter = _change_width(channels, other)
        self.norm = nn.LayerNorm(other)
        self.query = nn.Linear(other, other, bias=False)
        self.key = nn.Linear(other, other, bias=False)
        self.value = nn.Linear(other, other, bias=False)
        self.proj = nn.Linear(other, other)
        self.leave = _change_width(other, channels)

    def forward(self, guide: Tensor, patches: Tensor) -> Tensor:
        """Map `guide (B, 1, C)` to `(B, 1, C)`, reading `patches (B, N, C')` and itself."""
        token = self.enter(guide)
        tokens = self.norm(torch.cat([token, patches], dim=1))
        q = _split_heads(self.query(tokens[:, :1]), self.heads)
        k, v = (_split_heads(layer(tokens), self.heads) for layer in (self.key, self.value))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.leave(token + self.proj(read))
        return y


class LanguageGuidance(nn.Module):
    """Refine the two deep maps with a sentence token.

    The token is the mean of all word features, padding included, as in the code it follows.

    Args:
        config: Depths, heads, exchange.
        widths: Channels of the two maps.
        text_width: D.
    """

    def __init__(self, config: LanguageGuidanceConfig, *, widths: Sequence[int], text_width: int) -> None:
        super().__init__()
        self.guides = nn.ModuleList(nn.Linear(text_width, width) for width in widths)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(TokenBlock(width, heads=heads) for _ in range(depth)))
            for width, heads, depth in zip(widths, config.guide_heads, config.guide_depths, strict=True)
        )
        self.exchanges = nn.ModuleList(
            GuideExchange(widths[level], widths[1 - level], heads=config.guide_heads[1 - level])
            for level in (range(2) if config.lgce_exchange == "effective" else ())
        )

    def attend(self, guides: Sequence[Tensor], patches: Sequence[Tensor]) -> list[Tensor]:
        """Run the blocks of both levels on `[guide (B, 1, C), patches (B, N, C)]`; `(B, 1 + N, C)` each."""
        return [block(torch.cat(pair, dim=1)) for block, *pair in zip(self.blocks, guides, patches, strict=True)]

    def exchange(self, guides: Sequence[Tensor], patches: Sequence[Tensor]) -> list[Tensor]:
        """Let the token `(B, 1, C)` of each level read the patches `(B, N, C)` of the other."""
        return [exchange(guides[i], patches[1 - i]) for i, exchange in enumerate(self.exchanges)]

    def forward(self, maps: Sequence[Tensor], words: Tensor) -> list[Tensor]:
        """Refine the last two of four maps `(B, Ci, Hi, Wi)` by `words (B, T, D)`."""
        sentence = words.mean(dim=1, keepdim=True)
        guides = [project(sentence) for project in self.guides]
        # B C H W -> B N C
        patches = [x.flatten(2).transpose(1, 2) for x in maps[2:]]
        if self.exchanges:
            guides = self.exchange(guides, patches)
        attended = self.attend(guides, patches)
        # B 1+N C -> B C H W, without the token
        refined = [y[:, 1:].transpose(1, 2).reshape(x.shape) for y, x in zip(attended, maps[2:], strict=True)]
        return [*maps[:2], *refined]
