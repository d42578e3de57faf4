"""Pretrained Swin weights from timm or from a file, under our names; timm's ResNet, ViT and PVT v2.

Of Swin only weights are taken from timm: its Swin rolls before padding and so differs from the published one on maps
that are not multiples of the window.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError, nearest
from models.layers.backbone_sizes import PyramidConfig, StridedResNetConfig, ViTConfig
from models.layers.positions import encode_grid, is_square, resize_positions
from models.layers.semantic_heads import as_map

_LOG = logging.getLogger(__name__)
_FILE_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_IGNORED = re.compile(r"^(head\.|norm\.)|relative_position_index$|attn_mask$")
_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")
_TABLE = "relative_position_bias_table"
MIN_LOADED = 0.8
"""Share of a ViT's tensors below which a checkpoint is taken for one of another model."""
_PARTS = (("conv1", "bn1", "act1", "maxpool"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
_OURS = re.compile(r"^(patch_embed\.|stages\.\d+\.(merging\.|blocks\.\d+\.(norm1|norm2|attn|mlp)\.))")


class _Family(NamedTuple):
    """Whose weights are read, for messages."""

    key: str
    """Of the study file."""
    title: str
    pattern: str
    """Of timm's names."""
    example: str
    """A file that fits."""


_SWIN = _Family(
    "backbone.pretrained",
    "Swin",
    "swin_*",
    "Swin-B: swin_base_patch4_window12_384_22k.pth of github.com/SwinTransformer/storage",
)
_RESNET = _Family(
    "backbone.pretrained",
    "ResNet",
    "resnet*",
    "ResNet-101: model.safetensors of hub repository timm/resnet101.tv_in1k",
)
_VIT = _Family(
    "trunk.pretrained",
    "ViT",
    "vit_*",
    "ViT-B/16: model.safetensors of hub repository timm/vit_base_patch16_384.orig_in21k_ft_in1k",
)


class LoadedWeights(NamedTuple):
    """What was taken from a checkpoint."""

    loaded: tuple[str, ...]
    """Our names that received a tensor."""
    resized: tuple[str, ...]
    """Our names of position tables that were resized to our window."""
    ignored: tuple[str, ...]
    """Names of the checkpoint that have no place here: classifier, final norm, derived tables."""
    missing: tuple[str, ...] = ()
    """Our names that received nothing and keep their values."""


def _timm() -> Any:
    import timm  # takes seconds, which a plan or a report need not wait

    return timm


def load_swin_weights(backbone: nn.Module, source: str) -> LoadedWeights:
    """Load pretrained weights into the Swin part of a backbone, in place; all other parts keep their values.

    Args:
        backbone: Has `patch_embed` and `stages`, with the names of `models.layers.swin`.
        source: Path of a `.pth` or `.safetensors` file, or name of a timm checkpoint.

    Raises:
        HarnessError: The checkpoint cannot be had, or does not fit the backbone.
    """
    published = _published(source, _SWIN)
    ignored = tuple(name for name in published if _IGNORED.search(name))
    renamed = rename_swin({name: tensor for name, tensor in published.items() if name not in ignored})
    targets = {name: tensor for name, tensor in backbone.state_dict().items() if _OURS.match(name)}
    resized = tuple(
        name
        for name, tensor in renamed.items()
        if name.endswith(_TABLE) and name in targets and tensor.shape != targets[name].shape
    )
    for name in resized:
        renamed[name] = resize_position_table(renamed[name], rows=targets[name].shape[0])
    _require_fit(renamed, targets, source)
    backbone.load_state_dict(renamed, strict=False)
    return LoadedWeights(tuple(renamed), resized, ignored)


def rename_swin(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename Swin weights; timm keeps the merging at the end of stage i with stage i + 1, the Swin authors with i."""
    merging_stages = {int(found[1]) for name in published if (found := _MERGING.match(name))}
    offset = 0 if 0 in merging_stages else 1

    def ours(name: str) -> str:
        name = _MERGING.sub(lambda found: f"stages.{int(found[1]) - offset}.merging.", name)
        return re.sub(r"^layers\.", "stages.", name)

    return {ours(name): tensor for name, tensor in published.items()}


def resize_position_table(table: Tensor, *, rows: int) -> Tensor:
    """Resize a relative position table `((2w-1)^2, heads)` to `(rows, heads)`, bicubic over the two offsets."""
    old, new = round(table.shape[0] ** 0.5), round(rows**0.5)
    # (old*old) h -> 1 h old old -> (new*new) h
    grid = table.t().reshape(1, -1, old, old).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return grid.reshape(-1, new * new).t().to(table.dtype)


def _require_fit(found: Mapping[str, Tensor], targets: Mapping[str, Tensor], source: str) -> None:
    missing = sorted(targets.keys() - found.keys())
    unknown = sorted(found.keys() - targets.keys())
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(target.shape)}"
        for name, target in sorted(targets.items())
        if name in found and found[name].shape != target.shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("without a place", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise HarnessError(
            f"weights {source!r} must fit backbone.embed_dim, depths and heads; received tensors: {'; '.join(problems)}"
        )


def _published(source: str, family: _Family) -> dict[str, Tensor]:
    """Tensors of a checkpoint, from a file if the name ends like one, else from timm's cache or the hub."""
    if source.endswith(_FILE_SUFFIXES):
        return _read_file(Path(source).expanduser(), family)
    return _from_timm(source, family)


def _read_file(path: Path, family: _Family) -> dict[str, Tensor]:
    if not path.is_file():
        raise HarnessError(
            f"{family.key} must be an existing file; {path} is missing; put a {family.title} checkpoint there "
            f"({family.example}) or use a timm name"
        )
    try:
        state: dict[str, Tensor] = _timm().models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise HarnessError(f"{family.key} must be a readable file of tensors; {path}: {reason}") from error
    return state


def _from_timm(name: str, family: _Family) -> dict[str, Tensor]:
    known: list[str] = _timm().list_models(family.pattern, pretrained=True)
    if name not in known:
        raise HarnessError(
            f"{family.key} must be a .pth or .safetensors file or a timm {family.title} name; received {name!r}; "
            + nearest(name, known)
        )
    try:
        state: dict[str, Tensor] = _timm().create_model(name, pretrained=True).state_dict()
    except Exception as error:
        cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
        raise HarnessError(
            f"pretrained {family.title} {name!r} is neither in the cache ({cache}) nor reachable on the hub; on a "
            f"machine with network run `hf download timm/{name}` and copy the cache, or set {family.key} to its "
            "model.safetensors"
        ) from error
    return state


@dataclass(frozen=True)
class ResNetConfig:
    """A bottleneck ResNet with output stride 8; the sizes must be those of the pretrained weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    pretrained: str | None = "resnet101.tv_in1k"
    """timm name or `.pth`/`.safetensors` file of a ResNet; null starts it at random and trains all of it."""
    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    """Blocks per stage, each at least 1; (3, 4, 23, 3) is ResNet-101."""
    width: int = 64
    """Inner channels of the first stage, at least 1; the four stages put out 4, 8, 16 and 32 times as many."""
    trained: Literal["none", "last", "all"] = "none"
    """Which pretrained stages are trained; what is not keeps its weights and its batch norm statistics."""

    def __post_init__(self) -> None:
        if min(*self.depths, self.width) < 1:
            raise HarnessError(
                f"backbone: depths and width must be at least 1; received {list(self.depths)}, {self.width}"
            )

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the stages 2, 3 and 4, which `ResNet` returns."""
        return 8 * self.width, 16 * self.width, 32 * self.width


class FrozenBatchNorm(nn.Module):
    """Batch norm that keeps its statistics and its scale and shift, in training too, under the names of batch norm."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach(), requires_grad=False)
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(B, C, H, W)`."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ResNet(nn.Module):
    """timm's ResNet, its last two stages dilated by 2 and 4 instead of strided.

    Args:
        config: Size, weights, what is trained.
        bands: Channels of the image.
    """

    def __init__(self, config: ResNetConfig, *, bands: int = 3) -> None:
        super().__init__()
        resnet = _timm().models.resnet
        made = resnet.ResNet(
            resnet.Bottleneck,
            config.depths,
            in_chans=bands,
            output_stride=8,
            channels=tuple(config.width * 2**stage for stage in range(4)),
            num_classes=0,
            zero_init_last=False,
        )
        for name in chain.from_iterable(_PARTS):
            self.add_module(name, getattr(made, name))
        self.num_frozen = 0
        if config.pretrained is None:
            return
        _load_resnet(self, config.pretrained)
        self.num_frozen = {"none": len(_PARTS), "last": len(_PARTS) - 1, "all": 0}[config.trained]
        for name in chain.from_iterable(_PARTS[: self.num_frozen]):
            self.add_module(name, _frozen(self.get_submodule(name)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map `(B, bands, H, W)` to the maps of stages 2, 3 and 4, each `(B, C, H / 8, W / 8)` rounded up."""
        maps, x = [], image
        for index, names in enumerate(_PARTS):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.num_frozen):
                for name in names:
                    x = self.get_submodule(name)(x)
            maps.append(x)
        return maps[2:]


def _frozen(module: nn.Module) -> nn.Module:
    """The module with nothing to train and every batch norm frozen."""
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm(module)
    for name, child in module.named_children():
        module.add_module(name, _frozen(child))
    return module.requires_grad_(False)


def _load_resnet(backbone: nn.Module, source: str) -> None:
    weights = {name: tensor for name, tensor in _published(source, _RESNET).items() if not name.startswith("fc.")}
    shapes = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    wrong = sorted(
        name
        for name in {*weights, *shapes}
        if not name.endswith("num_batches_tracked")
        and (name not in weights or name not in shapes or weights[name].shape != shapes[name])
    )
    if wrong:
        raise HarnessError(
            f"weights {source!r} must fit backbone.depths and width; received {len(wrong)} tensors that are missing, "
            f"unknown or of another size, for example {wrong[0]}"
        )
    backbone.load_state_dict(weights, strict=False)


class ViT(nn.Module):
    """timm's ViT as four stages, under timm's names: class token kept inside, maps without it, no final norm.

    Args:
        config: Size and weights.
        image_size: Height and width in pixels that the position table is made for; other sizes resize it.
        channels: Channels of the image; None builds no patch embedding, for callers that bring tokens.
        fixed_positions: Whether positions are sines and cosines that are not trained, instead of learned.
    """

    pos_embed: Tensor

    def __init__(
        self, config: ViTConfig, *, image_size: int, channels: int | None, fixed_positions: bool = False
    ) -> None:
        super().__init__()
        side = -(-image_size // config.patch)
        made = _timm().models.vision_transformer.VisionTransformer(
            img_size=side * config.patch,
            patch_size=config.patch,
            in_chans=channels or 1,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
            global_pool="",
        )
        self.side, self.stage_depth = side, config.depth // 4
        self.patch_embed = made.patch_embed.proj if channels is not None else None
        self.cls_token, self.pos_embed, self.blocks = made.cls_token, made.pos_embed, made.blocks
        if fixed_positions:
            del self.pos_embed
            self.register_buffer("pos_embed", encode_grid((side, side), config.width))
        self.layer_decay = config.layer_decay
        loaded = () if config.pretrained is None else load_vit_weights(self, config.pretrained).loaded
        self.entry_loaded = "patch_embed.weight" in loaded

    def layer_rates(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Factor on the learning rate of blocks, positions and class token, as in BEiT (arXiv 2106.08254).

        `layer_decay` to the power of the distance from the top: 1 for the last block, one more than there are blocks
        for positions, class token and a patch embedding that was loaded; one that starts at random learns at full rate.
        """
        depth = len(self.blocks)
        for name, p in self.named_parameters():
            part, _, rest = name.partition(".")
            if part == "blocks":
                yield p, self.layer_decay ** (depth - int(rest.partition(".")[0]))
            elif part != "patch_embed" or self.entry_loaded:
                yield p, self.layer_decay ** (depth + 1)

    def begin(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add positions and prepend the class token: `(B, N, D)` on a grid `(h, w)` to `(B, 1 + N, D)`."""
        table = self.pos_embed
        if grid != (self.side, self.side):
            table = resize_positions(table, grid)
        return torch.cat((self.cls_token.expand(len(tokens), -1, -1), tokens), dim=1) + table

    def stage(self, index: int, tokens: Tensor) -> Tensor:
        """Blocks of stage `index` (0..3) on `(B, N, D)`."""
        for block in self.blocks[index * self.stage_depth : (index + 1) * self.stage_depth]:
            tokens = block(tokens)
        return tokens

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map `(B, channels, H, W)`, multiples of the patch, to four maps `(B, D, H / patch, W / patch)`."""
        if self.patch_embed is None:
            raise HarnessError("a ViT without patch embedding must be called by its stages; received an image")
        x = self.patch_embed(image)
        h, w = x.shape[-2:]
        # B D h w -> B N D
        tokens = self.begin(x.flatten(2).transpose(1, 2), (h, w))
        maps = []
        for index in range(4):
            tokens = self.stage(index, tokens)
            maps.append(as_map(tokens[:, 1:], (h, w)))
        return maps


def load_vit_weights(trunk: ViT, source: str) -> LoadedWeights:
    """Load blocks, class token, positions and, if it fits, the patch embedding of a ViT, in place.

    Args:
        trunk: Gives names and sizes.
        source: Path of a `.pth` or `.safetensors` file, or name of a timm checkpoint.

    Raises:
        HarnessError: The checkpoint cannot be had, or less than 80 % of the trunk's tensors are in it.
    """
    named = {
        name.replace("patch_embed.proj.", "patch_embed."): tensor for name, tensor in _published(source, _VIT).items()
    }
    targets = trunk.state_dict()
    table, resized = named.get("pos_embed"), False
    if table is not None and table.shape != trunk.pos_embed.shape and is_square(table, width=trunk.pos_embed.shape[2]):
        named["pos_embed"], resized = resize_positions(table, (trunk.side, trunk.side)), True
    fitting = {n: t for n, t in named.items() if n in targets and t.shape == targets[n].shape}
    missing = tuple(name for name in targets if name not in fitting)
    if len(fitting) < MIN_LOADED * len(targets):
        raise HarnessError(
            f"trunk.pretrained must hold at least {100 * MIN_LOADED:.0f} % of the trunk's {len(targets)} tensors under "
            f"timm's names and in their sizes; {source} holds {len(fitting)}, not for example {missing[0]}"
        )
    trunk.load_state_dict(fitting, strict=False)
    ignored = tuple(name for name in named if name not in fitting)
    level = logging.WARNING if missing else logging.INFO
    counts = f"{len(fitting)} tensors loaded, {len(missing)} missing, {len(ignored)} without a place"
    _LOG.log(level, "trunk.pretrained %s: %s%s", source, counts, f"; missing {', '.join(missing)}" if missing else "")
    return LoadedWeights(tuple(fitting), ("pos_embed",) if resized else (), ignored, missing)


class PyramidViT(nn.Module):
    """timm's PVT v2, stage by stage, so that what a stage puts out can be changed before the next one.

    Args:
        config: Size.
        bands: Channels of the image.
    """

    def __init__(self, config: PyramidConfig, *, bands: int) -> None:
        super().__init__()
        made = _timm().models.pvt_v2.PyramidVisionTransformerV2(
            in_chans=bands, num_classes=0, depths=config.depths, embed_dims=config.widths, num_heads=config.heads
        )
        self.patch_embed, self.stages = made.patch_embed, made.stages

    def stage(self, index: int, x: Tensor) -> Tensor:
        """Stage 0: `(B, bands, H, W)` to `(B, C1, H / 4, W / 4)`; stage i: `(B, Ci, ...)` to half the size."""
        y: Tensor = self.stages[index](self.patch_embed(x) if index == 0 else x)
        return y


class StridedResNet(nn.Module):
    """timm's ResNet at random, its last stage dilated by 2 instead of strided.

    Args:
        config: Size.
        bands: Channels of the image.
    """

    def __init__(self, config: StridedResNetConfig, *, bands: int) -> None:
        super().__init__()
        resnet = _timm().models.resnet
        block = resnet.BasicBlock if config.block == "basic" else resnet.Bottleneck
        channels = tuple(config.width * 2**stage for stage in range(4))
        made = resnet.ResNet(block, config.depths, in_chans=bands, output_stride=16, channels=channels, num_classes=0)
        for name in chain.from_iterable(_PARTS):
            self.add_module(name, getattr(made, name))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, bands, H, W)` to maps of the first and last stage, strides 4 and 16."""
        x, maps = image, []
        for names in _PARTS:
            for name in names:
                x = self.get_submodule(name)(x)
            maps.append(x)
        return maps[1], maps[4]
