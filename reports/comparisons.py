"""Which rows of a column can be told from its best, and which differences from the reference.

Two rows can be told apart if the paired test of `reports.significance` says so after Holm's correction. In a column all
pairs are one family, because its best row is chosen by looking; differences to the reference are chosen beforehand, and
those that a table shows are one family.

Two or three replicates say little of how much a difference varies, and now and then agree by chance. The variance of a
difference is therefore the larger of its own and the one pooled over all pairs of rows, with the degrees of freedom of
the latter, those of rows x replicates without interaction; for differences to one row the pool is at least their mean
variance (`pool_of_deltas`). `docs/statistics.md` has what that costs and gains.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.records import Row, Table
from reports.intervals import MIN_REPLICATES, Floats, Pooled, Replicated
from reports.row_scores import RowScore, RowScores, difference
from reports.significance import ALPHA, Comparison, compare, holm, holm_known, p_value, p_values

Places = NDArray[np.int64]
"""Positions of rows."""


class Standing(NamedTuple):
    """What the rows of a column have to do with its best."""

    best: frozenset[int]
    """Positions of the rows that cannot be told from the best one; empty where no row can."""
    alike: bool
    """Whether rows were compared and none could be told from the best."""
    untested: frozenset[int] = frozenset()
    """Positions of rows with a better mean than the best one which were not compared with it."""
    worse: frozenset[int] = frozenset()
    """Positions of rows with a better mean which are worse than the best one on the replicates that both have."""


class _Pairs(NamedTuple):
    """Every two rows that were compared, the first less the second."""

    first: Places
    second: Places
    difference: Floats
    p: Floats
    """Not corrected."""


class Shown(NamedTuple):
    """Whose difference to the reference, and in which column."""

    variant: str
    split: str
    metric: str


@dataclass(frozen=True)
class Judged:
    """A difference to the reference and its corrected p."""

    comparison: Comparison
    p: float | None
    """Corrected by Holm; None where it was not tested."""

    @property
    def differs(self) -> bool:
        """Whether it can be told from 0."""
        return self.p is not None and self.p < ALPHA


def pool(scores: Sequence[RowScore | None]) -> Pooled | None:
    """Variance of paired differences over all pairs of rows; None where no two rows share two replicates.

    Of complete rows it is twice the residual mean square of rows x replicates.
    """
    known = [s for s in scores if s is not None and len(s.replicates) >= MIN_REPLICATES]
    ranked = [RowScore(s.replicates, Replicated(s.found.values)) for s in known]
    if len({s.replicates for s in ranked}) == 1 and len(ranked) > 1:
        variance = float(np.average(_pair_differences(ranked).var(axis=1, ddof=1)))
    else:
        found = [difference(a, b) for a, b in itertools.combinations(ranked, 2)]
        values = [d.values for d in found if d is not None and len(d.values) >= MIN_REPLICATES]
        if not values:
            return None
        weights = [len(v) - 1 for v in values]
        variance = float(np.average([v.var(ddof=1) for v in values], weights=weights))
    replicates = {place for s in ranked for place in s.replicates}
    df = sum(len(s.replicates) for s in ranked) - len(ranked) - len(replicates) + 1
    return Pooled(variance, max(1.0, df))


def pool_of_deltas(pooled: Pooled | None, deltas: Iterable[Replicated | None]) -> Pooled | None:
    """The pool for differences to one row, whose own spread is in all of them.

    By what they vary more than pairs of rows do on average, that row varies more than others: this part rests on its
    few replicates alone, and the degrees of freedom are Satterthwaite's of both parts.
    """
    values = [d.values for d in deltas if d is not None and len(d.values) >= MIN_REPLICATES]
    if pooled is None or not values:
        return pooled
    weights = [len(v) - 1 for v in values]
    excess = float(np.average([v.var(ddof=1) for v in values], weights=weights)) - pooled.variance
    if excess <= 0:
        return pooled
    variance = pooled.variance + excess
    df = variance**2 / (pooled.variance**2 / pooled.df + excess**2 / max(weights))
    return Pooled(variance, max(1.0, min(df, pooled.df)))


def _pair_differences(scores: Sequence[RowScore]) -> Floats:
    """Differences of every two rows `(P, N)`, in the order of `combinations`; all hold the same replicates."""
    values = np.stack([s.found.values for s in scores])
    first, second = np.triu_indices(len(values), k=1)
    found: Floats = values[first] - values[second]
    return found


def _tested_pairs(ranked: Mapping[int, RowScore], pooled: Pooled | None) -> _Pairs:
    """Every two rows that share two replicates."""
    places, scores = np.array(list(ranked), dtype=np.int64), list(ranked.values())
    first, second = (places[side] for side in np.triu_indices(len(places), k=1))
    if len({s.replicates for s in scores}) == 1 and len(scores) > 1 and all(s.found.draws is None for s in scores):
        differences = _pair_differences(scores)
        return _Pairs(first, second, differences.mean(axis=1), np.array(p_values(differences, pooled)))
    tested: list[tuple[int, float, float]] = []
    for place, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        between = difference(ranked[i], ranked[j])  # thousands of draws, which are not kept
        p = p_value(between, pooled) if between is not None else None
        if between is not None and p is not None:
            tested.append((place, between.mean, p))
    found = np.array(tested, np.float64).reshape(-1, 3)
    kept = found[:, 0].astype(np.int64)
    return _Pairs(first[kept], second[kept], found[:, 1], found[:, 2])


def standing(scores: Sequence[RowScore | None], *, higher_is_better: bool) -> Standing:
    """Compare every two rows of a column that have at least two replicates each.

    The best row has the best mean of those that no row is better than on the replicates that both have: where rows lack
    replicates, a mean over easy ones is no merit. A row that shares fewer than two replicates with the best one was not
    compared with it and does not stand beside it. Rows of the same trials are one row.
    """
    sign = 1 if higher_is_better else -1
    means = {i: sign * s.found.mean for i, s in enumerate(scores) if s is not None}
    ranked = {i: s for i, s in enumerate(scores) if s is not None and len(s.replicates) >= MIN_REPLICATES}
    first: dict[object, int] = {}
    same = {i: first.setdefault(s.trial_ids or i, i) for i, s in ranked.items()}
    distinct = {i: s for i, s in ranked.items() if same[i] == i}
    pairs = _tested_pairs(distinct, pool(list(distinct.values())))
    told = np.array(holm(pairs.p)) < ALPHA
    beaten = set(np.where(sign * pairs.difference > 0, pairs.second, pairs.first)[told].tolist())
    if not len(pairs.p) or beaten == set(distinct):
        return Standing(frozenset(), alike=False)
    best = max((i for i in distinct if i not in beaten), key=lambda i: means[i])
    is_of_best = (pairs.first == best) | (pairs.second == best)
    others = np.where(pairs.first == best, pairs.second, pairs.first)
    compared, apart = (set(others[chosen].tolist()) for chosen in (is_of_best, is_of_best & told))
    bold = {best, *(compared - apart)} if apart else set()
    higher = {i: same.get(i, i) for i in means if means[i] > means[best]}
    return Standing(
        best=frozenset(i for i in ranked if same[i] in bold),
        alike=bool(compared) and not apart,
        untested=frozenset(i for i, of in higher.items() if of not in compared),
        worse=frozenset(i for i, of in higher.items() if of in apart),
    )


def judge(differences: Sequence[tuple[Replicated | None, Pooled | None]]) -> list[Judged | None]:
    """Test differences to the reference as one family, each with its column's pool; None where there is none."""
    compared = [compare(d, pooled) if d is not None else None for d, pooled in differences]
    corrected = holm_known([c.p if c is not None else None for c in compared])
    return [Judged(c, p) if c is not None else None for c, p in zip(compared, corrected, strict=True)]


