"""UPSeg: modalities guide each other through one vision transformer by prompts from what is distinctive in each.

Source: Sun, Xu, Jiang, Yang and Xia, Acta Aeronautica et Astronautica Sinica 47(10), 2026,
https://doi.org/10.7527/S1000-6893.2025.32910. The authors published no network (https://github.com/LLuKaoo/UPSeg holds
a result table and a figure): exchanges, VEM and prompts are our design after the abstract (`models.layers.vem`).

Shapes: `B` images, `M` modalities, `N = h * w` tokens, `D` width, `p` side of the prompt grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo
from models.layers.front_ends import FrontEndKind, build_front_ends
from models.layers.modality_fusers import ConcatFuser
from models.layers.semantic_family import UPerNetModel, ViTFamilyConfig
from models.layers.semantic_heads import as_map
from models.layers.vem import TokenPrompts, VarianceEnhancement, VemMode, dense_prompt
from models.vision import ViT

NUM_STAGES = 4


@dataclass(frozen=True)
class UpsegConfig(ViTFamilyConfig):
    """UPSeg on ViT-B/8 without a foundation model's weights."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    front_end: FrontEndKind = "conv"
    """Patch embedding per modality (`conv`), 1x1 stems and a common one (`stem`), or from wavelengths (`dofa`)."""
    wavelengths: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Modality -> wavelength of each band in micrometres, for `dofa`; C-band SAR is 3.75 in DOFA's checkpoints."""
    shared_trunk: bool = True
    """One ViT for all modalities, or one each."""
    exchange_after: tuple[int, ...] = (1, 2, 3)
    """Stages, out of 1, 2, 3, after which modalities guide each other; empty is late concatenation."""
    vem: bool = True
    """Prompts from the VEM; false: from the raw tokens."""
    vem_mode: VemMode = "subtract"
    """Reading of the VEM: own minus explained, attention to the least similar, ordinary cross-attention."""
    token_prompts: int = 4
    """Side p of the grid of prompt tokens, 16 of them for 4; 0 inserts none."""
    dense_prompts: bool = True
    """Whether a prompt is added to every token of the target."""
    sources: tuple[str, ...] = ()
    """Modalities that guide the others; empty: all."""
    schedule: Literal["one_pass", "two_pass"] = "one_pass"
    """`two_pass`: an unguided pass first, whose last features guide every stage of the second."""
    first_pass_gradient: bool = False
    """Whether the unguided pass of `two_pass` is trained through."""
    tune: Literal["full", "frozen"] = "full"
    """`frozen`: blocks, positions and class token of the ViT keep their weights."""

    def __post_init__(self) -> None:
        stages = self.exchange_after
        if not set(stages) <= {1, 2, 3} or len(set(stages)) < len(stages) or self.token_prompts < 0:
            raise HarnessError(
                "exchange_after must hold different stages out of 1, 2, 3 and token_prompts be at least 0; received "
                f"{list(stages)}, {self.token_prompts}"
            )

    @property
    def guided_stages(self) -> tuple[int, ...]:
        """Stages, from 0, that are entered with prompts."""
        if not (self.exchange_after and (self.token_prompts or self.dense_prompts)):
            return ()
        first = (0,) if self.schedule == "two_pass" else ()
        return (*first, *sorted(self.exchange_after))


