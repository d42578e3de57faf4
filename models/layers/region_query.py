"""Region queries that rebuild each modality from its own foreground (SR) and weigh the modalities (DF).

Our design after the abstract of DF2RQ (Feng et al., IEEE TGRS 2025, https://doi.org/10.1109/TGRS.2025.3526247), whose
own modules are not public. Every region of the map has one query; a query has one reference position per modality,
because an object's outline differs between modalities. Values never cross modalities inside SR, only queries do. The
sampling starts as in deformable attention (Zhu et al., ICLR 2021, https://arxiv.org/abs/2010.04159).

Shapes: `B` images, `M` modalities, `C` channels outside, `d` inside, `H W` pixels of the map, `N = Gh * Gw` regions,
`h` heads, `P` points, `G` channel groups. Positions are `(x, y)` in 0..1 of the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.batch_parts import over_batch
from harness.distributed import world_size
from harness.errors import HarnessError
from models.layers.semantic_heads import as_map, resize

NUM_FREQUENCIES = 16
START_SCALE = 0.1
IGNORED = 255
"""Class index that counts nowhere."""


@dataclass(frozen=True)
class RegionQueryConfig:
    """Switches of the fuser."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    reconstruction: bool = True
    """SR: rebuild each modality's map from foreground features sampled in it."""
    dynamic_fusion: bool = True
    """DF: weights per modality from the features at the reference positions; false: 1x1 convolution of all maps."""
    query_width: int = 256
    """Channels inside the fuser, a multiple of `query_heads`; 128 suits a trunk of 192."""
    query_heads: int = 8
    """Heads of attention and sampling, at least 1; 4 below a width of 256."""
    region: int = 4
    """Side of a region in tokens, at least 1; 0 makes the whole map one region."""
    reference: Literal["learned", "fixed", "shared"] = "learned"
    """Reference positions: one per modality, the region's centre, or one for all modalities."""
    points: int = 8
    """Sampled points per head, at least 1."""
    layers: int = 2
    """SR layers, at least 1."""
    weights: Literal["groups", "scalar", "channels", "region"] = "groups"
    """Fusion weights per 8 channel groups, for all channels, per channel, or per group without the pixel term."""

    def __post_init__(self) -> None:
        if min(self.query_width, self.query_heads, self.points, self.layers) < 1 or self.region < 0:
            raise HarnessError("query_width, query_heads, points and layers must be at least 1, region at least 0")
        if self.query_width % self.query_heads or self.query_width % self.num_groups:
            raise HarnessError(
                f"query_width must be a multiple of query_heads and of the {self.num_groups} weight groups; received "
                f"{self.query_width} with {self.query_heads} heads"
            )

    @property
    def num_groups(self) -> int:
        """G, the fusion weights per pixel and modality."""
        return {"scalar": 1, "channels": self.query_width}.get(self.weights, 8)


class FusionMaps(NamedTuple):
    """What a fuser decided, for plots and for the region-foreground loss."""

    weights: Tensor | None
    """`(B, M, G, H, W)`, sum 1 over M; None without DF or with one modality."""
    references: Tensor
    """`(B, M, Gh, Gw, 2)`, reference positions of the last SR layer, else the centres."""
    membership: Tensor | None
    """`(B, M, H, W)`, logits of belonging to the region's foreground in the last SR layer; None without SR."""


class Grid(NamedTuple):
    """The regions of one map."""

    rows: int
    columns: int
    centres: Tensor
    """`(N, 2)`."""
    cell: Tensor
    """`(2,)`, size of a region."""


