"""What every segmentation model offers, so that one training loop, one evaluator and one test suite serve them all.

Shapes: `B` images, `C` channels, `H W` pixels, `T` text tokens, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import TypeAdapter
from torch import Tensor, nn

from harness.registry import Registry

MODELS: Registry[type[SegmentationModel]] = Registry(
    "model", "models", private=frozenset({"base", "text", "vision", "words"})
)


@dataclass(frozen=True)
class ModelInfo:
    """Where a model comes from and what can be taken out of it."""

    title: str
    """Name used in tables, for example `MAFN`."""
    paper: str
    """Authors, venue, year and link."""
    task: str
    """`referring` or `semantic`."""
    components: Mapping[str, Any]
    """Config field -> value that switches that component off."""
    note: str = ""
    """What a reader of the numbers must know, for example that this is a re-implementation."""


@dataclass(frozen=True)
class Inputs:
    """What a dataset gives a model; known before the model is built."""

    image_size: int
    """Height and width in pixels."""
    modalities: Mapping[str, int]
    """Modality name -> number of bands; `{"image": 3}` for referring segmentation."""
    num_classes: int = 2
    """Channels of the logits; 2 (background, referred object) for referring segmentation."""
    vocab_size: int = 0
    """Number of token ids the tokenizer can return; 0 where there is no text."""
    pad_id: int = 0
    """Token id of padding."""
    vocabulary: tuple[str, ...] = ()
    """Words by token id, where the text encoder reads words; empty for word pieces."""


class ModelOutput(NamedTuple):
    """What a forward pass returns."""

    logits: Tensor
    """`(B, K, H, W)` at the input's size; in training mode a model may return a smaller map, which losses accept."""
    auxiliary: tuple[Tensor, ...] = ()
    """Logits `(B, K, H, W)` of auxiliary heads, in training mode only."""
    penalty: Tensor | None = None
    """A further term of the training loss that the model computes itself, already weighted; a scalar, in training mode
    only. It is the share of the samples at hand, as in `harness.losses`."""


class ParameterGroup(NamedTuple):
    """Parameters that share an optimiser setting."""

    parameters: list[nn.Parameter]
    weight_decay: float | None
    """None takes the recipe's weight decay; 0.0 switches it off."""
    lr_scale: float = 1.0
    """Factor on the recipe's learning rate."""


class FeaturePoint(NamedTuple):
    """A map inside a model that is worth looking at."""

    path: str
    """Submodule whose output it is; a configuration that does not build it has no such map."""
    layout: Literal["B C H W", "B H W C", "B N C"]
    """Axes of that output; `N` is a square map flattened row by row."""


class SegmentationModel(nn.Module):
    """A model that maps a batch of named tensors to logits.

    Subclasses set `info` and `Config` (a frozen dataclass with ``__pydantic_config__ = {"extra": "forbid"}`` and a
    default for every field, the paper's value) and take `(config, inputs)`.
    """

    info: ClassVar[ModelInfo]
    Config: ClassVar[type[Any]]
    feature_points: ClassVar[Mapping[str, FeaturePoint]] = MappingProxyType({})
    """Name shown in figures -> map, in the order of the forward pass."""

    def __init__(self, config: Any, inputs: Inputs) -> None:
        super().__init__()
        self.config = config
        self.inputs = inputs

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Segment a batch.

        Args:
            batch: Each modality as `(B, C, H, W)` float under its name (`image` for referring segmentation, ImageNet
                normalised), and for referring segmentation `tokens (B, T)` int64 and `token_mask (B, T)` of 0 and 1. In
                training a model with a penalty may read `target (B, H, W)` int64, 255 where ignored.

        Returns:
            Logits at the input's size.
        """
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """Parameters that the optimiser updates, each once; the others stay at their initial values."""
        return [ParameterGroup([p for p in self.parameters() if p.requires_grad], None)]

    def dead_parameters(self) -> frozenset[str]:
        """Names of parameters that cannot influence the output; empty where such parts are not built."""
        return frozenset()


def resolve_config(model: type[SegmentationModel], values: Mapping[str, Any]) -> Any:
    """A model's validated configuration from plain values, defaults filled in.

    Args:
        model: Gives the `Config` dataclass.
        values: Field -> value, nested fields as mappings; `name` is left aside.

    Raises:
        pydantic.ValidationError: An unknown field or a value of the wrong type.
    """
    return TypeAdapter(model.Config).validate_python({k: v for k, v in values.items() if k != "name"})
