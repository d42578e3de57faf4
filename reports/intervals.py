"""Confidence intervals by hierarchical bootstrap: replicates are resampled, then test samples or blocks of them.

All replicates are measured on the same test samples, so a draw weighs the samples alike in every replicate and on both
sides of a difference. A draw that took other samples for each replicate would average away what the test set itself
contributes. Samples that belong together (tiles of a scene, sentences of an image) are summed to one unit first.

The interval of the tables is `mean ± t * se`. The bootstrap over samples gives the part of `se` that all replicates
share, the replicates themselves give the rest, and Student's t has Satterthwaite's degrees of freedom, as in the
analysis of readers who all read the same cases (Obuchowski and Rockette 1995; Hillis 2007, doi:10.1002/sim.2532). It is
never narrower than that of the replicates alone.
Percentile and BCa intervals of the same draws (Efron and Tibshirani 1993, chapters 13 and 14) are here too; with three
replicates they are far too narrow, see `docs/statistics.md`.

Letters: `D` draws, `U` units, `N` replicates, `C` components.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]
"""Sums `(..., C)` of per-unit components -> score `(...)`."""

DRAWS = 2000
"""Draws of the bootstrap: the standard error is known to 1.6 %."""
SEED = 20
"""Seed of every draw, so that equal results give equal reports."""
LEVEL = 0.95
RESOLUTION = 1e-9
"""Spreads of fractions below this are rounding errors of equal numbers."""
MIN_REPLICATES = 2


class Interval(NamedTuple):
    """Where a score is, with the confidence that was asked for."""

    low: float
    high: float


class Pooled(NamedTuple):
    """How much paired differences between rows vary over replicates, taken together."""

    variance: float
    """Mean variance of the difference of two rows."""
    df: float
    """Degrees of freedom, at least 1."""


class Precision(NamedTuple):
    """How well a mean over replicates is known."""

    se: float
    """Standard error; 0 where nothing varies."""
    df: float
    """Degrees of freedom, at least 1; infinite where nothing but infinitely many units contribute."""
    replicate_variance: float
    """Squared standard error that more replicates would reduce."""
    replicate_df: float
    """Its degrees of freedom, at least 1."""
    sample_variance: float
    """Squared standard error that only more test samples would reduce."""

    def interval(self, mean: float, *, level: float = LEVEL) -> Interval | None:
        """Around the mean; None where nothing varies."""
        if not self.se:
            return None
        reach = max(float(special.stdtrit(df, (1 + level) / 2)) * se for se, df in self._errors())
        return Interval(mean - reach, mean + reach)

    def p(self, mean: float) -> float | None:
        """Chance of a mean this far from 0 if it is 0, two-sided; None where nothing varies."""
        if not self.se:
            return None
        return max(float(2 * special.stdtr(df, -abs(mean) / se)) for se, df in self._errors())

    def _errors(self) -> list[tuple[float, float]]:
        """Standard errors with their degrees of freedom: of both parts together, and of the replicates alone.

        The larger error has more degrees of freedom, and where replicates agree by chance that outweighs it: what is
        known of the test samples must not make a claim of replicates that cannot make it themselves.
        """
        alone = math.sqrt(self.replicate_variance)
        return [(self.se, self.df), *([(alone, self.replicate_df)] if alone > RESOLUTION else [])]


@dataclass(frozen=True)
class Replicated:
    """A score, or a difference of two, of each replicate: as measured, and on resampled units."""

    values: Floats
    """`(N,)`, as measured."""
    draws: Floats | None = None
    """`(D, N)`, the same on every draw of units; None where no per-sample results are at hand."""
    units: int = 0
    """U, 0 without draws."""
    blocked: bool = False
    """Whether its test samples come in blocks, so that blocks are what is drawn, or are too few to be."""

    @property
    def mean(self) -> float:
        """Mean over replicates."""
        return float(self.values.mean())

    def minus(self, other: Replicated) -> Replicated:
        """Difference per replicate; both sides hold the same replicates, and draws of the same units or none."""
        same = self.draws is not None and other.draws is not None and self.units == other.units
        draws = self.draws - other.draws if same and self.draws is not None and other.draws is not None else None
        units = 0 if draws is None else self.units
        return Replicated(self.values - other.values, draws, units, self.blocked or other.blocked)

    def take(self, replicates: Sequence[int]) -> Replicated:
        """Some of the replicates, by position."""
        chosen = list(replicates)
        return replace(self, values=self.values[chosen], draws=None if self.draws is None else self.draws[:, chosen])


@functools.lru_cache(maxsize=4)
def draw_weights(units: int, *, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """How often each draw takes each unit, `(D, U)`; a row sums to U. The same for equal arguments."""
    rng = np.random.default_rng([seed, units])
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def resample(components: Floats, *, draws: int = DRAWS, seed: int = SEED) -> Floats:
    """Sums of the components over every draw of units, `(D, N, C)`.

    Args:
        components: `(N, U, C)`, the same units in the same order in every replicate.
        draws: D.
        seed: Sides of a difference must use the same.
    """
    replicates, units, width = components.shape
    flat = np.ascontiguousarray(components.transpose(1, 0, 2)).reshape(units, replicates * width)
    sums: Floats = draw_weights(units, draws=draws, seed=seed) @ flat
    return sums.reshape(draws, replicates, width)


def replicated(components: Floats, score: Score, *, draws: int = DRAWS, seed: int = SEED) -> Replicated:
    """A score of each replicate from additive components `(N, U, C)`, measured and resampled."""
    drawn = score(resample(components, draws=draws, seed=seed))
    return Replicated(score(components.sum(axis=1)), drawn, components.shape[1])


def precision(found: Replicated, pooled: Pooled | None = None) -> Precision:
    """Standard error and degrees of freedom of the mean over replicates, of which there are at least two.

    With `pooled`, a difference varies at least as much as differences of its table do on average: a few replicates that
    agree by chance are no reason for a claim.

    The variance between replicates holds what training again changes and how differently replicates fare on the same
    samples; the covariance of two replicates over draws of units holds what they share. Both together are the variance
    of the mean.
    """
    n = len(found.values)
    own = float(found.values.var(ddof=1))
    between = (max(own, pooled.variance) if pooled else own) / n
    df = max(n - 1.0, pooled.df) if pooled else n - 1.0
    shared = 0.0 if found.draws is None else float(shared_covariance(found.draws[None], found.units)[0, 0])
    return combined(between, df, max(0.0, shared), found.units)


def combined(between: float, df: float, shared: float, units: int) -> Precision:
    """What two independent parts of a squared standard error say together.

    Args:
        between: Part of the replicates, with `df` degrees of freedom.
        df: At least 1.
        shared: Part of the test samples, of which there are `units`; 0 where they take no part.
        units: U.
    """
    total = between + shared
    if total <= RESOLUTION**2:
        return Precision(0.0, df, between, df, shared)
    spread = between**2 / df + (shared**2 / (units - 1) if shared else 0.0)
    return Precision(math.sqrt(total), total**2 / spread if spread else math.inf, between, df, shared)


def shared_covariance(draws: Floats, units: int) -> Floats:
    """Covariance `(K, K)` of K scores which equal draws of units give all replicates alike; 0 for one unit.

    It is that between different replicates, averaged over all pairs of them and freed of the bias of few units.

    Args:
        draws: `(K, D, N)`, at least two replicates.
        units: U.
    """
    scores, count, n = draws.shape
    if units < 2:
        return np.zeros((scores, scores))
    centred = draws - draws.mean(axis=1, keepdims=True)
    sums, single = centred.sum(axis=2), centred.reshape(scores, -1)
    covariance: Floats = (sums @ sums.T - single @ single.T) / ((count - 1) * n * (n - 1)) * units / (units - 1)
    return covariance


def interval(found: Replicated, pooled: Pooled | None = None, *, level: float = LEVEL) -> Interval | None:
    """The interval that tables print; None for fewer than two replicates, or where nothing varies."""
    if len(found.values) < MIN_REPLICATES:
        return None
    return precision(found, pooled).interval(found.mean, level=level)


def bootstrap_interval(
    found: Replicated,
    *,
    method: Literal["percentile", "bca"],
    influences: Sequence[Floats] = (),
    level: float = LEVEL,
    seed: int = SEED,
) -> Interval | None:
    """Percentile or BCa interval of the hierarchical bootstrap; None for fewer than two replicates.

    Args:
        found: Scores; without draws only replicates are resampled.
        method: `bca` corrects bias and skewness, and needs `influences`.
        influences: For each level that is resampled, how much each of its members moves the mean; see
            `replicate_influence` and `unit_influence`.
        level: Confidence, 0..1.
        seed: Of the draw of replicates.
    """
    n = len(found.values)
    if n < MIN_REPLICATES:
        return None
    draws = found.draws if found.draws is not None else np.broadcast_to(found.values, (DRAWS, n))
    weights = np.random.default_rng([seed, n, len(draws)]).multinomial(n, np.full(n, 1 / n), size=len(draws)) / n
    means = (draws * weights).sum(axis=1)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(means, found.mean, influences, tails)
    low, high = np.quantile(means, tails)
    return Interval(float(low), float(high))


def replicate_influence(found: Replicated) -> Floats:
    """How much each replicate moves the mean, `(N,)`."""
    influence: Floats = (found.values - found.values.mean()) / len(found.values)
    return influence


def unit_influence(components: Floats, score: Score) -> Floats:
    """How much each unit moves the mean over replicates, `(U,)`, by leaving it out; components are `(N, U, C)`."""
    units = components.shape[1]
    without: Floats = score(components.sum(axis=1, keepdims=True) - components).mean(axis=0)
    influence: Floats = (units - 1) * (without.mean() - without) / units
    return influence


def _bca_tails(means: Floats, estimate: float, influences: Sequence[Floats], tails: Floats) -> Floats:
    below = ((means < estimate).mean() + (means <= estimate).mean()) / 2
    bias = special.ndtri(below)
    cubes = sum(float((level**3).sum()) for level in influences)
    squares = sum(float((level**2).sum()) for level in influences)
    acceleration = cubes / (6 * squares**1.5) if squares else 0.0
    shifted = bias + special.ndtri(tails)
    corrected: Floats = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    return corrected
