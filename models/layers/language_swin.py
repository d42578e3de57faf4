"""Swin backbone that reads the sentence at every stage: LAVT, RMSIN and MAFN are settings of it.

Sources: LAVT (Yang et al., CVPR 2022), RMSIN (Liu et al., CVPR 2024), MAFN (Shi and Zhang, GRSL 2025,
https://arxiv.org/abs/2503.11183). Parts whose output nothing reads are not built.

Shapes: `B` images, `H W` map, `C` channels, `T` words, `D` text width. Inside, maps are channels last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from harness.errors import HarnessError
from models.layers.cim import CrossScaleInteraction
from models.layers.correlation import CorrelationFusion
from models.layers.noise import NUM_NOISE_HEADS, AdaptiveNoise
from models.layers.pointwise import Gate, initialise_backbone
from models.layers.pwam import PixelWordAttention
from models.layers.swin import PatchEmbedding, PatchMerging, SwinBlock, SwinConfig, WindowAttention, stage_sides
from models.layers.visual_branch import VisualBranch

_NUM_STAGES = 4


@dataclass(frozen=True)
class LanguageSwinConfig:
    """Size of the backbone and what happens at the end of its stages."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backbone: SwinConfig = field(default_factory=SwinConfig)
    """Swin size and initial weights."""
    fusion: Literal["sum", "correlation"] = "correlation"
    """How the visual and the language branch are joined: added, or by correlation-aware fusion."""
    use_corr: bool = True
    """Whether correlation-aware fusion sees the nine correlations; without them only the two maps."""
    noise: bool = True
    """Adaptive noise in every Swin block."""
    noise_scope: Literal["pixel", "window"] = "pixel"
    """What a position attends to: altered copies of itself (released code) or of its window (reading of Eq. 2-5)."""
    noise_init_std: float = 1.0
    """Standard deviation of the learned noise vectors at the start, at least 0 (released code: 1)."""
    language_pathway: bool = True
    """Whether what the words said goes on to the next stage; without it only the decoder gets it (`sum` only)."""
    language_gate: bool = True
    """Tanh gate on what the words said before it goes on."""
    visual_branch: bool = True
    """Visual branch with its gate; without it `sum` adds language only and `correlation` takes the stage's features."""
    cim: bool = True
    """Cross-scale interaction of the four maps before the decoder."""
    decoder_source: Literal["pwam", "fused"] = "pwam"
    """What leaves a stage: the pixel-word attention (released code) or the stage's fused features (paper)."""
    pwam_act: Literal["gelu", "relu"] = "gelu"
    """Activation in pixel-word attention (released code: GELU; LAVT's paper: ReLU)."""

    def __post_init__(self) -> None:
        width = self.backbone.embed_dim
        if self.noise and width % NUM_NOISE_HEADS:
            raise HarnessError(
                f"noise needs backbone.embed_dim divisible by {NUM_NOISE_HEADS} (its attention heads); received {width}"
            )
        if (self.cim or self.fusion == "correlation") and width % 4:
            raise HarnessError(f"cim and fusion 'correlation' need backbone.embed_dim divisible by 4; received {width}")
        if self.noise_init_std < 0.0:
            raise HarnessError(f"noise_init_std must be at least 0; received {self.noise_init_std}")
        if not self.language_pathway and (self.fusion != "sum" or self.decoder_source != "pwam"):
            raise HarnessError(
                "language_pathway: false needs fusion 'sum' and decoder_source 'pwam', because then only the decoder "
                f"reads the language branch; received {self.fusion!r} and {self.decoder_source!r}"
            )


class StageFusion(nn.Module):
    """Join what the visual and the language branch give and add it to the stage's features.

    Args:
        channels: Width C.
        config: Which branches and which fusion.
    """

    def __init__(self, channels: int, config: LanguageSwinConfig) -> None:
        super().__init__()
        self.language_pathway = config.language_pathway
        gated = config.language_pathway and config.language_gate
        self.language_gate: nn.Module = Gate(channels) if gated else nn.Identity()
        self.visual_branch = VisualBranch() if config.visual_branch else None
        self.visual_gate = Gate(channels) if config.visual_branch else None
        self.correlation = (
            CorrelationFusion(channels, use_corr=config.use_corr) if config.fusion == "correlation" else None
        )

    def forward(self, x: Tensor, read: Tensor) -> Tensor:
        """Update features `x` with the pixel-word attention `read`; all `(B, H, W, C)`."""
        visual = None
        if self.visual_branch is not None and self.visual_gate is not None:
            visual = self.visual_gate(self.visual_branch(x))
        if self.correlation is not None:
            fused: Tensor = x + self.correlation(x if visual is None else visual, self.language_gate(read))
            return fused
        if self.language_pathway:
            x = x + self.language_gate(read)
        return x if visual is None else x + visual


