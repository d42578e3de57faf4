"""Random streams that are the same for every variant, and the switches of determinism.

A stream's seed derives from base seed, dataset and replicate, never from the variant: inside a replicate all variants
see the same order and the same augmentations, so their differences are paired.
"""

from __future__ import annotations

import hashlib
import os
import random

from harness.canonical import canonical_json
from harness.errors import nearest

STREAMS = ("init", "order", "augment", "model_noise")
"""Initial weights, order of samples, augmentation, randomness inside the model (dropout, drop path)."""


def stream_seed(stream: str, *, base_seed: int, dataset: str, replicate: int) -> int:
    """Seed of one stream.

    Args:
        stream: One of `STREAMS`.
        base_seed: The study's base seed.
        dataset: Name of the dataset.
        replicate: Repetition index from 0.

    Returns:
        0 to 2**63 - 1, which numpy's generators and torch accept.

    Raises:
        ValueError: No such stream.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown random stream {stream!r}; {nearest(stream, STREAMS)}")
    text = canonical_json({"stream": stream, "base_seed": base_seed, "dataset": dataset, "replicate": replicate})
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices.

    Args:
        seed: 0 to 2**63 - 1; numpy's old global generator takes its low 32 bits.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_determinism(enabled: bool) -> None:
    """Prefer algorithms whose result is the same in every run, or the fastest ones.

    An operation without a deterministic algorithm warns and runs. Call before the first use of the GPU.
    """
    import torch

    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled, warn_only=True)
    torch.backends.cudnn.deterministic = enabled
    torch.backends.cudnn.benchmark = not enabled
