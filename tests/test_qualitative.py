"""The qualitative figure: a rule chooses, hits and errors can be told apart, the same samples for every variant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.error_picture import HIT, MISS, error_picture
from reports.artifacts import NotDrawn
from reports.qualitative import (
    GAIN,
    LOSS,
    MEDIAN,
    choose_samples,
    draw_qualitative,
    mask_iou,
    sample_gains,
)
from tests.drawn_study import KEYS, SENTENCES, make_request, predicted, truth


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ({}, []),
        ({"a": 0.1}, [(GAIN, "a")]),
        ({"a": 0.1, "b": -0.2}, [(GAIN, "a"), (LOSS, "b")]),
        ({"a": 0.3, "b": 0.1, "c": -0.2}, [(GAIN, "a"), (MEDIAN, "b"), (LOSS, "c")]),
        ({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}, [(GAIN, "a"), (MEDIAN, "c"), (LOSS, "d")]),
        ({"b": 0.0, "a": 0.0, "c": 0.0}, [(GAIN, "c"), (MEDIAN, "b"), (LOSS, "a")]),
    ],
)
def test_the_rule(gains: dict[str, float], expected: list[tuple[str, str]]) -> None:
    assert [(c.rule, c.key) for c in choose_samples(gains)] == expected
    assert all(c.gain == gains[c.key] for c in choose_samples(gains))


@given(st.dictionaries(st.text(max_size=3), st.floats(-1, 1), min_size=3))
def test_the_rule_ignores_order_and_bounds_every_sample(gains: dict[str, float]) -> None:
    found = choose_samples(gains)
    assert found == choose_samples(dict(reversed(gains.items())))
    assert (found[0].gain, found[-1].gain) == (max(gains.values()), min(gains.values()))
    below, above = (sum(g < found[1].gain for g in gains.values()), sum(g > found[1].gain for g in gains.values()))
    assert max(below, above) <= len(gains) // 2


def test_gain_is_reference_minus_mean_of_the_others_over_replicates() -> None:
    request = make_request()
    table = request.plan.tables[0]
    reference = request.plan.reference()
    assert reference is not None
    gains = sample_gains(request, table, reference)

    def iou(key: str, label: str, replicate: int) -> float:
        return mask_iou(truth(key), predicted(key, label, replicate))

    for key in KEYS:
        ours = (iou(key, "MAFN", 0) + iou(key, "MAFN", 1)) / 2
        default = (iou(key, "default", 0) + iou(key, "default", 1)) / 2
        # the second replicate of `+ noise` failed
        assert gains[key] == pytest.approx(ours - (default + iou(key, "+ noise", 0)) / 2)
    assert min(gains, key=lambda key: gains[key]) == "s3"


def test_figure_shows_the_same_samples_of_every_variant() -> None:
    request = make_request()
    (drawing,) = draw_qualitative(request, request.plan.tables[0])
    shown = drawing.data.groupby("key", sort=False)["variant"].agg(list)
    assert list(shown) == [["default", "+ noise", "MAFN"]] * 3
    assert list(drawing.data["rule"].unique()) == [GAIN, MEDIAN, LOSS]
    assert set(drawing.data["replicate"]) == {0}
    for line in drawing.data.itertuples():
        assert line.iou == pytest.approx(mask_iou(truth(line.key), predicted(line.key, line.variant, 0)))
        assert line.sentence == SENTENCES[KEYS.index(line.key)]
    assert "largest, median and smallest gain" in drawing.caption
    assert set(drawing.run_ids) == {"default|0", "+ noise|0", "MAFN|0"}


def test_the_caption_names_the_reference_as_its_table_does() -> None:
    request = make_request()
    (first,) = request.plan.tables
    renamed = tuple(replace(row, label="the whole") if row.is_reference else row for row in first.rows)
    second = replace(first, name="again", rows=renamed)
    both = replace(request, plan=replace(request.plan, tables=(first, second)))
    (drawing,) = draw_qualitative(both, second)
    assert "IoU of “the whole” minus the mean IoU of the other rows" in drawing.caption


def test_hits_false_alarms_and_misses_differ_in_lightness() -> None:
    t, p = np.zeros((2, 8, 8), bool)
    t[:, :4] = True
    p[2:] = True
    picture = error_picture(np.full((8, 8, 3), 128, np.uint8), t, p)
    assert picture.shape == (240, 240, 3)
    light = picture.mean(2)
    hit, miss, alarm, rest = light[60:, :120], light[:60, :120], light[60:, 120:], light[:60, 120:]
    assert miss.max() < rest.min()
    assert rest.max() < hit.min()
    assert len(np.unique(alarm)) == 2
    assert hit.std() == miss.std() == rest.std() == 0
    assert tuple(picture[0, 0]) == MISS
    assert np.abs(picture[-1, 0].astype(int) - HIT).max() < 20


def test_large_masks_are_not_enlarged() -> None:
    mask = np.zeros((480, 480), bool)
    assert error_picture(np.zeros((480, 480, 3), np.uint8), mask, mask).shape == (480, 480, 3)


def test_iou_of_two_empty_masks_is_zero() -> None:
    assert mask_iou(truth("s0"), truth("s0")) == 0.0


def test_why_it_is_not_drawn() -> None:
    request = make_request(absent=True)
    with pytest.raises(NotDrawn, match="the images are not at hand: the dataset must be at"):
        draw_qualitative(request, request.plan.tables[0])
    request = make_request(missing=["MAFN"])
    with pytest.raises(NotDrawn, match="per-sample results of the reference and of another row"):
        draw_qualitative(request, request.plan.tables[0])
    request = make_request()
    table = request.plan.tables[0]
    rows = tuple(replace(row, is_reference=False) for row in table.rows)
    lost = replace(request, plan=replace(request.plan, tables=(replace(table, rows=rows),)))
    with pytest.raises(NotDrawn, match="no table trains the reference"):
        draw_qualitative(lost, lost.plan.tables[0])