class StageOutput(NamedTuple):
    """What a stage returns."""

    state: Tensor
    """`(B, H/2, W/2, 2C)` for the next stage; the unmerged features at the last one."""
    outgoing: Tensor
    """`(B, H, W, C)` for the decoder, before its layer norm."""


class LanguageStage(nn.Module):
    """Swin blocks, pixel-word attention, fusion, patch merging.

    Args:
        index: 0 to 3.
        config: Of the backbone.
        text_width: D.
    """

    def __init__(self, index: int, config: LanguageSwinConfig, *, text_width: int) -> None:
        super().__init__()
        swin = config.backbone
        channels = swin.widths[index]
        last = index == _NUM_STAGES - 1
        self.outgoing_is_fused = config.decoder_source == "fused"
        self.blocks = nn.ModuleList(_block(index, position, config) for position in range(swin.depths[index]))
        self.pwam = PixelWordAttention(channels, text_width=text_width, activation=config.pwam_act)
        # Nothing reads the fused features of the last stage unless they go to the decoder.
        self.fusion = None if last and not self.outgoing_is_fused else StageFusion(channels, config)
        self.merging = None if last else PatchMerging(channels)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> StageOutput:
        """Run the stage on `x (B, H, W, C)`, `words (B, T, D)` and `mask (B, T)`."""
        for block in self.blocks:
            x = block(x)
        # B H W C -> B H*W C and back
        read = self.pwam(x.flatten(1, 2), words, mask).view(x.shape)
        if self.fusion is not None:
            x = self.fusion(x, read)
        outgoing = x if self.outgoing_is_fused else read
        return StageOutput(x if self.merging is None else self.merging(x), outgoing)


def _block(stage: int, position: int, config: LanguageSwinConfig) -> SwinBlock:
    swin = config.backbone
    channels = swin.widths[stage]
    # drop path grows linearly over all blocks of the network
    rank, num_blocks = sum(swin.depths[:stage]) + position, sum(swin.depths)
    drop_path = swin.drop_path * rank / max(num_blocks - 1, 1)
    shift = swin.window // 2 if position % 2 else 0
    attention = WindowAttention(channels, heads=swin.heads[stage], window=swin.window, shift=shift)
    noise = (
        AdaptiveNoise(channels, init_std=config.noise_init_std, scope=config.noise_scope, window=swin.window)
        if config.noise
        else None
    )
    return SwinBlock(attention, drop_path=drop_path, noise=noise)


class LanguageSwin(nn.Module):
    """Four language-aware stages and, if wanted, cross-scale interaction.

    Args:
        config: Size and switches.
        bands: Bands of the image.
        text_width: Width D of the words.
        image_size: Side of the images in pixels; fixes the grid of the cross-scale interaction.
    """

    def __init__(self, config: LanguageSwinConfig, *, bands: int, text_width: int, image_size: int) -> None:
        super().__init__()
        widths = config.backbone.widths
        side = stage_sides(image_size)[-1]
        self.patch_embed = PatchEmbedding(bands, channels=config.backbone.embed_dim)
        self.stages = nn.ModuleList(LanguageStage(i, config, text_width=text_width) for i in range(_NUM_STAGES))
        self.out_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.cim = CrossScaleInteraction(widths, grid=(side, side)) if config.cim else None
        initialise_backbone(self)

    def forward(self, image: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the four maps `(B, Ci, Hi, Wi)` for the decoder, shallow first.

        Args:
            image: `(B, bands, H, W)`.
            words: `(B, T, D)`.
            mask: `(B, T)`, 1 for words and 0 for padding.
        """
        x = self.patch_embed(image)
        maps = []
        for stage, norm in zip(self.stages, self.out_norms, strict=True):
            x, outgoing = stage(x, words, mask)
            # B H W C -> B C H W
            maps.append(norm(outgoing).permute(0, 3, 1, 2))
        return maps if self.cim is None else self.cim(maps)

    def undecayed_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters without weight decay: norms of tokens, blocks, merging and outputs, and position tables.

        The published rule looks for `norm` and `relative_position_bias_table` in its own names; batch norms (`bn`) and
        the norms of the correlation-aware fusion (`LayerNorm`) do not match and are decayed.
        """
        yield from self.patch_embed.norm.parameters()
        for module in self.stages.modules():
            if isinstance(module, SwinBlock):
                yield module.attn.relative_position_bias_table
                yield from module.norm1.parameters()
                yield from module.norm2.parameters()
            elif isinstance(module, PatchMerging):
                yield from module.norm.parameters()
        yield from self.out_norms.parameters()
