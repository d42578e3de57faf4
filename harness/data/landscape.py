"""Generated land cover in which every single modality leaves pairs of classes that only another one tells apart.

Class `k` looks like level `k // 2` to modalities of the first kind (optical) and like level `(k + 1) // 2` to those of
the second (radar, heights): optical confuses 0 with 1, 2 with 3, ..., the others 1 with 2, 3 with 4, ...; both
together separate all. `single_bound` is the largest share of pixels that one kind alone can get right. Letters: `K`
classes, `L` levels, `C` bands, `H W` size.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.semantic import IGNORED

SHIFT = (2, -1)
"""Rows and columns by which the second kind of modality is moved when the known defects are asked for."""

_NUM_LOOKS = 4


class SceneJob(NamedTuple):
    """One scene to generate."""

    split: str
    number: int
    """Its place within the split, from 0."""
    rng: np.random.Generator
    shift: tuple[int, int]
    is_odd: bool
    """Whether it is the scene that gets the dataset's own defects: the first of the training split, with quirks."""


class Levels(NamedTuple):
    """What the two kinds of modality see, `(H, W)` each."""

    optical: NDArray[np.intp]
    other: NDArray[np.intp]


def scene_jobs(config: SyntheticConfig) -> list[SceneJob]:
    """The scenes of a miniature, each with its own stream of random numbers."""
    jobs = []
    for split in SPLITS:
        for index in range(getattr(config, split)):
            rng = np.random.default_rng([config.seed, zlib.crc32(split.encode()), index])
            is_odd = config.quirks and split == "train" and index == 0
            jobs.append(SceneJob(split, index, rng, SHIFT if config.quirks else (0, 0), is_odd))
    return jobs


def draw_classes(num_classes: int, height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth patches of every class `(H, W)`; 1 to 3 percent of the pixels are 255.

    Args:
        num_classes: K.
        height: H in pixels.
        width: W in pixels.
        rng: Source of the draw.
    """
    sigma = rng.uniform(0.06, 0.09) * min(height, width)
    fields = gaussian_filter(rng.normal(size=(num_classes, height, width)), (0, sigma, sigma), mode="wrap")
    labels: NDArray[np.uint8] = fields.argmax(axis=0).astype(np.uint8)
    hole = gaussian_filter(rng.normal(size=(height, width)), sigma / 2, mode="wrap")
    labels[hole > np.quantile(hole, 1 - rng.uniform(0.01, 0.03))] = IGNORED
    return labels


def levels_of(labels: NDArray[np.uint8], shift: tuple[int, int]) -> Levels:
    """What each kind of modality sees of the classes `(H, W)`; the second kind moved by `shift` (rows, columns)."""
    filled = np.where(labels == IGNORED, 0, labels).astype(np.intp)
    return Levels(optical=filled // 2, other=(moved(filled, shift) + 1) // 2)


def moved(values: NDArray[np.intp], shift: tuple[int, int]) -> NDArray[np.intp]:
    """`(H, W)` moved by rows and columns; the border is repeated."""
    rows = np.clip(np.arange(values.shape[0]) - shift[0], 0, values.shape[0] - 1)
    columns = np.clip(np.arange(values.shape[1]) - shift[1], 0, values.shape[1] - 1)
    return values[rows][:, columns]


def num_levels(num_classes: int) -> int:
    """L for K classes."""
    return num_classes // 2 + 1


def single_bound(labels: NDArray[np.uint8]) -> float:
    """Largest share of labelled pixels that the better kind of modality alone can classify, pixel by pixel."""
    valid = labels[labels != IGNORED].astype(np.intp)
    bounds = []
    for levels in (valid // 2, (valid + 1) // 2):
        joint = np.zeros((int(levels.max()) + 1, int(valid.max()) + 1), dtype=np.int64)
        np.add.at(joint, (levels, valid), 1)
        bounds.append(joint.max(axis=1).sum() / len(valid))
    return float(max(bounds))


def optical(levels: NDArray[np.intp], num: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Red, green, blue, near infrared `(4, H, W)` on a scale of 0..255; even levels are vegetation.

    Args:
        levels: `(H, W)`, 0..num - 1.
        num: L.
        rng: Source of texture and noise.
    """
    step = np.arange(num)
    green = 40 + 170 * step / max(num - 1, 1)
    is_plant = step % 2 == 0
    table = np.stack([np.where(is_plant, 50, 140), green, 230 - green, np.where(is_plant, 200, 50)])  # (4, L)
    texture = 10 * _texture(levels.shape, rng)
    return np.clip(table[:, levels] + texture + rng.normal(0, 8, (4, *levels.shape)), 0, 255)


def backscatter(levels: NDArray[np.intp], num: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Radar intensity `(H, W)` between about 0.001 and 1 with speckle of four looks, see `optical` for arguments."""
    mean = 10.0 ** (-2.5 + 2.2 * levels / max(num - 1, 1))
    return mean * rng.gamma(_NUM_LOOKS, 1 / _NUM_LOOKS, levels.shape)


def decibels(intensity: NDArray[np.float64]) -> NDArray[np.float32]:
    """10 log10 of an intensity, float32."""
    return (10 * np.log10(intensity)).astype(np.float32)


def byte_amplitude(intensity: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Intensity as logarithm stretched to 1..255, the look of 8-bit radar products."""
    return np.clip(np.round(255 + 6.5 * 10 * np.log10(intensity)), 1, 255).astype(np.uint8)


def heights(levels: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.float32]:
    """Surface heights `(H, W)` in metres: 250 at the lower end, a slope of 4 metres, 6 metres per level."""
    slope = np.linspace(0, 4, levels.shape[1])[None, :]
    return (250 + slope + 6 * levels + rng.normal(0, 0.3, levels.shape)).astype(np.float32)


def as_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round to uint8."""
    return np.round(values).astype(np.uint8)


def ndvi(red: NDArray[np.float64], near_infrared: NDArray[np.float64]) -> NDArray[np.float32]:
    """Normalised difference vegetation index, -1..1."""
    return ((near_infrared - red) / np.maximum(near_infrared + red, 1)).astype(np.float32)


def _texture(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    smooth = gaussian_filter(rng.normal(size=shape), 2, mode="wrap")
    return np.asarray(smooth / max(float(smooth.std()), 1e-9))
