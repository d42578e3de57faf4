"""Ours against a published figure: reproduced, within replicate noise, not reproduced, or not to be compared.

A published figure has no spread; it is taken as a number. *Reproduced* is a claim that must be shown: two one-sided t
tests (Schuirmann 1987) say that our mean is within a stated margin of it. *Within replicate noise* says only that one
more training of ours could have given it. What is neither is *not reproduced*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from reports.intervals import MIN_REPLICATES, RESOLUTION
from reports.significance import ALPHA

MARGIN = 0.01
"""Differences below this count as none: one point of a score in per cent."""


class Verdict(StrEnum):
    """What our replicates say of a published figure."""

    REPRODUCED = "reproduced"
    WITHIN_NOISE = "within replicate noise"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"
    """Obtained under another protocol."""
    UNDECIDED = "undecided"
    """Fewer than two replicates."""


@dataclass(frozen=True)
class Equivalence:
    """A verdict and what it rests on."""

    verdict: Verdict
    difference: float | None
    """Mean of ours less the published figure, stored unit; None without a replicate."""
    p: float | None = None
    """Of the equivalence test: the larger of the two one-sided ones; None where it was not made."""


def equivalence(
    ours: Sequence[float], published: float, *, margin: float = MARGIN, alpha: float = ALPHA, comparable: bool = True
) -> Equivalence:
    """Judge a published figure by our replicates.

    Args:
        ours: Score of each replicate, stored unit.
        published: The figure in the same unit.
        margin: Largest difference that counts as none, above 0.
        alpha: Level of each one-sided test, and of the interval in which one more replicate would lie.
        comparable: Whether both were obtained under the same protocol.
    """
    values = np.asarray(ours, np.float64)
    n = len(values)
    difference = float(values.mean()) - published if n else None
    if not comparable:
        return Equivalence(Verdict.NOT_COMPARABLE, difference)
    if difference is None or n < MIN_REPLICATES:
        return Equivalence(Verdict.UNDECIDED, difference)
    std = float(values.std(ddof=1))
    if std <= RESOLUTION:
        verdict = Verdict.REPRODUCED if abs(difference) < margin else Verdict.NOT_REPRODUCED
        return Equivalence(verdict, difference)
    se = std / math.sqrt(n)
    p = float(stats.t.sf((margin - abs(difference)) / se, n - 1))
    if p < alpha:
        return Equivalence(Verdict.REPRODUCED, difference, p)
    reach = float(stats.t.ppf(1 - alpha / 2, n - 1)) * std * math.sqrt(1 + 1 / n)
    verdict = Verdict.WITHIN_NOISE if abs(difference) <= reach else Verdict.NOT_REPRODUCED
    return Equivalence(verdict, difference, p)
