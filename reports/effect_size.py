"""Effect sizes of paired differences: how large, measured in their own spread, and how often in one direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from reports.intervals import RESOLUTION


def hedges_dz(differences: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Mean difference over the standard deviation of differences, with Hedges' correction for few of them.

    The correction is gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2)) for m = n - 1 (Hedges 1981). It is 0 for two
    differences, which say nothing of their spread.

    Returns:
        None for fewer than three differences, or where they do not vary.
    """
    values = np.asarray(differences, np.float64)
    m = len(values) - 1
    if m < 2:
        return None
    std = float(values.std(ddof=1))
    if std <= RESOLUTION:
        return None
    correction = np.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    return float(correction * values.mean() / std)


def rank_biserial(differences: Sequence[float] | NDArray[np.float64]) -> float | None:
    """Matched-pairs rank-biserial correlation (Kerby 2014): 1 where every difference is positive, -1 negative.

    It is the share of the rank sum that positive differences have, less the share of negative ones; ties count for
    neither. Of samples: how consistently one variant is better, whatever the metric makes of it.

    Returns:
        None where all differences are 0.
    """
    values = np.asarray(differences, np.float64)
    values = values[np.abs(values) > RESOLUTION]
    if not len(values):
        return None
    ranks = stats.rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())
