"""Times all intervals and tests of 100 variants x 5 replicates x 3,481 samples, and measures which intervals hold.

Run `python -m benchmarks.statistics`. Data are generated. The time includes resampling, the interval of every score,
and every pairwise comparison with its correction, for the seven metrics of referring segmentation. The second part
draws studies whose truth is known and counts how often intervals hold it: this is why tables print the t interval. The
third counts wrong claims and found differences in columns of a table, with and without a pooled spread; the fourth
wrong claims on the effects of a factorial design whose rows like other samples, with and without the samples.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from reports.comparisons import judge, pool, pool_of_deltas, standing
from reports.factorial import Factorial, Setting
from reports.intervals import (
    Interval,
    Replicated,
    bootstrap_interval,
    interval,
    replicate_influence,
    replicated,
    unit_influence,
)
from reports.row_scores import RowScore, difference
from reports.sample_statistics import REFERRING
from reports.significance import holm

VARIANTS, REPLICATES, SAMPLES = 100, 5, 3481
TARGET_S = 60.0
STUDIES, COLUMNS, DESIGNS = 1000, 4000, 400
NOISE = {"replicates": (1.0, 0.1), "mostly replicates": (1.0, 3.0), "both": (0.1, 1.0), "samples": (0.0, 1.0)}
"""Standard deviations between replicates and between samples."""
REFERENCE_SPREADS = (1.0, 2.0, 3.0, 10.0)


def drawn_variant(rng: np.random.Generator, hard: np.ndarray, gain: float) -> np.ndarray:
    """Components `(N, U, C)` of a variant: IoUs that depend on sample, replicate and variant."""
    logits = hard + gain + rng.normal(0, 0.03, (REPLICATES, 1)) + rng.normal(0, 0.7, (REPLICATES, SAMPLES))
    union = np.round(np.exp(9 + hard))[None].repeat(REPLICATES, axis=0)
    intersection = np.round(union / (1 + np.exp(-logits)))
    iou = intersection / union
    hits = [iou >= threshold for threshold in (0.5, 0.6, 0.7, 0.8, 0.9)]
    return np.stack([np.ones_like(union), intersection, union, iou, *hits], axis=-1)


def time_statistics() -> float:
    """Seconds for all intervals and tests."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0.6, 1.0, SAMPLES)
    data = [drawn_variant(rng, hard, 0.2 * (i % 10)) for i in range(VARIANTS)]
    start, cpu = time.perf_counter(), time.process_time()
    told = 0
    for score in REFERRING.values():
        found = [RowScore(tuple(range(REPLICATES)), replicated(part, score), "all") for part in data]
        held = [interval(row.found) for row in found]
        best = standing(found, higher_is_better=True).best
        deltas = [difference(row, found[0]) for row in found[1:]]
        pooled = pool_of_deltas(pool(found), deltas)
        judged = judge([(delta, pooled) for delta in deltas])
        told += sum(j is not None and j.differs for j in judged)
        assert all(h is not None for h in held)
        assert best
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    pairs = VARIANTS * (VARIANTS - 1) // 2
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{VARIANTS} variants x {REPLICATES} replicates x {SAMPLES} samples, {len(REFERRING)} metrics:")
    print(
        f"  {len(REFERRING) * VARIANTS} intervals, {len(REFERRING) * pairs} pairs, {told} told from the first variant"
    )
    print(f"  {seconds:.1f} s, {cpu:.1f} s of CPU (target {TARGET_S:.0f} s), at most {memory:.2f} GiB, data included")
    return seconds


def coverage(replicates: int, *, between: float, shared: float) -> dict[str, float]:
    """Share of 95 % intervals that hold the truth, by method, for differences with such standard deviations."""
    rng = np.random.default_rng(1)
    hits: dict[str, list[bool]] = {}
    for _ in range(STUDIES):
        units = 100
        noise = rng.normal(0, shared, (replicates, units))
        values = rng.normal(0, between, (replicates, 1)) + rng.normal(0, shared, (1, units)) + noise
        parts = np.stack([values, np.ones_like(values)], axis=-1)
        found = replicated(parts, mean_of_samples, draws=400)
        for name, held in _intervals(found, parts):
            hits.setdefault(name, []).append(held is not None and held.low <= 0 <= held.high)
    return {name: float(np.mean(h)) for name, h in hits.items()}


def mean_of_samples(sums: np.ndarray) -> np.ndarray:
    """Mean of a component over samples."""
    mean: np.ndarray = sums[..., 0] / sums[..., 1]
    return mean


def _intervals(found: Replicated, parts: np.ndarray) -> Iterator[tuple[str, Interval | None]]:
    influences = [replicate_influence(found), unit_influence(parts, mean_of_samples)]
    yield "t, replicates and samples", interval(found)
    yield "t, replicates alone", interval(Replicated(found.values))
    yield "percentile", bootstrap_interval(found, method="percentile")
    yield "BCa", bootstrap_interval(found, method="bca", influences=influences)


class Claims(NamedTuple):
    """What tests of generated columns say, as shares."""

    wrong: float
    """Columns with a wrong claim among all pairs."""
    found: float
    """Rows that differ from the first and are found, all pairs being the family."""


