"""Shares of samples that no whole number of samples gives are named in the report."""

from __future__ import annotations

from dataclasses import replace

from reports.granularity import computed_notes, published_notes
from reports.published import load_published
from reports.results import Results
from tests.conftest import ROOT
from tests.drawn_study import KEYS, make_request

RRSIS_D = load_published("rrsis_d", folder=ROOT / "experiments" / "published")


def with_share(request: Results, value: float) -> Results:
    """The study with `value` as the `p50` of every run."""
    return replace(request, frame=request.frame.assign(metric="p50", value=value))


def test_published_rows_that_a_table_quotes() -> None:
    plan = make_request().plan
    quoting = replace(plan, tables=tuple(replace(t, name="comparison", published="rrsis_d") for t in plan.tables))
    notes = published_notes(quoting, {"rrsis_d": RRSIS_D})
    assert [note.split(", ")[0] for note in notes] == [
        *("published CMPC", "published CMPC", "published BRINet", "published BRINet"),
        *("published CMPC+", "published CMPC+"),
    ]
    assert notes[0] == (
        "published CMPC, val split of RRSIS-D: p70 38.50, p80 25.28 must be k/1740 rounded to two decimals and are not"
    )


def test_rows_that_no_table_quotes_are_not_named() -> None:
    assert published_notes(make_request().plan, {"rrsis_d": RRSIS_D}) == []


def test_computed_shares() -> None:
    request = make_request()
    assert computed_notes(with_share(request, 3 / len(KEYS))) == []
    notes = computed_notes(with_share(request, 0.3))
    assert notes
    assert all(f"p50 30.0000 must be k/{len(KEYS)} and are not" in note for note in notes)
