"""Maps inside a trained model for a few fixed samples: what figures of fusion stages show.

A map is the mean over channels of the absolute activation. Samples are chosen by the hash of their keys, so every
model, replicate and study on the same data shows the same ones. Letters: `B` samples, `H W` map, `N = H W`, `C`
channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from harness.evaluate import to_device
from harness.tasks import Task
from models.base import FeaturePoint, SegmentationModel

FILE = "feature_maps.npz"
"""A float16 array `(B, H, W)` per point, and `keys (B,)`: the samples shown."""

SPLIT = "val"
NUM_SAMPLES = 4
MAX_SIDE = 64
"""Largest side of a stored map; larger ones are averaged down."""


def choose_samples(keys: Sequence[str]) -> list[int]:
    """Places of the `NUM_SAMPLES` keys whose SHA-256 is smallest, in that order."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i].encode()).digest())
    return order[:NUM_SAMPLES]


def activation_map(x: Tensor, point: FeaturePoint) -> Tensor:
    """Mean over channels of |x|, `(B, H, W)` with sides of at most `MAX_SIDE`."""
    y = x.float().abs().mean(1 if point.layout == "B C H W" else -1)
    if point.layout == "B N C":
        side = round(y.shape[1] ** 0.5)
        # B N -> B H W
        y = y.view(-1, side, side)
    H, W = y.shape[1:]
    if max(H, W) <= MAX_SIDE:
        return y
    return F.adaptive_avg_pool2d(y[:, None], (min(H, MAX_SIDE), min(W, MAX_SIDE)))[:, 0]


@contextmanager
def _captured(model: SegmentationModel) -> Iterator[dict[str, Tensor]]:
    """Collect the maps of the points that this model has built, from the forward passes of the block."""
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def keep(_module: nn.Module, _inputs: Any, output: Tensor, *, name: str, point: FeaturePoint) -> None:
        found[name] = activation_map(output, point)

    hooks = [
        modules[point.path].register_forward_hook(partial(keep, name=name, point=point))
        for name, point in model.feature_points.items()
        if point.path in modules
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def feature_maps(model: SegmentationModel, batch: Mapping[str, Tensor]) -> dict[str, NDArray[np.float16]]:
    """Maps of a batch, in float32 arithmetic.

    Args:
        model: Its training mode is restored.
        batch: On the model's device.

    Returns:
        Name of the point -> `(B, H, W)`, for the points that this configuration has built.
    """
    was_training = model.training
    model.eval()
    with _captured(model) as found:
        model(batch)
    model.train(was_training)
    largest = float(np.finfo(np.float16).max)
    in_order = [name for name in model.feature_points if name in found]
    return {name: found[name].clamp(max=largest).cpu().numpy().astype(np.float16) for name in in_order}


def write_feature_maps(folder: Path, model: SegmentationModel, task: Task, *, device: torch.device) -> None:
    """Write `FILE` into a trial's folder; nothing for a model that declares no point."""
    if not model.feature_points:
        return
    samples = task.evaluation(SPLIT)
    keys = [str(samples.describe(i)["key"]) for i in range(len(samples))]
    chosen = choose_samples(keys)
    maps = feature_maps(model, to_device(default_collate([samples[i] for i in chosen]), device))
    arrays: dict[str, Any] = {"keys": np.array([keys[i] for i in chosen]), **maps}
    np.savez_compressed(folder / FILE, allow_pickle=False, **arrays)
