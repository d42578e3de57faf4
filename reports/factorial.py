"""Factorial designs: main effects, pairwise interactions, and each component's Shapley share, with intervals.

Every cell of a full factorial is trained with the same replicates, so the scores form a table of cells x replicates.
Everything here is a contrast, a weighted sum of cell means. Its error has two parts, as that of every difference (see
`reports.intervals`): how differently replicates see the cells, by least squares with a level per cell and a block per
replicate, (cells - 1)(replicates - 1) degrees of freedom; and what drawing other test samples would change in all
replicates alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from reports.intervals import MIN_REPLICATES, Floats, Interval, Precision, Replicated, combined, shared_covariance

Setting = tuple[Any, ...]
"""Level of each factor, in the order of the factors."""


@dataclass(frozen=True)
class Effect:
    """An estimated contrast."""

    name: tuple[str, ...]
    """One factor for a main effect, two for an interaction."""
    levels: Setting
    """The level of each, compared with its first."""
    value: float
    """Stored unit."""
    interval: Interval | None
    """None for fewer than two replicates, or where nothing varies."""
    p: float | None
    """Two-sided, not corrected."""


class Factorial:
    """Scores of a full factorial.

    Args:
        factors: Factor -> its levels, the first being the one that others are compared with.
        scores: Setting -> its score on the same replicates, in the same order. Test samples take part where every
            setting has draws, which are then of the same units.

    Raises:
        ValueError: A setting is missing, or has other replicates than the rest.
    """

    def __init__(self, factors: Mapping[str, Sequence[Any]], scores: Mapping[Setting, Replicated]) -> None:
        self.factors = {name: tuple(levels) for name, levels in factors.items()}
        self.settings: list[Setting] = list(itertools.product(*self.factors.values()))
        missing = [s for s in self.settings if s not in scores]
        if missing:
            raise ValueError(f"a full factorial has every setting; {len(missing)} are missing, first {missing[0]}")
        found = [scores[s] for s in self.settings]
        sizes = sorted({len(f.values) for f in found})
        if len(sizes) > 1 or not sizes[0]:
            raise ValueError(f"every setting must have the same replicates, got {sizes} of them")
        self.replicates = sizes[0]
        self.means_of_cells: Floats = np.array([f.mean for f in found])
        self.df = (len(found) - 1) * (self.replicates - 1)
        """Degrees of freedom between replicates."""
        self._variance = _residual_variance(np.stack([f.values for f in found]), self.df)
        draws = [f.draws for f in found if f.draws is not None]
        self.on_samples = len(draws) == len(found)
        """Whether test samples take part."""
        self.blocked = any(f.blocked for f in found)
        """Whether they come in blocks."""
        self._units = found[0].units if self.on_samples else 0
        self._shared = np.zeros((len(found), len(found)))
        if self.on_samples and self.replicates >= MIN_REPLICATES:
            self._shared = shared_covariance(np.stack(draws), self._units)

    def main_effects(self) -> list[Effect]:
        """For each factor and each level but the first: mean over all other factors, less that of the first level."""
        return [self._effect((name,), (level,)) for name, levels in self.factors.items() for level in levels[1:]]

    def interactions(self) -> list[Effect]:
        """For each two factors and levels but the first: by how much one's effect is larger with the other's level."""
        return [
            self._effect((a, b), (x, y))
            for a, b in itertools.combinations(self.factors, 2)
            for x in self.factors[a][1:]
            for y in self.factors[b][1:]
        ]

    def means(self, names: tuple[str, ...]) -> list[Effect]:
        """The mean of every combination of levels of some factors, over all levels of the others.

        The interval leaves out what a replicate, or a draw of test samples, adds to all cells alike (Loftus and Masson
        1994): it is made for comparing the means of this table with each other, and the error is that of its effects.
        """
        found = []
        for levels in itertools.product(*(self.factors[name] for name in names)):
            chosen = [self._levels(setting, names) == levels for setting in self.settings]
            effect = self._contrast(names, levels, np.array(chosen) / sum(chosen), less=1 / len(chosen))
            found.append(replace(effect, p=None))
        return found

    def interaction_p(self, names: tuple[str, str]) -> float | None:
        """P of the hypothesis that two factors do not interact, over all their levels at once (F test).

        None for fewer than two replicates, or where nothing varies. Of two levels each it is that of the interaction;
        of more the contrast between all levels that lies farthest from 0 is taken, and judged as the farthest of all.
        """
        of_pair = [self._weights(names, (x, y)) for x in self.factors[names[0]][1:] for y in self.factors[names[1]][1:]]
        weights = np.array(of_pair)
        values = weights @ self.means_of_cells
        between = weights @ weights.T * self._variance / self.replicates
        farthest = np.linalg.lstsq(between + weights @ _positive(self._shared) @ weights.T, values)[0]
        known = self._precision(farthest @ weights)
        if known is None or not known.se:
            return None
        return float(stats.f.sf((farthest @ values / known.se) ** 2 / len(weights), len(weights), known.df))

    def gain(self) -> Effect:
        """From all components off to all on: what the shares of `shapley` add up to."""
        last = [setting == tuple(levels[-1] for levels in self.factors.values()) for setting in self.settings]
        first = [setting == tuple(levels[0] for levels in self.factors.values()) for setting in self.settings]
        weights = np.array(last, np.float64) - np.array(first, np.float64)
        return self._contrast(tuple(self.factors), tuple(levels[-1] for levels in self.factors.values()), weights)

    def shapley(self) -> list[Effect]:
        """Each component's share of the gain from all off to all on: its gain, averaged over all orders of adding.

        The shares add up to the whole gain (Shapley 1953). Levels are (off, on).

        Raises:
            ValueError: A factor has not two levels.
        """
        many = [name for name, levels in self.factors.items() if len(levels) != 2]
        if many:
            raise ValueError(f"shares are of components that are on or off; {many[0]!r} has not two levels")
        return [
            self._contrast((name,), (levels[1],), self._shapley_weights(position))
            for position, (name, levels) in enumerate(self.factors.items())
        ]

    def _shapley_weights(self, position: int) -> Floats:
        names = list(self.factors)
        k = len(names)
        weights = []
        for setting in self.settings:
            on = [setting[i] == self.factors[name][1] for i, name in enumerate(names)]
            others = sum(on) - on[position]
            share = math.factorial(others) * math.factorial(k - 1 - others) / math.factorial(k)
            weights.append(share if on[position] else -share)
        return np.array(weights)

    def _levels(self, setting: Setting, names: tuple[str, ...]) -> Setting:
        return tuple(setting[list(self.factors).index(name)] for name in names)

    def _effect(self, names: tuple[str, ...], levels: Setting) -> Effect:
        return self._contrast(names, levels, self._weights(names, levels))

    def _weights(self, names: tuple[str, ...], levels: Setting) -> Floats:
        averaged = math.prod(len(of) for name, of in self.factors.items() if name not in names)
        weights = np.full(len(self.settings), 1 / averaged)
        for name, level in zip(names, levels, strict=True):
            place, first = list(self.factors).index(name), self.factors[name][0]
            weights *= [{level: 1.0, first: -1.0}.get(setting[place], 0.0) for setting in self.settings]
        return weights

    def _precision(self, weights: Floats, *, less: float = 0.0) -> Precision | None:
        """Of a contrast; None for fewer than two replicates. `less` is taken off its weights for the test samples."""
        if self.replicates < MIN_REPLICATES:
            return None
        between = self._variance * float(weights @ weights) / self.replicates
        shared = float((weights - less) @ self._shared @ (weights - less))
        return combined(between, self.df, max(0.0, shared), self._units)

    def _contrast(self, names: tuple[str, ...], levels: Setting, weights: Floats, *, less: float = 0.0) -> Effect:
        value = float(weights @ self.means_of_cells)
        known = self._precision(weights, less=less)
        if known is None:
            return Effect(names, levels, value, None, None)
        return Effect(names, levels, value, known.interval(value), known.p(value))


def _residual_variance(scores: Floats, df: int) -> float:
    """Of a cell in a replicate, `(cells, replicates)`, after what cell and replicate add; 0 without any freedom."""
    residual = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    return float((residual**2).sum()) / df if df else 0.0


def _positive(covariance: Floats) -> Floats:
    """The nearest matrix without negative variances: an estimate may have some by chance."""
    values, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors * np.maximum(values, 0.0) @ vectors.T
    return found
