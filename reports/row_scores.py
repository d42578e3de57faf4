"""Scores of a row by replicate, on resampled test samples too where every run has left per-sample results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from harness.records import Row
from reports.evidence import Evidence
from reports.intervals import Floats, Replicated, Score, resample
from reports.sample_statistics import Additive, additive
from reports.sample_tables import SampleTables

MIN_UNITS = 10
"""Fewer samples, tiles or blocks say too little of all others to be drawn from."""

AGREEMENT = 1e-6
"""Largest difference between a recorded score and the same score from per-sample results that is only rounding."""


@dataclass(frozen=True)
class RowScore:
    """A metric of a row on a split."""

    replicates: tuple[int, ...]
    """Positions in the row's trials of the replicates that have a score."""
    found: Replicated
    sample_set: str = ""
    """Digest of the units' names; empty without per-sample results."""
    trial_ids: tuple[str, ...] = ()
    """Of the row; rows of the same trials have the same score, not equal ones."""


class _Resampled(NamedTuple):
    """What resampling made of a row's runs on a split."""

    measured: Floats
    """Sums `(N, C)`."""
    drawn: Floats | None
    """Sums `(D, N, C)`; None for fewer than `MIN_UNITS` units."""
    units: int
    sample_set: str
    scores: Mapping[str, Score]
    of_class: Mapping[str, tuple[Score, ...]]
    blocked: bool

    def score(self, metric_name: str, values: Floats) -> Score | None:
        """The only score of that name that gives the recorded values of the replicates; None for none, or several.

        Which class of a matrix a recorded class is, its values tell: per-sample results do not name classes.
        """
        named = self.scores.get(metric_name)
        known = self.of_class.get(metric_name.partition(".")[0], ()) if named is None else (named,)
        found = [score for score in known if np.abs(score(self.measured) - values).max() <= AGREEMENT]
        return found[0] if len(found) == 1 else None


class RowScores:
    """Scores of rows, each read and resampled once.

    Args:
        evidence: Trial id -> what is recorded of it.
        samples: Per-sample results; None to go by replicates alone.
        within: Which of a run's counted samples the scores are of; all by default.
    """

    def __init__(
        self,
        evidence: Mapping[str, Evidence],
        samples: SampleTables | None = None,
        *,
        within: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> None:
        self._evidence = evidence
        self._tables = samples
        self._within = within
        self._resampled: dict[tuple[tuple[str, ...], str], _Resampled | None] = {}

    def of(self, row: Row, *, split: str, metric_name: str) -> RowScore | None:
        """A metric of a row; None where no replicate has it.

        Test samples take part where every scored replicate left the same ones, at least `MIN_UNITS` units of them, and
        they give the recorded score.
        """
        recorded = {
            place: value
            for place, trial in enumerate(row.trial_ids)
            if trial in self._evidence and (value := self._evidence[trial].scores.get((split, metric_name))) is not None
        }
        if not recorded:
            return None
        places, values = tuple(recorded), np.array(list(recorded.values()))
        samples = self._samples(tuple(row.trial_ids[place] for place in places), split)
        score = samples.score(metric_name, values) if samples else None
        blocked = samples is not None and samples.blocked
        if samples is None or score is None or samples.drawn is None:
            return RowScore(places, Replicated(values, blocked=blocked), trial_ids=row.trial_ids)
        found = Replicated(values, score(samples.drawn), samples.units, blocked)
        return RowScore(places, found, samples.sample_set, row.trial_ids)

    def _samples(self, trial_ids: tuple[str, ...], split: str) -> _Resampled | None:
        if (trial_ids, split) not in self._resampled:
            self._resampled[trial_ids, split] = self._resample(trial_ids, split)
        return self._resampled[trial_ids, split]

    def _resample(self, trial_ids: tuple[str, ...], split: str) -> _Resampled | None:
        parts: list[Additive] = []
        for trial_id in trial_ids:
            run = self._evidence[trial_id]
            table = self._tables.counted(run, split) if self._tables else None
            if self._tables is None or table is None:
                return None
            if self._within is not None:
                table = self._within(table)
            part = additive(table, protocol=self._tables.protocol(run))
            if part is None or (parts and part.units != parts[0].units):
                return None
            parts.append(part)
        components = np.stack([part.components for part in parts])
        first, units = parts[0], components.shape[1]
        named = hashlib.sha256("\n".join(first.units).encode()).hexdigest()
        drawn = resample(components) if units >= MIN_UNITS else None
        return _Resampled(components.sum(axis=1), drawn, units, named, first.scores, first.of_class, first.blocked)


def difference(ours: RowScore | None, theirs: RowScore | None) -> Replicated | None:
    """Ours less theirs on the replicates that both have; None where there is none.

    Test samples take part where both sides were measured on the same ones.
    """
    if ours is None or theirs is None:
        return None
    shared = [place for place in ours.replicates if place in theirs.replicates]
    if not shared:
        return None
    a, b = (on_replicates(side, shared).found for side in (ours, theirs))
    if ours.sample_set == theirs.sample_set:
        return a.minus(b)
    return without_samples(a).minus(b)


def without_samples(found: Replicated) -> Replicated:
    """A score by its replicates alone."""
    return replace(found, draws=None, units=0)


def on_replicates(score: RowScore, places: Sequence[int]) -> RowScore:
    """A score on some of its replicates only."""
    if len(places) == len(score.replicates):
        return score
    found = score.found.take([score.replicates.index(place) for place in places])
    return replace(score, replicates=tuple(places), found=found)
