"""Power: the smallest difference that n replicates can resolve, and how many replicates would resolve one.

The test is the t test of `reports.significance`. Its power is that of the noncentral t distribution, integrated here
over the standard errors that a study may find, because SciPy's `nct` is not a number for many arguments. What a test
set of finite size contributes to the standard error does not shrink with more replicates, so below a certain difference
no number of them is enough.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
from scipy import optimize, special, stats

from reports.significance import ALPHA

POWER = 0.8
"""Chance to find a difference that is there."""
MAX_REPLICATES = 1000
"""More than this many is said to be out of reach."""
MAX_DF = 1e6
"""Of more degrees of freedom, Student's t is the normal distribution."""

_ROOTS, _HALVES = np.polynomial.legendre.leggauss(400)
_NODES, _WEIGHTS = (_ROOTS + 1) / 2, _HALVES / 2
"""Gauss and Legendre's nodes between 0 and 1."""


class _Test(TypedDict):
    std: float
    sample_se: float
    alpha: float
    rows: int


def power_of(
    difference: float, *, std: float, replicates: int, sample_se: float = 0.0, alpha: float = ALPHA, rows: int = 2
) -> float:
    """Chance that a difference is found, two-sided.

    Args:
        difference: The true one.
        std: Standard deviation of the differences between replicates, above 0.
        replicates: At least 2.
        sample_se: Standard error that the test samples contribute, the same for any number of replicates.
        alpha: Level of the test, 0..1.
        rows: Rows whose spread is pooled, at least 2.
    """
    between = std**2 / replicates
    total = between + sample_se**2
    df = min(MAX_DF, (rows - 1) * (replicates - 1) * (total / between) ** 2)
    reach = float(stats.t.ppf(1 - alpha / 2, df)) * np.sqrt(special.chdtri(df, 1 - _NODES) / df)
    shift = abs(difference) / math.sqrt(total)
    return float(_WEIGHTS @ (special.ndtr(shift - reach) + special.ndtr(-shift - reach)))


def smallest_resolvable(
    *,
    std: float,
    replicates: int,
    sample_se: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
    rows: int = 2,
) -> float | None:
    """Smallest difference that so many replicates find with that power; None for fewer than two or no spread."""
    if replicates < 2 or std <= 0:
        return None

    test: _Test = {"std": std, "sample_se": sample_se, "alpha": alpha, "rows": rows}

    def missing(difference: float) -> float:
        return power_of(difference, replicates=replicates, **test) - power

    high = math.sqrt(std**2 / replicates + sample_se**2)
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high, xtol=1e-12))


def replicates_needed(
    difference: float,
    *,
    std: float,
    sample_se: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
    rows: int = 2,
) -> int | None:
    """Fewest replicates, at least 2, that find a difference with that power; None if `MAX_REPLICATES` do not.

    None too for a difference of 0, and where `std` is 0.
    """
    if difference == 0 or std <= 0:
        return None

    test: _Test = {"std": std, "sample_se": sample_se, "alpha": alpha, "rows": rows}

    def enough(replicates: int) -> bool:
        return power_of(difference, replicates=replicates, **test) >= power

    if not enough(MAX_REPLICATES):
        return None
    low, high = 1, MAX_REPLICATES  # too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