def claims(spreads: Sequence[float], replicates: int, *, loss: float = 0.0) -> dict[str, Claims]:
    """By the variance used: own, or the larger of own and pooled.

    Rows vary by `spreads` between replicates, all but the first are worse by `loss`; nothing else varies.
    """
    rng = np.random.default_rng(0)
    rows = len(spreads)
    means = np.array([0.0, *[-loss] * (rows - 1)])
    scores = means[:, None] + rng.normal(size=(COLUMNS, rows, replicates)) * np.array(spreads)[:, None]
    pairs = np.array(list(itertools.combinations(range(rows), 2)))
    differences = scores[:, pairs[:, 0]] - scores[:, pairs[:, 1]]
    own = differences.var(axis=2, ddof=1)
    pooled = np.maximum(own, own.mean(axis=1, keepdims=True))
    found = {}
    for name, variance, df in (("own", own, replicates - 1), ("pooled", pooled, (rows - 1) * (replicates - 1))):
        t = np.abs(differences.mean(axis=2)) / np.sqrt(variance / replicates)
        told = np.array([holm(p) for p in 2 * stats.t.sf(t, df)]) < 0.05
        equal, of_first = means[pairs[:, 0]] == means[pairs[:, 1]], pairs[:, 0] == 0
        found[name] = Claims(float(told[:, equal].any(axis=1).mean()), float(told[:, of_first].mean()))
    return found


def wrong_deltas(spread: float, rows: int, replicates: int) -> float:
    """Share of tables with a wrong claim among the differences to a reference that varies by `spread`, others by 1."""
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(COLUMNS // 2):
        scores = rng.normal(size=(rows, replicates)) * np.array([spread, *[1.0] * (rows - 1)])[:, None]
        found = [RowScore(tuple(range(replicates)), Replicated(values)) for values in scores]
        deltas = [difference(row, found[0]) for row in found[1:]]
        pooled = pool_of_deltas(pool(found), deltas)
        told += any(j is not None and j.differs for j in judge([(delta, pooled) for delta in deltas]))
    return told / (COLUMNS // 2)


def print_claims() -> None:
    """What pooling the spread costs and gains."""
    print(f"wrong claims and power in {COLUMNS} generated columns, own variance and the larger of own and pooled:")
    for rows, replicates in ((3, 3), (5, 2), (5, 3), (5, 5), (10, 3), (10, 5)):
        equal, worse = claims([1.0] * rows, replicates), claims([1.0] * rows, replicates, loss=5.0)
        wild = claims([10.0, *[1.0] * (rows - 1)], replicates)["pooled"].wrong
        half = claims([*[3.0] * (rows // 2), *[1.0] * (rows - rows // 2)], replicates)["pooled"].wrong
        said = [f"{name} {100 * equal[name].wrong:.1f} %, {100 * worse[name].found:.0f} %" for name in equal]
        print(
            f"  {rows} rows, n = {replicates}: {'; '.join(said)}; wrong with one row x 10: {100 * wild:.1f} %, ", end=""
        )
        print(f"half of the rows x 3: {100 * half:.1f} %")
        delta = [wrong_deltas(spread, rows, replicates) for spread in REFERENCE_SPREADS]
        print(f"    wrong among differences to a reference that varies x {REFERENCE_SPREADS}: ", end="")
        print(", ".join(f"{100 * share:.1f} %" for share in delta))


def factorial_claims(factors: dict[str, tuple[int, ...]], *, replicates: int = 3) -> dict[str, tuple[float, float]]:
    """Share of generated effects that are 0 and have p < 0.05, by kind: of replicates and samples, of replicates alone.

    Rows fare differently on 60 samples, and alike on all of them.
    """
    rng = np.random.default_rng(2)
    settings, units = list(itertools.product(*factors.values())), 60
    told: dict[str, list[tuple[bool, bool]]] = {}
    for _ in range(DESIGNS):
        both: dict[Setting, Replicated] = {}
        for setting in settings:
            values = 0.1 * rng.normal(size=(1, units)) + 0.1 * rng.normal(size=(replicates, units))
            parts = np.stack([values + 0.005 * rng.normal(size=(replicates, 1)), np.ones_like(values)], axis=-1)
            both[setting] = replicated(parts, mean_of_samples, draws=400)
        alone = {setting: Replicated(found.values) for setting, found in both.items()}
        designs = Factorial(factors, both), Factorial(factors, alone)
        for kind, ps in (
            ("main effects", [[e.p for e in design.main_effects()] for design in designs]),
            ("interactions", [[e.p for e in design.interactions()] for design in designs]),
            ("F tests", [[d.interaction_p(p) for p in itertools.combinations(factors, 2)] for d in designs]),
        ):
            pairs = zip(*ps, strict=True)
            told.setdefault(kind, []).extend((bool(a and a < 0.05), bool(b and b < 0.05)) for a, b in pairs)
    return {kind: tuple(np.mean(found, axis=0)) for kind, found in told.items()}


def main() -> None:
    """Print time, coverage and claims."""
    seconds = time_statistics()
    print(f"target {'reached' if seconds < TARGET_S else 'MISSED'}")
    print(f"coverage of 95 % intervals in {STUDIES} generated studies of 100 samples:")
    for what, (between, shared) in NOISE.items():
        for replicates in (2, 3, 5, 10):
            found = coverage(replicates, between=between, shared=shared)
            line = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.items())
            print(f"  noise of {what}, n = {replicates}: {line}")
    print_claims()
    print(f"wrong claims (5 % are wanted) on effects in {DESIGNS} generated 2 x 2 x 3 designs of three replicates:")
    for kind, (both, alone) in factorial_claims({"a": (0, 1), "b": (0, 1), "c": (0, 1, 2)}).items():
        print(f"  {kind}: {100 * both:.1f} % by replicates and samples, {100 * alone:.1f} % by replicates alone")


if __name__ == "__main__":
    main()
