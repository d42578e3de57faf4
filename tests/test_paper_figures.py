"""Numbers of a paper's figures against NumPy, SciPy and enumeration; when they are not drawn; equal bytes twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from reports.artifacts import FigureRequest
from reports.delta_figure import differences, draw_delta
from reports.drawing import Drawing
from reports.figures import FIGURES
from reports.style import fills, points
from reports.tables import build_table
from tests.designed_study import make_designed
from tests.judged_study import make_judged
from tests.report_frame import Change

PARTS: dict[str, Change] = {"full": {}, "w/o noise": {"noise": False}, "w/o fusion": {"fusion": "sum"}}
SCORES = {
    "full": (0.60, 0.62, 0.61),
    "w/o noise": (0.598, 0.623, 0.607),
    "w/o fusion": (0.50, 0.53, 0.515),
}


def recorded(label: str, replicate: int) -> float | None:
    return SCORES[label][replicate]


def drawn(request: FigureRequest, name: str) -> Drawing:
    """The first figure of that name."""
    return FIGURES[name].draw(request, request.plan.tables[0])[0]


def test_delta_shows_the_numbers_of_the_table() -> None:
    plan, table, frame, sources = make_judged()
    request = FigureRequest(plan, frame, sources)
    model = build_table(plan, table, frame, sources=sources)
    cells = {row.label: row.cells[-1] for block in model.blocks for row in block.rows}
    found = differences(request, table)
    assert len(found) == 3
    for line in found:
        cell = cells[line.row.label]
        assert np.mean(line.values) == pytest.approx(cell.value)
        assert line.interval == cell.interval
        assert line.judged is not None
        assert line.judged.p == cell.p
    (drawing,) = draw_delta(request, table)
    assert "Student's t over replicates and test samples" in drawing.caption
    assert "Holm's correction over all differences of the table" in drawing.caption


def test_delta_intervals_and_tests_by_hand() -> None:
    drawing = drawn(make_designed(PARTS, recorded), "delta")
    full, noise, fusion = (np.array(v) for v in SCORES.values())
    pairs = [full - noise, full - fusion, noise - fusion]
    pooled = np.mean([d.var(ddof=1) for d in pairs])
    df = 2 * 2  # (rows - 1) x (replicates - 1)
    raw = []
    for label, d in (("w/o noise", noise - full), ("w/o fusion", fusion - full)):
        se = np.sqrt(max(d.var(ddof=1), pooled) / 3)
        raw.append(2 * stats.t.sf(abs(d.mean()) / se, df))
        lines = drawing.data[drawing.data.variant == label]
        assert lines["delta"].tolist() == pytest.approx(d.tolist())
        reach = stats.t.ppf(0.975, df) * se
        assert lines[["mean", "low", "high"]].iloc[0].tolist() == pytest.approx(
            [d.mean(), d.mean() - reach, d.mean() + reach]
        )
    assert drawing.data.groupby("variant", sort=False)["p"].first().tolist() == pytest.approx(
        [max(raw[0], 2 * raw[1]), 2 * raw[1]]
    )


def test_delta_of_one_replicate_has_no_interval_and_a_missing_one_is_counted() -> None:
    one = drawn(make_designed(PARTS, recorded, replicates=1), "delta")
    assert one.data[["low", "high", "p"]].isna().all(axis=None)
    assert one.caption.endswith("No row has two pairs, so there is no interval and no test.")
    lost = make_designed(PARTS, lambda label, r: None if (label, r) == ("w/o noise", 1) else recorded(label, r))
    drawing = drawn(lost, "delta")
    assert drawing.data[drawing.data.variant == "w/o noise"]["replicate"].tolist() == [0, 2]
    labels = [text.get_text() for text in drawing.figure.axes[0].get_yticklabels()]
    assert labels == ["w/o noise (n=2/3)", "w/o fusion"]


def test_points_and_bars_of_many_variants_differ() -> None:
    assert len(set(points(49))) == 49
    assert len(set(fills(42))) == 42
    for a, b in itertools.pairwise(fills(42)):
        assert a.facecolor != b.facecolor
        assert a.hatch != b.hatch
