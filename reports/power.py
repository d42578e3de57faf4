"""Power: the smallest difference that n replicates can resolve, and how many replicates would resolve one.

The test is that of `reports.comparisons`: the variance of a difference is the larger of its own and the one pooled over
the table, of which its own is a part, and p is never smaller than replicates alone make it. Its power is integrated
over the variances that a study may find. What a test set of finite size contributes to the standard error does not
shrink with more replicates, so below a certain difference no number of them is enough.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, Required, TypedDict, Unpack

import numpy as np
from scipy import optimize, special

from reports.intervals import Floats
from reports.significance import ALPHA

POWER = 0.8
"""Chance to find a difference that is there."""
MAX_REPLICATES = 1000
"""More than this many is said to be out of reach."""


class _Nodes(NamedTuple):
    """Gauss and Legendre's nodes between 0 and 1."""

    at: Floats
    weights: Floats


def _nodes(count: int) -> _Nodes:
    roots, weights = np.polynomial.legendre.leggauss(count)
    return _Nodes((roots + 1) / 2, weights / 2)


_OWN, _REST = _nodes(100), _nodes(16)


class Conditions(TypedDict, total=False):
    """What decides the power of a test, apart from the difference and the replicates."""

    std: Required[float]
    """Standard deviation of the differences between replicates, above 0."""
    sample_se: float
    """Standard error that the test samples contribute, the same for any number of replicates; default 0."""
    units: int
    """How many of them there are, at least 2; default 0 for so many that `sample_se` is known."""
    contrasts: float
    """Degrees of freedom of the pooled variance for each one of the difference's own, at least 1: of r complete rows
    r - 1; default 1."""
    alpha: float
    """Level of the test, 0..1; default `ALPHA`."""


class _Test(NamedTuple):
    """A test before its data."""

    se: float
    """Standard error that the mean difference has."""
    reaches: Floats
    """Least mean differences that are found, in standard errors, by the variance that a study finds."""
    weights: Floats
    """How likely these are."""

    def power(self, difference: float) -> float:
        """Chance that the test finds a difference."""
        shift = abs(difference) / self.se
        return float(self.weights @ (special.ndtr(shift - self.reaches) + special.ndtr(-shift - self.reaches)))


def power_of(difference: float, *, replicates: int, **conditions: Unpack[Conditions]) -> float:
    """Chance that a difference is found, two-sided.

    Args:
        difference: The true one.
        replicates: At least 2.
        conditions: See `Conditions`.
    """
    return _test(replicates, **conditions).power(difference)


def smallest_resolvable(*, replicates: int, **conditions: Unpack[Conditions]) -> float | None:
    """Smallest difference found with a chance of `POWER`; None for fewer than two replicates or no spread."""
    if replicates < 2 or conditions["std"] <= 0:
        return None
    test = _test(replicates, **conditions)

    def missing(difference: float) -> float:
        return test.power(difference) - POWER

    high = test.se
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high, xtol=1e-12))


def replicates_needed(difference: float, **conditions: Unpack[Conditions]) -> int | None:
    """Fewest replicates, at least 2, that find a difference with a chance of `POWER`; None if `MAX_REPLICATES` do not.

    None too for a difference of 0, and where nothing varies between replicates.
    """
    if difference == 0 or conditions["std"] <= 0:
        return None

    def enough(replicates: int) -> bool:
        return power_of(difference, replicates=replicates, **conditions) >= POWER

    if not enough(MAX_REPLICATES):
        return None
    low, high = 1, MAX_REPLICATES  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _test(
    replicates: int,
    *,
    std: float,
    sample_se: float = 0.0,
    units: int = 0,
    contrasts: float = 1.0,
    alpha: float = ALPHA,
) -> _Test:
    variances, weights = _variances(replicates, contrasts)
    between, shared, pool_df = variances * std**2 / replicates, sample_se**2, contrasts * (replicates - 1)
    spread = between**2 / pool_df + (shared**2 / (units - 1) if units > 1 else 0.0)
    both = special.stdtrit((between + shared) ** 2 / spread, 1 - alpha / 2) * np.sqrt(between + shared)
    alone = special.stdtrit(pool_df, 1 - alpha / 2) * np.sqrt(between)
    se = math.sqrt(std**2 / replicates + shared)
    return _Test(se, np.maximum(both, alone) / se, weights)


@functools.lru_cache(maxsize=256)
def _variances(replicates: int, contrasts: float) -> tuple[Floats, Floats]:
    """The variances that a test may find where the true one is 1, with their weights.

    The pool is the mean of the difference's own variance and that of the other contrasts between rows, which is
    independent of it. Where the rest has the smaller one, own decides; such cases have a weight of their own, so that
    what is integrated over the rest is smooth.
    """
    df = replicates - 1
    own = special.chdtri(df, 1 - _OWN.at) / df
    if contrasts <= 1:
        return own, _OWN.weights
    rest_df = df * (contrasts - 1)
    larger = special.chdtrc(rest_df, rest_df * own)
    tails = np.maximum(larger[:, None] * _REST.at, np.finfo(float).tiny)
    rest = special.chdtri(rest_df, tails) / rest_df
    pool = (own[:, None] + (contrasts - 1) * rest) / contrasts
    weights = (_OWN.weights * larger)[:, None] * _REST.weights
    return np.concatenate([own, pool.ravel()]), np.concatenate([_OWN.weights * (1 - larger), weights.ravel()])
