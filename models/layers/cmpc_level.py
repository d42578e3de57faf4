"""Cross-modal progressive comprehension of one level: which words are what, what is meant, how it relates.

Sources: CMPC (Huang et al., CVPR 2020, https://arxiv.org/abs/2010.00514), CMPC+ (Liu et al., TPAMI 2021,
https://arxiv.org/abs/2105.07175); MUTAN (Ben-younes et al., ICCV 2017, https://arxiv.org/abs/1705.06676).

Shapes: `B` images, `C` channels, `D` channels that leave a level, `h w` the map, `HW` its positions, `T` tokens,
`G` grid channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.language_cnn import GRID_CHANNELS, LanguageCnnConfig, TiledConv, require_positive, unit, xavier

_WORD_TYPES = 4


@dataclass(frozen=True)
class CmpcLevelConfig(LanguageCnnConfig):
    """The parts of one level."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    hidden: int = 500
    """Channels that leave a level, and width inside the word parser; at least 1."""
    word_parser: bool = True
    """Whether words are weighted by type; without it every word counts in full as entity and as relation."""
    entity_perception: bool = True
    """Whether the entity words are fused into the map (MUTAN); without it the map is only projected."""
    heads: int = 5
    """Rank of the entity fusion, at least 1."""
    relation_graph: bool = True
    """Whether positions exchange features along the relation words."""
    cmpc_concat: Literal["plus", "cvpr"] = "plus"
    """What a level puts out: `plus` joins entity map, graph, entity vector and grid (released code, CMPC+); `cvpr`
    joins graph and sentence vector (CMPC; from memory of the paper, not checked)."""

    def __post_init__(self) -> None:
        LanguageCnnConfig.__post_init__(self)
        require_positive(self, "hidden", "heads")


class Sentence(NamedTuple):
    """A sentence taken apart."""

    words: Tensor
    """`(B, T, C)`, each word of length 1, zero at padding."""
    mask: Tensor
    """`(B, T)` bool, true at words."""
    relation: Tensor
    """`(B, T)` probability of being a relation word."""
    entity_vector: Tensor
    """`(B, C)`, the entity and attribute words, of length 1."""
    vector: Tensor
    """`(B, C)`, all necessary words, of length 1."""


class WordParser(nn.Module):
    """Probabilities of entity, attribute, relation and unnecessary word.

    Args:
        width: C.
        hidden: Inner width.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = xavier(nn.Linear(width, hidden))
        self.outer = xavier(nn.Linear(hidden, _WORD_TYPES))

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `(B, T)` of `words (B, T, C)` as entity or attribute, and as relation."""
        entity, attribute, relation, _ = self.outer(self.inner(words).relu()).softmax(-1).unbind(-1)
        return entity + attribute, relation


class EveryWord(nn.Module):
    """Stands in for the word parser: every word has weight 1."""

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Ones `(B, T)`, twice."""
        ones = torch.ones_like(words[..., 0])
        return ones, ones


def parse_sentence(parser: nn.Module, states: Tensor, mask: Tensor) -> Sentence:
    """Weigh LSTM states `(B, T, C)` by what `parser` makes of them, without padding, where `mask (B, T)` is false."""
    words = unit(states, dim=-1)
    entity, relation = parser(words)
    present = mask.to(words.dtype)
    words = words * present[..., None]
    # B 1 T @ B T C -> B 1 C
    entity_vector, vector = (unit((p[:, None] @ words).squeeze(1), dim=-1) for p in (entity, entity + relation))
    return Sentence(words, mask, relation, entity_vector, vector)


class EntityPerception(nn.Module):
    """MUTAN: `L2(tanh(sum_h tanh(conv_h(x)) * tanh(linear_h(e))))`.

    Args:
        channels: Of the map, grid included.
        width: C.
        heads: Number of products h.
    """

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = xavier(nn.Conv2d(channels, heads * width, 1), parts=heads)
        self.sentence = xavier(nn.Linear(width, heads * width), parts=heads)

    def forward(self, x: Tensor, sentence: Sentence) -> Tensor:
        """Fuse the entity vector into `x (B, C + G, h, w)`; `(B, C, h, w)`."""
        visual = self.project(x).tanh().unflatten(1, (self.heads, -1))  # B heads C h w
        verbal = self.sentence(sentence.entity_vector).tanh().unflatten(1, (self.heads, -1))  # B heads C
        return unit((visual * verbal[..., None, None]).sum(1).tanh(), dim=1)


class PlainProjection(nn.Module):
    """Stands in for entity perception: the map alone, `L2(tanh(conv(x)))`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.project = xavier(nn.Conv2d(channels, width, 1))

    def forward(self, x: Tensor, _: Sentence) -> Tensor:
        """Map `(B, C + G, h, w)` to `(B, C, h, w)`."""
        return unit(self.project(x).tanh(), dim=1)


