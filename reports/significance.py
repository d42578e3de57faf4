"""Paired comparisons: a test over replicates and samples, the exact sign-flip test over replicates, Holm's correction.

The unit of the deciding test is the replicate, measured on a test set that is itself a sample: see `reports.intervals`.
Because replicates are few, the exact test is printed beside it with the smallest p it could have given: three
replicates cannot give less than 0.25.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reports.effect_size import hedges_dz
from reports.intervals import (
    MIN_REPLICATES,
    RESOLUTION,
    SEED,
    Floats,
    Interval,
    Pooled,
    Precision,
    Replicated,
    interval,
    precision,
)

ALPHA = 0.05
"""Chance of a wrong claim that a family of comparisons accepts."""
MAX_ENUMERATED = 16
"""Replicates up to which all 2^n signs are tried."""
FLIPS = 20_000
"""Random signs that are tried for more replicates."""


class SignFlip(NamedTuple):
    """Outcome of a sign-flip test."""

    p: float
    """Two-sided."""
    smallest: float
    """The least p that so many replicates can give."""
    exact: bool
    """Whether all signs were tried; else `FLIPS` random ones."""


@dataclass(frozen=True)
class Comparison:
    """What is known of the difference between two variants."""

    difference: float
    """Mean over the replicates that both have, stored unit."""
    replicates: int
    """How many those are."""
    p: float | None
    """Two-sided, not corrected; None for fewer than two replicates."""
    interval: Interval | None
    precision: Precision | None
    sign_flip: SignFlip | None
    effect: float | None
    """d_z with Hedges' correction; None where differences do not vary."""
    on_samples: bool
    """Whether the test samples take part; else only the spread between replicates decides."""
    blocked: bool
    """Whether they come in blocks."""


def sign_flip_test(differences: Sequence[float] | NDArray[np.float64], *, seed: int = SEED) -> SignFlip:
    """Permutation test of the mean of paired differences, two-sided.

    If a pair's sides can be swapped, the sign of its difference is a coin; p is the share of signs whose mean is at
    least as far from 0. Up to 16 replicates all signs are tried, beyond that random ones and the signs found.

    Raises:
        ValueError: No difference.
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    if not n:
        raise ValueError("a sign-flip test needs at least one difference, got none")
    exact = n <= MAX_ENUMERATED
    reached = np.abs(_signs(n, seed) @ values) >= abs(values.sum()) - n * RESOLUTION
    if exact:
        return SignFlip(float(reached.mean()), min(1.0, 2.0 ** (1 - n)), True)
    return SignFlip(float((1 + reached.sum()) / (1 + FLIPS)), 1 / (1 + FLIPS), False)


@functools.lru_cache(maxsize=8)
def _signs(n: int, seed: int) -> Floats:
    """All signs of `n` differences, or random ones, `(S, n)`."""
    if n <= MAX_ENUMERATED:
        return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)
    signs: Floats = np.random.default_rng([seed, n]).choice((-1.0, 1.0), size=(FLIPS, n))
    return signs


def holm(p_values: Sequence[float] | Floats) -> list[float]:
    """P values corrected by Holm's step-down method (Holm 1979): all may be read at the same level together."""
    raw = np.asarray(p_values, np.float64)
    order = np.argsort(raw, kind="stable")
    corrected = np.empty_like(raw)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(raw), 0, -1) * raw[order]))
    found: list[float] = corrected.tolist()
    return found


def holm_known(p_values: Sequence[float | None]) -> list[float | None]:
    """`holm` over the p values that there are; None stays None."""
    known = [i for i, p in enumerate(p_values) if p is not None]
    corrected = dict(zip(known, holm([p for p in p_values if p is not None]), strict=True))
    return [corrected.get(i) for i in range(len(p_values))]


def p_value(difference: Replicated, pooled: Pooled | None = None) -> float | None:
    """Chance of a mean difference this far from 0 if there is none, two-sided; None for fewer than two replicates.

    Where the differences do not vary at all there is no spread to judge by, and the p of the exact test is taken.
    """
    if len(difference.values) < MIN_REPLICATES:
        return None
    p = precision(difference, pooled).p(difference.mean)
    return sign_flip_test(difference.values).p if p is None else p


def p_values(differences: Floats, pooled: Pooled | None = None) -> list[float]:
    """`p_value` of many differences `(P, N)` at once, from replicates alone, of which there are at least two."""
    n = differences.shape[1]
    own = differences.var(axis=1, ddof=1)
    between = (np.maximum(own, pooled.variance) if pooled else own) / n
    df = max(n - 1.0, pooled.df) if pooled else n - 1.0
    flat = between <= RESOLUTION**2
    se = np.sqrt(np.where(flat, 1.0, between))
    found = 2 * special.stdtr(df, -np.abs(differences.mean(axis=1)) / se)
    for i in np.flatnonzero(flat):
        found[i] = sign_flip_test(differences[i]).p
    return [float(p) for p in found]


def compare(difference: Replicated, pooled: Pooled | None = None) -> Comparison:
    """Everything that is known of a difference, of which there is at least one replicate."""
    n = len(difference.values)
    mean, on_samples = difference.mean, difference.draws is not None
    if n < MIN_REPLICATES:
        return Comparison(mean, n, None, None, None, None, None, on_samples, difference.blocked)
    return Comparison(
        difference=mean,
        replicates=n,
        p=p_value(difference, pooled),
        interval=interval(difference, pooled),
        precision=precision(difference, pooled),
        sign_flip=sign_flip_test(difference.values),
        effect=hedges_dz(difference.values),
        on_samples=on_samples,
        blocked=difference.blocked,
    )
