"""What a study's replicates resolve, per row, as the command prints it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reports.comparisons import pool
from reports.power import smallest_resolvable
from reports.power_view import TableResolution, explain_resolution, render_resolution, resolutions
from reports.results import Results
from reports.row_scores import difference
from reports.table_model import TableModel
from reports.tables import build_table
from tests.judged_study import GAINS, JudgedArtifacts, make_judged
from tests.test_power import THREE_ERRORS, share_found


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


def test_replicates_alone_resolve_what_generated_studies_find() -> None:
    (found,) = resolved(samples=False)
    _, _, frame, _ = make_judged()
    values = frame[frame.metric == "miou"].groupby("run_id")["value"].first()
    table = np.array([[values[f"{label}|{r}"] for r in range(3)] for label in GAINS])
    pooled = np.mean([(a - b).var(ddof=1) for a, b in itertools.combinations(table, 2)])
    assert (found.to, found.family, found.alpha) == ("full", 3, 0.05 / 3)
    assert [row.label for row in found.rows] == list(GAINS)[1:]
    for row, scores in zip(found.rows, table[1:], strict=True):
        seen = scores - table[0]
        std = np.sqrt(max(pooled, seen.var(ddof=1)))
        assert row.difference == pytest.approx(seen.mean())
        assert row.smallest is not None
        assert share(row.smallest / std, replicates=3) == pytest.approx(0.8, abs=THREE_ERRORS)
        assert row.needed is not None
        assert share(seen.mean() / std, replicates=row.needed) >= 0.8 - THREE_ERRORS
        if row.needed > 2:
            assert share(seen.mean() / std, replicates=row.needed - 1) <= 0.8 + THREE_ERRORS


def share(shift: float, *, replicates: int) -> float:
    """Share of generated studies like the judged one that find a difference of `shift` standard deviations."""
    return share_found(shift, rows=len(GAINS), replicates=replicates, alpha=0.05 / 3)


def count_tested(model: TableModel) -> int:
    """Differences to the reference that a table has tested."""
    return sum(c.is_delta and c.p is not None for b in model.blocks for row in b.rows for c in row.cells)


def test_differences_on_all_splits_of_a_table_are_one_family() -> None:
    plan, table, frame, sources = make_judged()
    both = replace(table, splits=("val", "test"))
    # On the second split one row has one replicate, so that its difference is not tested.
    second = frame.assign(split="test")[~frame.run_id.isin(["other decoder|0", "other decoder|1"])]
    results = Results(replace(plan, tables=(both,)), pd.concat([frame, second]), sources)
    (found,) = resolutions(results)
    assert found.family == count_tested(build_table(results, both)) == 5
    assert found.alpha == 0.05 / 5
    assert "level 1 % each (5 % over 5 differences to the reference, on all splits of the table)" in explain_resolution(
        found
    )


@pytest.mark.parametrize("reference", [True, False])
def test_a_table_without_differences_tests_all_pairs_of_rows(*, reference: bool) -> None:
    plan, table, frame, sources = make_judged()
    rows = tuple(replace(row, is_reference=reference and row.is_reference) for row in table.rows)
    shown = replace(table, kind="comparison", rows=rows)
    # A row with one replicate is in no pair.
    kept = frame[~frame.run_id.isin(["other decoder|0", "other decoder|1"])]
    for scores, pairs in ((frame, 6), (kept, 3)):
        (found,) = resolutions(Results(replace(plan, tables=(shown,)), scores, sources))
        assert (found.family, found.alpha) == (pairs, 0.05 / pairs)
        assert f"(5 % over {pairs} pairs of rows of this column)" in explain_resolution(found)
        assert found.to in (["full"] if reference else ["full", "without noise"])


def test_differences_of_a_comparison_are_to_no_row_of_another_table() -> None:
    plan, table, frame, sources = make_judged()
    others = replace(table, name="methods", kind="comparison", rows=table.rows[2:])
    _, found = resolutions(Results(replace(plan, tables=(table, others)), frame, sources))
    assert (found.to, [row.label for row in found.rows]) == ("without fusion", ["other decoder"])
    assert "(5 % over 1 pair of rows of this column)" in explain_resolution(found)


def test_rows_without_scores_neither_test_nor_pool() -> None:
    plan, table, frame, sources = make_judged()
    kept = frame[frame.run_id.str.startswith(("full", "without fusion"))]
    results = Results(plan, kept, replace(sources, artifacts=JudgedArtifacts({})))
    (found,) = resolutions(results)
    assert found.family == count_tested(build_table(results, table)) == 1
    assert "(5 % over 1 difference to the reference" in explain_resolution(found)
    values = kept[kept.metric == "miou"].groupby("run_id")["value"].first()
    seen = np.array([values[f"without fusion|{r}"] - values[f"full|{r}"] for r in range(3)])
    assert {row.label: row.smallest for row in found.rows} == {
        "without noise": None,
        "without fusion": pytest.approx(smallest_resolvable(replicates=3, std=seen.std(ddof=1))),
        "other decoder": None,
    }


def test_where_replicates_are_missing_the_pool_knows_less() -> None:
    plan, table, frame, sources = make_judged()
    kept = frame[frame.run_id != "other decoder|2"]
    results = Results(plan, kept, replace(sources, artifacts=JudgedArtifacts({})))
    (found,) = resolutions(results)
    scores = [results.scores.of(row, split="val", metric_name="miou") for row in table.rows]
    pooled, seen = pool(scores), difference(scores[1], scores[0])
    assert pooled is not None
    assert seen is not None
    assert pooled.df == 5
    std = max(pooled.variance, seen.values.var(ddof=1)) ** 0.5
    expected = smallest_resolvable(replicates=3, std=std, contrasts=2.5, alpha=0.05 / 3)
    assert found.rows[0].smallest == pytest.approx(expected)


def test_a_test_set_of_finite_size_limits_what_replicates_resolve() -> None:
    (found,) = resolved()
    assert all(row.on_samples for row in found.rows)
    assert "t test over replicates and test samples;" in explain_resolution(found)
    assert "t test over replicates;" in explain_resolution(resolved(samples=False)[0])
    (mixed,) = resolved(lost=["without fusion"])
    assert "where both rows left the same ones, test samples;" in explain_resolution(mixed)
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
    assert explain_resolution(found) == "nothing is tested: that needs two rows with two common replicates"


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
