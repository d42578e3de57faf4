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

TINY: Mapping[str, dict[str, Any]] = {
    "brinet": {**_RESNET_LSTM, "width": 24, "attention_width": 12, "aspp_width": 12},
    "cmpc": {**_RESNET_LSTM, "width": 32, "hidden": 16},
    "cmpc_plus": {**_RESNET_LSTM, "width": 32, "hidden": 16},
    "lavt": SWIN_BERT,
    "lgce": SWIN_BERT,
    "mafn": SWIN_BERT,
    "rmsin": SWIN_BERT,
}


def build(name: str, settings: Mapping[str, Any] | None = None, inputs: Inputs = INPUTS) -> SegmentationModel:
    """The tiny model of that name, with changes to its configuration and always the same initial weights."""
    assert name in TINY, (
        f"{name!r} is registered and needs a tiny configuration: add it to TINY in tests/tiny_models.py"
    )
    torch.manual_seed(0)
    model = MODELS.get(name)
    return model(resolve_config(model, {**TINY[name], **(settings or {})}), inputs)


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


def make_target(images: int) -> Tensor:
    """A rectangle `(B, H, W)` per image, each elsewhere."""
    target = torch.zeros(images, SIZE, SIZE, dtype=torch.long)
    for i in range(images):
        target[i, 8 * i : 8 * i + 32, 8 * i : 8 * i + 24] = 1
    return target


def training_loss(model: SegmentationModel, batch: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Cross entropy of the logits and of every auxiliary head, at their own size."""
    output = model(batch)
    truth = F.one_hot(target, 2).movedim(-1, 1).float()
    terms = [
        F.cross_entropy(logits, F.adaptive_avg_pool2d(truth, logits.shape[2:]))
        for logits in (output.logits, *output.auxiliary)
    ]
    return torch.stack(terms).sum()
