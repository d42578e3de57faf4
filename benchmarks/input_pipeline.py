"""Samples per second from the warm cache, against decoding and resizing 800 x 800 JPEGs; ratios of one run.

    python benchmarks/input_pipeline.py --samples 64

The plain reference only decodes and resizes the image. The cached side does more: image, mask, normalisation and
tokens, complete as the training loop gets them. It must give at least 15 times the samples per second of the reference.
Training samples with the published share of black boxes are measured beside it: a fifth of them is resized anew each
time. All runs in one process with one thread; passes alternate between the sides, and the median pass counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, features

from harness.data.base import SyntheticConfig
from harness.data.referring import BlackBoxes, ReferringSamples
from harness.data.rrsis_d import RrsisD

NATIVE, SIZE, TOKENS = 800, 480, 20
TARGET = 15.0
BOXED = 0.2


class Side(NamedTuple):
    """One thing that is measured."""

    name: str
    read: Callable[[int], object]


def plain_decode_and_resize(path: Path) -> NDArray[np.uint8]:
    """The reference, written from section 8.5 of the specification: JPEG -> RGB -> 480 x 480, Pillow bilinear."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def encode(sentence: str) -> tuple[list[int], list[int]]:
    """A stand-in for a tokenizer of 20 tokens."""
    ids = [len(word) for word in sentence.split()][:TOKENS]
    return ids + [0] * (TOKENS - len(ids)), [1] * len(ids) + [0] * (TOKENS - len(ids))


def open_samples(data: RrsisD, *, gib: float, fraction: float) -> ReferringSamples:
    """Training samples, with black boxes on a share of them."""
    boxes = BlackBoxes(fraction=fraction) if fraction else None
    samples = ReferringSamples(data, "train", image_size=SIZE, encode=encode, augment_seed=0, black_boxes=boxes)
    samples.use_cache(fingerprint=data.fingerprint(), gib=gib)
    return samples


def check_equal(a: ReferringSamples, b: ReferringSamples) -> None:
    """Raise unless both give the same tensors."""
    for i in range(len(a)):
        first, second = a[i], b[i]
        if any(not torch.equal(first[name], second[name]) for name in first):
            raise AssertionError(f"sample {i} must be the same with and without the cache")


def measure(sides: list[Side], num_samples: int, passes: int) -> dict[str, float]:
    """Samples per second of each side: median over passes that alternate between the sides."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(passes):
        for side in sides:
            start = time.perf_counter()
            for i in range(num_samples):
                side.read(i)
            seconds[side.name].append(time.perf_counter() - start)
    return {name: num_samples / statistics.median(found) for name, found in seconds.items()}


def machine() -> str:
    """What it was measured on, in one line."""
    jpeg = f"libjpeg{'-turbo' if features.check_feature('libjpeg_turbo') else ''} {features.version('jpg')}"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {np.__version__}, Pillow {PIL.__version__} ({jpeg}), "
        f"one thread, load {os.getloadavg()[0]:.1f}"
    )


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=64, help="number of generated 800 x 800 JPEGs")
    parser.add_argument("--passes", type=int, default=5, help="passes over them per side")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HARNESS_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "rrsis_d"
        RrsisD.write_synthetic(root, SyntheticConfig(train=options.samples, val=1, test=1, size=NATIVE))
        data = RrsisD(root)
        files = [record.image for record in data.records("train")]
        print(
            f"data: {len(files)} JPEGs, {NATIVE} x {NATIVE}, {sum(f.stat().st_size for f in files) // len(files)} bytes"
        )
        plain, cached = (open_samples(data, gib=gib, fraction=0) for gib in (0, 16))
        plain_boxed, boxed = (open_samples(data, gib=gib, fraction=BOXED) for gib in (0, 16))
        check_equal(plain, cached)
        check_equal(plain_boxed, boxed)
        sides = [
            Side("decode + resize", lambda i: plain_decode_and_resize(files[i])),
            Side("samples, no cache", lambda i: plain[i]),
            Side("samples, warm cache", lambda i: cached[i]),
            Side("20 % boxes, no cache", lambda i: plain_boxed[i]),
            Side("20 % boxes, warm cache", lambda i: boxed[i]),
        ]
        rates = measure(sides, len(files), options.passes)
    reference = rates["decode + resize"]
    print(f"{'':26}{'samples/s':>10}{'ratio':>8}")
    for name, rate in rates.items():
        print(f"{name:26}{rate:10.1f}{rate / reference:8.2f}")
    ratio = rates["samples, warm cache"] / reference
    print(f"ratio {ratio:.1f}, target {TARGET:.0f}: {'reached' if ratio >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
