"""Mean ranks of variants over blocks, Friedman's test, and Nemenyi's critical difference (Demšar 2006).

A block is what all variants were measured on: a dataset, a split, a class. The tests need complete blocks; a block in
which a variant has no score is left out, and counted, because a rank among fewer is another rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reports.significance import ALPHA

MIN_VARIANTS = 3
MIN_BLOCKS = 2


@dataclass(frozen=True)
class Ranks:
    """Ranks of variants, 1 being the best."""

    mean: tuple[float, ...]
    """One per variant; ties share the mean of their ranks."""
    blocks: int
    """Complete blocks, over which the means are."""
    left_out: int
    """Blocks that lack a score."""
    p: float
    """Of Friedman's test that all variants rank alike."""
    critical_difference: float
    """Two variants whose mean ranks differ by more can be told apart."""


def mean_ranks(
    scores: Sequence[Sequence[float | None]], *, higher_is_better: bool = True, alpha: float = ALPHA
) -> Ranks | None:
    """Rank variants within each block.

    Args:
        scores: A row per block, a score per variant; None where there is none.
        higher_is_better: Direction of the metric.
        alpha: Level of the critical difference.

    Returns:
        None for fewer than three variants or two complete blocks.
    """
    complete = [[float(v) for v in row if v is not None] for row in scores if None not in row]
    if len(complete) < MIN_BLOCKS or len(complete[0]) < MIN_VARIANTS:
        return None
    table = np.array(complete)
    n, k = table.shape
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    all_tied = bool((ranks == ranks[:, :1]).all())
    p = 1.0 if all_tied else float(stats.friedmanchisquare(*table.T).pvalue)
    q = float(stats.studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)
    reach = q * math.sqrt(k * (k + 1) / (6 * n))
    return Ranks(tuple(ranks.mean(axis=0).tolist()), n, len(scores) - n, p, reach)
