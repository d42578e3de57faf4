"""Statistics over replicates: the replicate is the unit, so a spread says what training again may change."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What a sample of replicates says about a score."""

    mean: float
    std: float | None
    """Sample standard deviation (n - 1 in the denominator); None for fewer than two replicates."""
    n: int
    """Replicates that have a score, at least 1."""


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, standard deviation and count of `values`; None when there is none, so that nothing becomes 0.0.

    Raises:
        ValueError: A NaN or infinite value.
    """
    if not values:
        return None
    mean = statistics.fmean(values)
    if mean - mean != 0.0:
        raise ValueError(f"scores to summarize must be finite, got {list(values)}")
    return Summary(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))


def paired_differences(ours: Sequence[float | None], reference: Sequence[float | None]) -> list[float]:
    """`ours[i] - reference[i]` for every replicate i that has both scores.

    Args:
        ours: Score per replicate, None where there is none.
        reference: The reference's score per replicate, in the same order; may be of another length.
    """
    pairs = zip(ours, reference, strict=False)
    return [a - b for a, b in pairs if a is not None and b is not None]