def make_grid(x: Tensor, region: int) -> Grid:
    """Regions of `region` tokens on a map `(..., H, W)`; 0 is one region."""
    rows, columns = (1 if region == 0 else max(1, size // region) for size in x.shape[-2:])
    ys = (torch.arange(rows, device=x.device) + 0.5) / rows
    xs = (torch.arange(columns, device=x.device) + 0.5) / columns
    y, x_ = torch.meshgrid(ys, xs, indexing="ij")
    cell = torch.tensor((1 / columns, 1 / rows), device=x.device)
    return Grid(rows, columns, torch.stack((x_, y), dim=-1).reshape(-1, 2), cell)


def encode_positions(positions: Tensor) -> Tensor:
    """Sine and cosine of `(N, 2)` at 16 frequencies from pi to 100 pi, evenly spaced in log: `(N, 64)`."""
    steps = torch.linspace(0, 1, NUM_FREQUENCIES, device=positions.device)
    angles = (positions[..., None] * (math.pi * 100**steps)).flatten(-2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def sample(x: Tensor, positions: Tensor) -> Tensor:
    """Bilinear values of `x (B, C, H, W)` at `(B, A, S, 2)`, in float32: `(B, C, A, S)`; outside, the edge's."""
    with torch.autocast(x.device.type, enabled=False):
        grid = 2 * positions.float() - 1
        return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def pool(x: Tensor, grid: Grid) -> Tensor:
    """Mean of `(B, C, H, W)` per region: `(B, N, C)`."""
    return F.adaptive_avg_pool2d(x, (grid.rows, grid.columns)).flatten(2).transpose(1, 2)


def feed_forward(width: int) -> nn.Sequential:
    """Two linear layers with GELU, four times as wide inside."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def reference_layer(width: int) -> nn.Linear:
    """Linear layer to a reference position; it starts at zero, the region's centre."""
    layer = nn.Linear(2 * width, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Reconstruction(nn.Module):
    """SR of one modality: sample foreground around the reference positions, mix it into the map where it belongs."""

    def __init__(self, config: RegionQueryConfig, *, reference: bool) -> None:
        super().__init__()
        d, samples = config.query_width, config.query_heads * config.points
        self.heads, self.points = config.query_heads, config.points
        self.reference = reference_layer(d) if reference else None
        self.offsets = nn.Linear(2 * d, 2 * samples)
        # one point has the weight 1
        self.point_weights = nn.Linear(2 * d, samples) if config.points > 1 else None
        self.values, self.foreground = nn.Conv2d(d, d, 1), nn.Linear(d, d)
        self.membership, self.threshold = nn.Conv2d(d, d, 1), nn.Parameter(torch.zeros(1))
        self.mix = nn.Sequential(nn.Conv2d(d, d, 3, padding=1, groups=d), nn.Conv2d(d, d, 1))
        self.scale = nn.Parameter(torch.full((d, 1, 1), START_SCALE))
        nn.init.zeros_(self.offsets.weight)
        if self.point_weights is not None:
            nn.init.zeros_(self.point_weights.weight)
            nn.init.zeros_(self.point_weights.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        radii = torch.arange(1, self.points + 1) / self.points
        with torch.no_grad():
            self.offsets.bias.copy_((directions[:, None] * radii[:, None]).flatten())

    def describe(self, x: Tensor, state: Tensor, *, positions: Tensor, cell: Tensor) -> Tensor:
        """Foreground `(B, N, d)` of `x (B, d, H, W)` around `positions (B, N, 2)`, for `state (B, N, 2d)`."""
        B, N, _ = state.shape
        offsets = self.offsets(state).view(B, N, self.heads, self.points, 2) * (cell / 2)
        # B N h P 2 -> B*h N P 2
        where = (positions[:, :, None, None] + offsets).transpose(1, 2).flatten(0, 1)
        values = self.values(x).unflatten(1, (self.heads, -1)).flatten(0, 1)
        samples = sample(values, where)
        if self.point_weights is not None:
            shares = self.point_weights(state).view(B, N, self.heads, self.points).softmax(dim=-1)
            samples = samples * shares.transpose(1, 2).flatten(0, 1)[:, None]
        # B*h d/h N P -> B*h d/h N
        taken = samples.sum(dim=-1)
        # B*h d/h N -> B N d
        y: Tensor = self.foreground(taken.reshape(B, -1, N).transpose(1, 2))
        return y

    def rebuild(self, x: Tensor, foreground: Tensor) -> tuple[Tensor, Tensor]:
        """New map `(B, d, H, W)` and membership logits `(B, 1, H, W)` of `foreground (B, d, Gh, Gw)`."""
        spread = resize(foreground, x.shape[2:])
        likeness = (self.membership(x) * spread).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
        logits = likeness + self.threshold
        alpha = logits.sigmoid()
        return x + self.scale * self.mix(alpha * spread + (1 - alpha) * x), logits


class RegionQueryLayer(nn.Module):
    """One SR layer: queries see each other, rebuild every modality by itself, and take up what they found.

    Args:
        config: Switches.
        num_modalities: M.
        update: Whether anything reads the queries afterwards.
    """

    def __init__(self, config: RegionQueryConfig, *, num_modalities: int, update: bool) -> None:
        super().__init__()
        d, kind = config.query_width, config.reference
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = nn.MultiheadAttention(d, config.query_heads, batch_first=True)
        self.modalities = nn.ModuleList(
            Reconstruction(config, reference=kind == "learned") for _ in range(num_modalities)
        )
        self.shared_reference = reference_layer(d) if kind == "shared" else None
        self.take_up = nn.Linear(num_modalities * d, d) if update else None
        self.feed = nn.Sequential(nn.LayerNorm(d), feed_forward(d)) if update else None

    def forward(
        self, queries: Tensor, maps: Sequence[Tensor], grid: Grid
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        """New queries `(B, N, d)`, and per modality map `(B, d, H, W)`, positions `(B, N, 2)`, membership logits."""
        seen = self.norm1(queries)
        queries = queries + self.attention(seen, seen, seen, need_weights=False)[0]
        asked = self.norm2(queries)
        states = [torch.cat((asked, pool(x, grid)), dim=-1) for x in maps]
        positions = self.references(states, grid)
        found, rebuilt, members = [], [], []
        modules = cast("Sequence[Reconstruction]", self.modalities)
        for module, x, state, p in zip(modules, maps, states, positions, strict=True):
            foreground = module.describe(x, state, positions=p, cell=grid.cell)
            new, logits = module.rebuild(x, as_map(foreground, grid[:2]))
            found.append(foreground)
            rebuilt.append(new)
            members.append(logits)
        if self.take_up is not None and self.feed is not None:
            queries = queries + self.take_up(torch.cat(found, dim=-1))
            queries = queries + self.feed(queries)
        return queries, rebuilt, positions, members

    def references(self, states: Sequence[Tensor], grid: Grid) -> list[Tensor]:
        """Reference positions per modality, at most one region from the centre."""
        if self.shared_reference is not None:
            move = self.shared_reference(torch.stack(list(states)).mean(dim=0))
            return [grid.centres + torch.tanh(move) * grid.cell] * len(states)
        centres = grid.centres.expand(len(states[0]), -1, -1)
        layers = [module.reference for module in cast("Sequence[Reconstruction]", self.modalities)]
        return [
            centres if layer is None else centres + torch.tanh(layer(state)) * grid.cell
            for layer, state in zip(layers, states, strict=True)
        ]


class DynamicFusion(nn.Module):
    """DF: weights per modality, region and channel group, refined per pixel, sum 1 over modalities.

    Args:
        config: Switches.
        num_modalities: M, at least 2.
    """

    def __init__(self, config: RegionQueryConfig, *, num_modalities: int) -> None:
        super().__init__()
        d, groups = config.query_width, config.num_groups
        self.region = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, groups)) for _ in range(num_modalities)
        )
        self.pixel = nn.ModuleList(
            nn.Conv2d(d, groups, 1) for _ in range(num_modalities if config.weights != "region" else 0)
        )

    def forward(
        self, queries: Tensor, maps: Sequence[Tensor], *, positions: Sequence[Tensor], grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Fused map `(B, d, H, W)` and weights `(B, M, G, H, W)`."""
        logits = []
        for module, x, p in zip(self.region, maps, positions, strict=True):
            # B d 1 N -> B N d
            at = sample(x, p[:, None])[:, :, 0].transpose(1, 2).to(queries.dtype)
            logits.append(resize(as_map(module(torch.cat((at, queries), dim=-1)), grid[:2]), x.shape[2:]))
        if self.pixel:
            logits = [z + module(x) for z, module, x in zip(logits, self.pixel, maps, strict=True)]
        weights = torch.stack(logits, dim=1).softmax(dim=1)
        # B M d H W -> B M G d/G H W
        B, M, G = weights.shape[:3]
        values = torch.stack(list(maps), dim=1).view(B, M, G, -1, *weights.shape[3:])
        return (weights[:, :, :, None] * values).sum(dim=1).flatten(1, 2), weights


class RegionQueryFuser(nn.Module):
    """M maps of one tap to one map: entry, SR layers, DF, exit.

    Parts that nothing depends on are not built: queries without SR and DF, the last query update without DF, DF with
    one modality.

    Args:
        config: Switches.
        channels: C.
        num_modalities: M, at least 1.
    """

    def __init__(self, config: RegionQueryConfig, *, channels: int, num_modalities: int) -> None:
        super().__init__()
        d = config.query_width
        weighs = config.dynamic_fusion and num_modalities > 1
        self.region = config.region
        self.enter = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, d, 1), nn.GroupNorm(1, d)) for _ in range(num_modalities)
        )
        asks = config.reconstruction or weighs
        self.begin = nn.Linear(d, d) if asks else None
        self.place = nn.Linear(4 * NUM_FREQUENCIES, d) if asks else None
        self.query_vector = nn.Parameter(torch.zeros(d)) if asks else None
        depth = config.layers if config.reconstruction else 0
        self.layers = nn.ModuleList(
            RegionQueryLayer(config, num_modalities=num_modalities, update=weighs or i + 1 < depth)
            for i in range(depth)
        )
        self.weigh = DynamicFusion(config, num_modalities=num_modalities) if weighs else None
        self.join = None if config.dynamic_fusion else nn.Conv2d(num_modalities * d, d, 1)
        self.leave, self.norm = nn.Conv2d(d, channels, 1), nn.GroupNorm(1, channels)

    def ask(self, maps: Sequence[Tensor], grid: Grid) -> Tensor:
        """First queries `(B, N, d)`: content of the region, a learned vector, the region's place."""
        if self.begin is None or self.place is None or self.query_vector is None:
            return maps[0].new_zeros(len(maps[0]), len(grid.centres), 0)
        content = self.begin(pool(torch.stack(list(maps)).mean(dim=0), grid))
        y: Tensor = content + self.query_vector + self.place(encode_positions(grid.centres))
        return y

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, FusionMaps]:
        """Map M maps `(B, C, H, W)` to `(B, C, H, W)`, and say how."""
        grid = make_grid(maps[0], self.region)
        inner = [module(x) for module, x in zip(self.enter, maps, strict=True)]
        queries = self.ask(inner, grid)
        positions = [grid.centres.expand(len(queries), -1, -1)] * len(inner)
        members: list[Tensor] = []
        for layer in self.layers:
            queries, inner, positions, members = layer(queries, inner, grid)
        weights = None
        if self.weigh is not None:
            fused, weights = self.weigh(queries, inner, positions=positions, grid=grid)
        elif self.join is not None:
            fused = self.join(torch.cat(inner, dim=1))
        else:
            fused = inner[0]
        y: Tensor = self.norm(self.leave(fused) + torch.stack(list(maps)).mean(dim=0))
        references = torch.stack([p.view(-1, grid.rows, grid.columns, 2) for p in positions], dim=1)
        membership = torch.cat(members, dim=1) if members else None
        return y, FusionMaps(weights, references, membership)


def region_foreground_loss(maps: FusionMaps, target: Tensor, *, num_classes: int, multiple: int = 1) -> Tensor:
    """How far the membership is from "this pixel has its region's majority class"; ours, not part of DF2RQ.

    Args:
        maps: Of one tap; 0 is returned where it has no membership.
        target: `(B, H, W)` classes at any size; 255 where ignored.
        num_classes: K.
        multiple: What the model pads both sides of its images to; padding is ignored.

    Returns:
        Binary cross entropy, mean over modalities and the valid pixels of regions with at least two classes in the
        whole batch; the share of the samples at hand, as `harness.losses` defines it.
    """
    if maps.membership is None:
        return torch.zeros((), device=target.device)
    channels, size = maps.membership.shape[1], maps.membership.shape[2:]
    grid = (maps.references.shape[2], maps.references.shape[3])

    def read(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each pixel has its region's majority class, and whether it counts, `(b, 1, h, w)`."""
        height, width = rows.shape[1:]
        padded = F.pad(rows, (0, -width % multiple, 0, -height % multiple), value=IGNORED)
        labels = F.interpolate(padded[:, None].float(), size=size, mode="nearest")[:, 0].long()
        valid = labels != IGNORED
        classes = F.one_hot(labels.clamp(0, num_classes - 1), num_classes).movedim(-1, 1) * valid[:, None]
        shares = F.adaptive_avg_pool2d(classes.float(), grid)
        majority = F.interpolate(shares.argmax(dim=1)[:, None].float(), size=size, mode="nearest")[:, 0].long()
        mixed = F.interpolate(((shares > 0).sum(dim=1) > 1)[:, None].float(), size=size, mode="nearest")[:, 0]
        return (labels == majority)[:, None], (mixed * valid)[:, None]

    agrees, counted = read(target)

    def count(rows: Tensor) -> Tensor:
        return (counted if rows is target else read(rows)[1]).sum() * channels

    truth = agrees.expand_as(maps.membership).float()
    each = F.binary_cross_entropy_with_logits(maps.membership, truth, reduction="none")
    over = over_batch(count, target, key=("pixels of mixed regions", channels, size, grid))
    return (each * counted).sum() * world_size() / over.clamp(min=1)
