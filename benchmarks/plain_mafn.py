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

from benchmarks.plain_encoder import Block, PatchEmbedding, PatchMerging, PixelWordAttention, make_shift_mask
from benchmarks.plain_fusion import Fusion, Interaction
from harness.errors import HarnessError
from models.base import Inputs
from models.mafn import MAFN, MafnConfig
from models.text import TextConfig, TextEncoder

PUBLISHED_PARAMETERS = 350_056_899


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
