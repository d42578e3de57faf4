"""What a study's replicates resolve, per row, as the command prints it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from reports.power_view import TableResolution, explain_resolution, render_resolution, resolutions
from reports.results import Results
from tests.judged_study import GAINS, JudgedArtifacts, make_judged


def resolved(*, samples: bool = True, reference: bool = True, **options: object) -> list[TableResolution]:
    plan, table, frame, sources = make_judged(**options)  # type: ignore[arg-type]
    if not samples:
        sources = replace(sources, artifacts=JudgedArtifacts({}))
    if not reference:
        rows = tuple(replace(row, is_reference=False) for row in table.rows)
        plan = replace(plan, tables=(replace(table, rows=rows),))
    return resolutions(Results(plan, frame, sources))


def printed(found: TableResolution) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render_resolution(found))
    return capture.get()


def simulated_power(shift: float, *, replicates: int, df: int, alpha: float) -> float:
    """Share of generated studies that find a difference of `shift` standard deviations with a pooled spread."""
    rng = np.random.default_rng(replicates)
    means = rng.normal(shift * np.sqrt(replicates), 1.0, 100_000)
    t = means / np.sqrt(rng.chisquare(df, 100_000) / df)
    return float((np.abs(t) > stats.t.ppf(1 - alpha / 2, df)).mean())


def test_replicates_alone_resolve_what_simulated_studies_find() -> None:
    """Statsmodels' solver is no oracle here: at this level its power is not a number, and it stops too early."""
    (found,) = resolved(samples=False)
    _, _, frame, _ = make_judged()
    values = frame[frame.metric == "miou"].groupby("run_id")["value"].first()
    table = np.array([[values[f"{label}|{r}"] for r in range(3)] for label in GAINS])
    pooled = np.mean([(a - b).var(ddof=1) for a, b in itertools.combinations(table, 2)])
    assert (found.to, found.alpha, [row.label for row in found.rows]) == ("full", 0.05 / 3, list(GAINS)[1:])
    for row, scores in zip(found.rows, table[1:], strict=True):
        seen = scores - table[0]
        std = np.sqrt(max(pooled, seen.var(ddof=1)))
        assert row.difference == pytest.approx(seen.mean())
        assert row.smallest is not None
        power = simulated_power(row.smallest / std, replicates=3, df=6, alpha=0.05 / 3)
        assert power == pytest.approx(0.8, abs=0.006)
        assert row.needed is not None
        shift, n = seen.mean() / std, row.needed
        assert simulated_power(shift, replicates=n, df=3 * (n - 1), alpha=0.05 / 3) >= 0.794
        if n > 2:
            assert simulated_power(shift, replicates=n - 1, df=3 * (n - 2), alpha=0.05 / 3) <= 0.806


def test_a_test_set_of_finite_size_limits_what_replicates_resolve() -> None:
    (found,) = resolved()
    assert all(row.on_samples for row in found.rows)
    assert "t test over replicates and test samples" in explain_resolution(found)
    twin = found.rows[0]
    assert twin.difference is not None
    assert twin.smallest is not None
    assert abs(twin.difference) < twin.smallest
    worse = found.rows[2]
    assert worse.difference is not None
    assert worse.smallest is not None
    assert abs(worse.difference) > worse.smallest


def test_without_a_reference_differences_are_to_the_best_row() -> None:
    (found,) = resolved(reference=False)
    assert found.to in ("full", "without noise")
    assert found.to not in [row.label for row in found.rows]
    assert all(row.difference is not None and row.difference < 0 for row in found.rows)


def test_one_replicate_resolves_nothing() -> None:
    (found,) = resolved(replicates=1)
    assert {(row.replicates, row.smallest, row.needed) for row in found.rows} == {(1, None, None)}
    assert printed(found).count("--") >= 6


def test_the_table_has_a_line_per_row() -> None:
    text = printed(resolved()[0])
    assert "parts: mIoU, validation, difference to “full” (points)" in text
    lines = [line.strip() for line in text.splitlines()]
    shown = [line for line in lines if line.startswith(("without", "other"))]
    assert [line.split("  ")[0] for line in shown] == list(GAINS)[1:]
    assert all(line.split()[2] == "3" for line in shown)


def test_what_has_no_score_has_no_line_of_figures() -> None:
    plan, table, frame, sources = make_judged()
    empty = Results(plan, frame[frame["run_id"] == "never"], sources)
    assert [row.difference for row in resolutions(empty)[0].rows] == [None, None, None]
    rows = tuple(replace(row, is_reference=False) for row in table.rows)
    nobody = replace(plan, tables=(replace(table, rows=rows),))
    assert resolutions(Results(nobody, frame[frame["run_id"] == "never"], sources)) == []
    assert "--" in printed(resolutions(empty)[0])


def test_differences_that_do_not_vary_have_no_power() -> None:
    plan, _, frame, sources = make_judged()
    level = {"full": 0.5, "without noise": 0.6, "without fusion": 0.5, "other decoder": 0.1}
    constant = frame.assign(value=[level[run.partition("|")[0]] for run in frame["run_id"]])
    (found,) = resolutions(Results(plan, constant, sources))
    assert {(row.smallest, row.needed) for row in found.rows} == {(None, None)}
