"""CMPC: cross-modal progressive comprehension, a CNN and LSTM model for referring segmentation.

Source: Huang et al., CVPR 2020, https://arxiv.org/abs/2010.00514, re-implemented from a specification of the released
TensorFlow code, which is the later CMPC+ (`models/cmpc_plus.py`); the two differ in what a level puts out, see
`cmpc_concat`. Differences from the released code: batches of any size, padding at the right with a word mask, timm's
ImageNet ResNet-101 instead of DeepLab's, RGB, half-pixel bilinear resizing. Two projections and the adjacency of the
relation graph are re-associated, which is exact; six biases that cannot influence the output are not built.

Shapes: `B` images, `C` channels of a level, `D` channels inside, `h w` the map at stride 8, `H W` pixels, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelInfo, ModelOutput, ParameterGroup, SegmentationModel
from models.layers.cmpc_level import CmpcLevel, CmpcLevelConfig, EveryWord, WordParser, parse_sentence
from models.layers.conv_lstm import ConvLSTM
from models.layers.language_cnn import LanguageCnn, SumOfMaps, convolution_groups, map_side, two_class_logits, xavier
from models.layers.text_exchange import TextExchange

COMPONENTS: Mapping[str, Any] = {
    "word_parser": False,
    "entity_perception": False,
    "relation_graph": False,
    "exchange_rounds": 0,
    "fusion": "sum",
    "position_grid": False,
}


@dataclass(frozen=True)
class CmpcConfig(CmpcLevelConfig):
    """CMPC; the defaults are the paper's."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cmpc_concat: Literal["plus", "cvpr"] = "cvpr"
    """See `CmpcLevelConfig`; this is the only difference between CMPC and CMPC+."""
    exchange_rounds: int = 2
    """Rounds of text-guided exchange between the levels, at least 0."""
    fusion: Literal["convlstm", "sum"] = "convlstm"
    """How the three levels become one: read in turn by a ConvLSTM, or added."""

    def __post_init__(self) -> None:
        CmpcLevelConfig.__post_init__(self)
        if self.exchange_rounds < 0:
            raise HarnessError(f"exchange_rounds must be at least 0; received {self.exchange_rounds}")


@MODELS.register("cmpc")
class CMPC(SegmentationModel):
    """Words by type, entity perception, relation graph; then exchange between levels and a ConvLSTM over them.

    Args:
        config: Parts and sizes.
        inputs: Images of modality `image`, whose size is part of the weights, and words.
    """

    info: ClassVar[ModelInfo] = ModelInfo(
        title="CMPC",
        paper="Huang et al., CVPR 2020, https://arxiv.org/abs/2010.00514",
        task="referring",
        components=COMPONENTS,
        note="Re-implementation on an ImageNet ResNet-101; what a level puts out (cmpc_concat: cvpr) is from memory of "
        "the paper, as the released code is CMPC+.",
    )
    Config: ClassVar[type[Any]] = CmpcConfig
    config: CmpcConfig

    def __init__(self, config: CmpcConfig, inputs: Inputs) -> None:
        super().__init__(config, inputs)
        self.encode = LanguageCnn(config, inputs)
        self.parser: nn.Module = WordParser(config.width, config.hidden) if config.word_parser else EveryWord()
        self.levels = nn.ModuleList(CmpcLevel(config) for _ in range(3))
        self.rounds = nn.ModuleList(TextExchange(config.hidden, config.width) for _ in range(config.exchange_rounds))
        side = map_side(inputs.image_size)
        self.fuse: nn.Module = (
            ConvLSTM(config.hidden, size=(side, side)) if config.fusion == "convlstm" else SumOfMaps()
        )
        self.score = xavier(nn.Conv2d(config.hidden, 1, 3, padding=1))
        self.level_scores = nn.ModuleList(
            xavier(nn.Conv2d(config.hidden, 1, 3, padding=1)) for _ in range(3 if config.auxiliary else 0)
        )

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment `image (B, 3, H, W)` by `tokens (B, T)` and `token_mask (B, T)`; logits are `(B, 2, H, W)`."""
        size = self.inputs.image_size, self.inputs.image_size
        encoded = self.encode(batch)
        sentence = parse_sentence(self.parser, encoded.words.states, encoded.mask)
        grid = self.encode.grid_of(encoded.levels[0])
        maps = [level(x, sentence, grid) for level, x in zip(self.levels, encoded.levels, strict=True)]
        auxiliary: tuple[Tensor, ...] = ()
        if self.training and self.config.auxiliary:
            scores = (score(x) for score, x in zip(self.level_scores, maps, strict=True))
            auxiliary = tuple(two_class_logits(score, size) for score in scores)
        for exchange in self.rounds:
            maps = exchange(maps, sentence.vector)
        return ModelOutput(two_class_logits(self.score(self.fuse(maps)), size), auxiliary)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weights of convolutions and linear layers decayed, everything else not."""
        return convolution_groups(self)
