"""Factorial designs: main effects, pairwise interactions, and each component's Shapley share, with intervals.

Every cell of a full factorial is trained with the same replicates, so the scores form a table of cells x replicates.
Everything here is a contrast, a weighted sum of cell means. Its error comes from how differently replicates see the
cells: least squares with a level per cell and a block per replicate, (cells - 1)(replicates - 1) degrees of freedom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from reports.intervals import LEVEL, MIN_REPLICATES, RESOLUTION, Interval

Setting = tuple[Any, ...]
"""Level of each factor, in the order of the factors."""
Floats = NDArray[np.float64]


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
        scores: Setting -> score per replicate, in the same order in every setting; None where there is none. Replicates
            that a setting lacks are left out, `left_out` says how many.

    Raises:
        ValueError: A setting is missing, or no replicate is complete.
    """

    def __init__(self, factors: Mapping[str, Sequence[Any]], scores: Mapping[Setting, Sequence[float | None]]) -> None:
        self.factors = {name: tuple(levels) for name, levels in factors.items()}
        self.settings: list[Setting] = list(itertools.product(*self.factors.values()))
        missing = [s for s in self.settings if s not in scores]
        if missing:
            raise ValueError(f"a full factorial has every setting; {len(missing)} are missing, first {missing[0]}")
        columns = list(itertools.zip_longest(*(scores[s] for s in self.settings)))
        complete = [[float(v) for v in column if v is not None] for column in columns if None not in column]
        if not complete:
            raise ValueError("at least one replicate must have a score in every setting, got none")
        self.left_out = len(columns) - len(complete)
        self.table: Floats = np.array(complete).T
        """`(cells, replicates)`."""

    @property
    def replicates(self) -> int:
        """Complete ones."""
        return int(self.table.shape[1])

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

    def _effect(self, names: tuple[str, ...], levels: Setting) -> Effect:
        averaged = math.prod(len(of) for name, of in self.factors.items() if name not in names)
        weights = np.full(len(self.settings), 1 / averaged)
        for name, level in zip(names, levels, strict=True):
            place, first = list(self.factors).index(name), self.factors[name][0]
            weights *= [{level: 1.0, first: -1.0}.get(setting[place], 0.0) for setting in self.settings]
        return self._contrast(names, levels, weights)

    def _contrast(self, names: tuple[str, ...], levels: Setting, weights: Floats) -> Effect:
        cells, n = self.table.shape
        value = float(weights @ self.table.mean(axis=1))
        if n < MIN_REPLICATES:
            return Effect(names, levels, value, None, None)
        residual = self.table - self.table.mean(0) - self.table.mean(1, keepdims=True) + self.table.mean()
        df = (cells - 1) * (n - 1)
        se = math.sqrt(float((residual**2).sum()) / df * float((weights**2).sum()) / n)
        if se <= RESOLUTION:
            return Effect(names, levels, value, None, None)
        reach = float(stats.t.ppf((1 + LEVEL) / 2, df)) * se
        p = float(2 * stats.t.sf(abs(value) / se, df))
        return Effect(names, levels, value, Interval(value - reach, value + reach), p)
