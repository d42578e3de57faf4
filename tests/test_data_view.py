"""The one-screen summary of `harness data check`."""

from __future__ import annotations

from harness.data.base import DataReport, DatasetInfo
from harness.data_view import problem_lines

INFO = DatasetInfo(title="RRSIS-D", paper="none", task="referring", expected={"train": 12, "val": 2})


def test_counts_problems_and_notes() -> None:
    report = DataReport(
        counts={"train": 12, "val": 2, "extra": 1},
        problems={"empty masks": [f"s{i}" for i in range(7)], "missing images": ["a"], "size mismatches": []},
        notes=["a note"],
    )
    assert problem_lines(INFO, report) == [
        "RRSIS-D: 15 samples",
        "  train      12  (published: 12)",
        "  val         2  (published: 2)",
        "  extra       1",
        "  empty masks: 7  (s0, s1, s2, s3, s4 and 2 more)",
        "  missing images: 1  (a)",
        "  size mismatches: 0",
        "  note: a note",
    ]


def test_nothing_found() -> None:
    assert problem_lines(INFO, DataReport(counts={"train": 0}, problems={})) == [
        "RRSIS-D: 0 samples",
        "  train       0  (published: 12)",
    ]