class Exchange(nn.Module):
    """Before one stage: every target receives prompts from the other modalities, the mean over them.

    Args:
        config: Switches.
        num_modalities: M, at least 2.
        sources: Indices of the modalities that guide; each has its own VEM.
    """

    def __init__(self, config: UpsegConfig, *, num_modalities: int, sources: Sequence[int]) -> None:
        super().__init__()
        width, heads, M = config.trunk.width, config.trunk.heads, num_modalities
        self.givers = [[j for j in sources if j != m] for m in range(M)]
        self.vems = nn.ModuleDict(
            {str(j): VarianceEnhancement(width, heads=heads, mode=config.vem_mode) for j in sources if config.vem}
        )
        targets = [str(m) for m in range(M) if self.givers[m]]
        self.tokens = nn.ModuleDict(
            {m: TokenPrompts(width, side=config.token_prompts) for m in targets if config.token_prompts}
        )
        self.dense = nn.ModuleDict({m: dense_prompt(width) for m in targets if config.dense_prompts})

    def forward(
        self, guides: Sequence[Tensor], grid: tuple[int, int]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Token prompts `(B, p * p, D)` and dense prompts `(B, N, D)` per target from guides `(B, N, D)`, or None."""
        tokens: list[Tensor | None] = []
        dense: list[Tensor | None] = []
        for m, givers in enumerate(self.givers):
            key = str(m)
            own = [self.vems[str(j)](guides[j], guides[m]) if len(self.vems) else guides[j] for j in givers]
            tokens.append(
                torch.stack([self.tokens[key](x, grid) for x in own]).mean(dim=0) if key in self.tokens else None
            )
            dense.append(self.dense[key](torch.stack(own).mean(dim=0)) if key in self.dense else None)
        return tokens, dense


@MODELS.register("upseg")
class UPSeg(UPerNetModel):
    """Front ends, one ViT in four stages with exchanges between them, concat fusers, pyramid, UPerNet and FCN heads."""

    info: ClassVar[ModelInfo] = ModelInfo(
        title="UPSeg",
        paper="Sun et al., Acta Aeronautica et Astronautica Sinica 2026, https://doi.org/10.7527/S1000-6893.2025.32910",
        task="semantic",
        components={"vem": False, "token_prompts": 0, "dense_prompts": False, "exchange_after": ()},
        note="Re-implementation; exchanges, VEM and prompts are our design after the abstract: no network is public.",
    )
    Config: ClassVar[type[Any]] = UpsegConfig
    config: UpsegConfig

    def __init__(self, config: UpsegConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        names, width = list(self.modalities), config.trunk.width
        M = len(names)
        unknown = sorted(set(config.sources) - set(names))
        if unknown:
            raise HarnessError(f"model.sources must be out of {', '.join(names)}; received {', '.join(unknown)}")
        self.front_ends = build_front_ends(
            config.front_end, config.trunk, modalities=self.modalities, wavelengths=config.wavelengths
        )
        self.modality_vectors = nn.Parameter(torch.zeros(M, width))
        self.trunks = nn.ModuleList(
            ViT(
                config.trunk,
                image_size=inputs.image_size,
                channels=None,
                fixed_positions=config.front_end == "dofa",
            )
            for _ in range(1 if config.shared_trunk else M)
        )
        if config.tune == "frozen":
            self.trunks.requires_grad_(False)
        sources = [j for j, name in enumerate(names) if not config.sources or name in config.sources]
        guided = config.guided_stages if M > 1 else ()
        self.exchanges = nn.ModuleDict(
            {str(stage): Exchange(config, num_modalities=M, sources=sources) for stage in guided}
        )
        self.fusers = nn.ModuleList(ConcatFuser(width, num_modalities=M) for _ in range(NUM_STAGES))

    def _trunk(self, modality: int) -> ViT:
        return cast("ViT", self.trunks[min(modality, len(self.trunks) - 1)])

    def _stage(self, index: int, sequences: Sequence[Tensor]) -> list[Tensor]:
        """Blocks of a stage on M sequences `(B, 1 + P + N, D)`, together where one ViT reads equally long ones."""
        if len(self.trunks) == 1 and len({x.shape[1] for x in sequences}) == 1:
            # M of B L D -> M*B L D
            return list(self._trunk(0).stage(index, torch.cat(list(sequences))).chunk(len(sequences)))
        return [self._trunk(m).stage(index, x) for m, x in enumerate(sequences)]

    def _guided(
        self, index: int, tokens: Sequence[Tensor], *, guides: Sequence[Tensor], grid: tuple[int, int]
    ) -> list[Tensor]:
        """A stage on M sequences `(B, 1 + N, D)`, entered with prompts if it has an exchange; prompts are removed."""
        if str(index) not in self.exchanges:
            return self._stage(index, tokens)
        prompts, dense = self.exchanges[str(index)](guides, grid)
        entered = []
        for x, prompt, added in zip(tokens, prompts, dense, strict=True):
            patches = x[:, 1:] if added is None else x[:, 1:] + added
            entered.append(torch.cat([y for y in (x[:, :1], prompt, patches) if y is not None], dim=1))
        left = self._stage(index, entered)
        n = grid[0] * grid[1]
        return [torch.cat((x[:, :1], x[:, -n:]), dim=1) for x in left]

    def _enter(self, images: Sequence[Tensor]) -> tuple[list[Tensor], tuple[int, int]]:
        """Tokens `(B, 1 + N, D)` per modality and their grid."""
        maps = [module(image) for module, image in zip(self.front_ends, images, strict=True)]
        grid = (maps[0].shape[2], maps[0].shape[3])
        tokens = [
            self._trunk(m).begin(x.flatten(2).transpose(1, 2) + self.modality_vectors[m], grid)
            for m, x in enumerate(maps)
        ]
        return tokens, grid

    def _unguided(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Last features `(B, N, D)` of a pass without prompts."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.first_pass_gradient):
            current = list(tokens)
            for index in range(NUM_STAGES):
                current = self._stage(index, current)
        return [x[:, 1:] for x in current]

    def fused_maps(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Map M images `(B, Cm, H, W)` to four maps `(B, D, h, w)`."""
        tokens, grid = self._enter(images)
        last = self._unguided(tokens) if self.config.schedule == "two_pass" and len(self.exchanges) else None
        fused = []
        for index, fuser in enumerate(self.fusers):
            guides = [x[:, 1:] for x in tokens] if last is None else last
            tokens = self._guided(index, tokens, guides=guides, grid=grid)
            fused.append(fuser([as_map(x[:, 1:], grid) for x in tokens]))
        return fused
