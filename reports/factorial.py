"""Factorial designs: main effects, pairwise interactions, and each component's Shapley share, with intervals.

Every cell of a full factorial is trained with the same replicates, so the scores form a table of cells x replicates.
Everything here is a contrast, a weighted sum of cell means. Its error comes from how differently replicates see the
cells: least squares with a level per cell and a block per replicate, (cells - 1)(replicates - 1) degrees of freedom.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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


class _Error(NamedTuple):
    """How differently replicates see the cells."""

    variance: float
    df: int


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

    def means(self, names: tuple[str, ...]) -> list[Effect]:
        """The mean of every combination of levels of some factors, over all levels of the others.

        The interval leaves out what a replicate adds to all cells alike (Loftus and Masson 1994): it is made for
        comparing the means of this table with each other, and the error is that of its effects.
        """
        found = []
        for levels in itertools.product(*(self.factors[name] for name in names)):
            chosen = [self._levels(setting, names) == levels for setting in self.settings]
            effect = self._contrast(names, levels, np.array(chosen) / sum(chosen))
            found.append(replace(effect, p=None))
        return found

    def interaction_p(self, names: tuple[str, str]) -> float | None:
        """P of the hypothesis that two factors do not interact, over all their levels at once (F test).

        None for fewer than two replicates, or where nothing varies. Of two levels each it is that of the interaction.
        """
        error = self._error()
        if error is None:
            return None
        of_pair = [self._weights(names, (x, y)) for x in self.factors[names[0]][1:] for y in self.factors[names[1]][1:]]
        weights = np.array(of_pair)
        values = weights @ self.table.mean(axis=1)
        explained = float(values @ np.linalg.solve(weights @ weights.T, values)) * self.replicates / len(weights)
        return float(stats.f.sf(explained / error.variance, len(weights), error.df))

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

    def _error(self) -> _Error | None:
        """Of one cell in one replicate; None for fewer than two replicates, or where nothing varies."""
        cells, n = self.table.shape
        if n < MIN_REPLICATES:
            return None
        residual = self.table - self.table.mean(0) - self.table.mean(1, keepdims=True) + self.table.mean()
        df = (cells - 1) * (n - 1)
        variance = float((residual**2).sum()) / df
        return _Error(variance, df) if math.sqrt(variance) > RESOLUTION else None

    def _contrast(self, names: tuple[str, ...], levels: Setting, weights: Floats) -> Effect:
        value = float(weights @ self.table.mean(axis=1))
        error = self._error()
        if error is None:
            return Effect(names, levels, value, None, None)
        se = math.sqrt(error.variance * float((weights**2).sum()) / self.replicates)
        reach = float(stats.t.ppf((1 + LEVEL) / 2, error.df)) * se
        p = float(2 * stats.t.sf(abs(value) / se, error.df))
        return Effect(names, levels, value, Interval(value - reach, value + reach), p)