class RelationGraph(nn.Module):
    """One step of a graph convolution between positions, whose edges run over the relation words.

    The adjacency `A = A1 A2^T (HW, HW)` is never formed: `A M = A1 (A2^T M)`. The projection of the map before the
    product with the words is applied to the words, `(W m + b) . k = m . (W^T k) + b . k`. Both are exact.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = xavier(nn.Linear(width, width))
        self.key = xavier(nn.Linear(width, width))
        self.update = xavier(nn.Conv2d(width, width, 1))
        # Over all positions and channels of a sample.
        self.read_norm = nn.GroupNorm(1, width)
        self.update_norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor, sentence: Sentence) -> Tensor:
        """Map `(B, C, h, w)` to `(B, C, h, w)`."""
        flat = x.flatten(2)  # B C HW
        over_words, over_positions = self.edges(flat, sentence)
        read = over_positions @ flat.transpose(1, 2)  # B T C
        passed = (read.transpose(1, 2) @ over_words).view_as(x)  # B C HW -> B C h w
        graph = F.relu(x + self.read_norm(passed))
        return unit(F.relu(self.update_norm(self.update(graph))), dim=1)

    def edges(self, flat: Tensor, sentence: Sentence) -> tuple[Tensor, Tensor]:
        """`A1` and `A2` as `(B, T, HW)`: softmax over words and over positions, both zero at padding."""
        keys = self.key(sentence.words)
        scores = (keys @ self.query.weight) @ flat + (keys @ self.query.bias)[..., None]
        scores = scores * (flat.shape[1] ** -0.5 * sentence.relation)[..., None]
        present = sentence.mask[..., None]
        over_words = scores.masked_fill(~present, -torch.inf).softmax(1)
        return over_words, scores.softmax(2) * present


class CmpcLevel(nn.Module):
    """Entity perception, relation graph and what is passed on.

    Args:
        config: Parts and sizes.
    """

    def __init__(self, config: CmpcLevelConfig) -> None:
        super().__init__()
        grid = GRID_CHANNELS if config.position_grid else 0
        width = config.width
        self.perceive: nn.Module = (
            EntityPerception(width + grid, width, config.heads)
            if config.entity_perception
            else PlainProjection(width + grid, width)
        )
        self.relate = RelationGraph(width) if config.relation_graph else None
        self.plus = config.cmpc_concat == "plus"
        maps = (2 if config.relation_graph else 1) * width + grid if self.plus else width
        self.join = xavier(TiledConv(maps, width, config.hidden))

    def forward(self, x: Tensor, sentence: Sentence, grid: Tensor) -> Tensor:
        """Comprehend one level.

        Args:
            x: `(B, C, h, w)`.
            sentence: Words and vectors.
            grid: `(B, G, h, w)`.

        Returns:
            `(B, D, h, w)`.
        """
        maps = [self.perceive(torch.cat([x, grid], dim=1), sentence)]
        if self.relate is not None:
            maps.append(self.relate(maps[0], sentence))
        if self.plus:
            return F.relu(self.join(torch.cat([*maps, grid], dim=1), sentence.entity_vector))
        return F.relu(self.join(maps[-1], sentence.vector))