def judge_columns(
    table: Table, reference: Row, scores: RowScores, columns: Iterable[tuple[str, str]]
) -> dict[Shown, Judged]:
    """Every difference to the reference in some columns of a table, (split, metric), tested as one family.

    Those that have no replicate in common with the reference are left out.
    """
    rows = {row.trial_ids: row for row in (*table.rows, reference)}.values()
    places: list[Shown] = []
    differences: list[tuple[Replicated | None, Pooled | None]] = []
    for split, name in columns:
        found = {row.trial_ids: scores.of(row, split=split, metric_name=name) for row in rows}
        others = [row for row in table.rows if row.trial_ids != reference.trial_ids]
        deltas = [difference(found[row.trial_ids], found[reference.trial_ids]) for row in others]
        pooled = pool_of_deltas(pool(list(found.values())), deltas)
        places += [Shown(row.variant, split, name) for row in others]
        differences += [(delta, pooled) for delta in deltas]
    return {place: judged for place, judged in zip(places, judge(differences), strict=True) if judged is not None}


def judge_deltas(table: Table, reference: Row, scores: RowScores, *, metric_name: str) -> dict[Shown, Judged]:
    """The differences of a table's column of differences, on all its splits."""
    return judge_columns(table, reference, scores, [(split, metric_name) for split in table.splits])
