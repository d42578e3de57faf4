"""A tiny configuration of every registered model, and what a test needs to run one: batch, target, loss.

A new model gets one entry in `TINY`; the contract in `tests/contracts/test_models.py` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.base import MODELS, Inputs, SegmentationModel, resolve_config

NUM_TOKENS = 8
VOCABULARY = 120
SIZE = 64
INPUTS = Inputs(
    image_size=SIZE,
    modalities={"image": 3},
    vocab_size=VOCABULARY,
    vocabulary=tuple(f"word{i}" for i in range(VOCABULARY)),
)

SWIN_BERT: dict[str, Any] = {
    "backbone": {"pretrained": None, "embed_dim": 8, "depths": [1, 1, 2, 1], "heads": [1, 2, 4, 8], "window": 4},
    "text": {
        "pretrained": None,
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "intermediate": 32,
        "vocab_size": VOCABULARY,
        "max_tokens": NUM_TOKENS,
        "dropout": 0.0,
    },
}
_RESNET_LSTM: dict[str, Any] = {
    "backbone": {"pretrained": None, "depths": [1, 1, 1, 1], "width": 8},
    "text": {"dim": 24, "max_tokens": NUM_TOKENS},
}

SEMANTIC_SIZE = 64
SEMANTIC_INPUTS = Inputs(image_size=SEMANTIC_SIZE, modalities={"optical": 4, "sar": 2}, num_classes=3)
VIT: dict[str, Any] = {
    "trunk": {"patch": 16, "width": 16, "depth": 4, "heads": 2},
    "head": {"width": 12, "auxiliary_width": 8, "dropout": 0.0},
}
_QUERIES: dict[str, Any] = {"query_width": 16, "query_heads": 2, "region": 2, "points": 2}
_PYRAMID: dict[str, Any] = {
    "backbone": {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2]},
    "head_width": 16,
    "dropout": 0.0,
}

TINY: Mapping[str, dict[str, Any]] = {
    "brinet": {**_RESNET_LSTM, "width": 24, "attention_width": 12, "aspp_width": 12},
    "cmnext": _PYRAMID,
    "cmpc": {**_RESNET_LSTM, "width": 32, "hidden": 16},
    "cmpc_plus": {**_RESNET_LSTM, "width": 32, "hidden": 16},
    "cmx": _PYRAMID,
    "df2rq": {**VIT, **_QUERIES},
    "early_fusion": VIT,
    "late_concat": VIT,
    "logit_average": VIT,
    "lavt": SWIN_BERT,
    "lgce": SWIN_BERT,
    "mafn": SWIN_BERT,
    "mcanet": {"backbone": {"block": "basic", "depths": [1, 1, 1, 1], "width": 8}, "width": 16},
    "rmsin": SWIN_BERT,
    "single_modality": VIT,
    "upseg": {**VIT, "token_prompts": 2},
}


def inputs_of(name: str) -> Inputs:
    """What the tiny model of that name is made for: a sentence and an image, or two modalities."""
    return SEMANTIC_INPUTS if MODELS.get(name).info.task == "semantic" else INPUTS


def build(name: str, settings: Mapping[str, Any] | None = None, inputs: Inputs | None = None) -> SegmentationModel:
    """The tiny model of that name, with changes to its configuration and always the same initial weights."""
    assert name in TINY, (
        f"{name!r} is registered and needs a tiny configuration: add it to TINY in tests/tiny_models.py"
    )
    torch.manual_seed(0)
    model = MODELS.get(name)
    return model(resolve_config(model, {**TINY[name], **(settings or {})}), inputs or inputs_of(name))


def make_batch(images: int = 3, size: int = SIZE) -> dict[str, Tensor]:
    """Images of noise and sentences of 8, 5, 2, 8, ... words."""
    draws = torch.Generator().manual_seed(1)
    lengths = torch.tensor([(NUM_TOKENS, 5, 2)[i % 3] for i in range(images)])
    mask = (torch.arange(NUM_TOKENS) < lengths[:, None]).long()
    return {
        "image": torch.randn(images, 3, size, size, generator=draws),
        "tokens": torch.randint(5, VOCABULARY, (images, NUM_TOKENS), generator=draws) * mask,
        "token_mask": mask,
    }


def make_modalities(
    images: int = 3, *, size: tuple[int, int] | None = None, inputs: Inputs = SEMANTIC_INPUTS
) -> dict[str, Tensor]:
    """Every modality as noise, by default square and of the size of `inputs`."""
    draws = torch.Generator().manual_seed(1)
    h, w = size or (inputs.image_size, inputs.image_size)
    return {name: torch.randn(images, bands, h, w, generator=draws) for name, bands in inputs.modalities.items()}


def batch_of(name: str, images: int = 3) -> dict[str, Tensor]:
    """A batch for the tiny model of that name."""
    return make_batch(images) if inputs_of(name) is INPUTS else make_modalities(images)


def make_target(images: int, size: int = SIZE) -> Tensor:
    """A rectangle `(B, H, W)` per image, each elsewhere."""
    target = torch.zeros(images, size, size, dtype=torch.long)
    for i in range(images):
        target[i, 8 * i : 8 * i + size // 2, 8 * i : 8 * i + 3 * size // 8] = 1
    return target


def target_of(name: str, images: int) -> Tensor:
    """A target for the tiny model of that name."""
    return make_target(images, inputs_of(name).image_size)


def training_loss(model: SegmentationModel, batch: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Cross entropy of the logits and of every auxiliary head, at their own size."""
    output = model(batch)
    truth = F.one_hot(target, output.logits.shape[1]).movedim(-1, 1).float()
    terms = [
        F.cross_entropy(logits, F.adaptive_avg_pool2d(truth, logits.shape[2:]))
        for logits in (output.logits, *output.auxiliary)
    ]
    return torch.stack(terms).sum()
