"""Published numbers: complete, sourced, on the grid of their split, and strictly read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.metrics import metric
from models.base import MODELS
from reports.published import PublishedRow, axis_value, granularity_problems, load_published, on_grid
from tests.report_frame import make_trial

FOLDER = Path(__file__).parent.parent / "experiments" / "published"
RRSIS_D = load_published("rrsis_d", folder=FOLDER)

SEMANTIC = ("whu_opt_sar", "gid", "vaihingen", "potsdam", "c2seg_bw", "globe230k")

GOOD = """
dataset: D
splits: {val: 10}
sources: {paper: {text: a paper, cite: p2025, url: "https://example.org"}}
doubts: {unclear: hard to read}
rows:
  - {table: t, label: A, match: {model.name: a}, split: val, scores: {p50: 30}, source: paper, protocol: x}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "numbers.yaml").write_text(text, encoding="utf-8")
    return folder


def test_every_number_of_the_specification_is_there() -> None:
    rows = {(r.table, r.label, r.split): r for r in RRSIS_D.rows}
    assert Counter(r.table for r in RRSIS_D.rows) == {"comparison": 14, "components": 4, "kernels": 4}
    assert sum(len(r.scores) for r in RRSIS_D.rows) == 14 * 7 + 8 * 5
    assert list(rows["comparison", "MAFN", "test"].scores.values()) == [75.27, 68.14, 56.79, 42.40, 23.76, 77.41, 64.76]
    assert rows["kernels", "kernels [1, 3, 5]", "val"].scores["miou"] == 66.03
    assert rows["components", "default", "val"].doubts == {"row": "default_decoder"}


def test_mafn_says_where_each_figure_comes_from() -> None:
    val, test = (r for r in RRSIS_D.table("comparison") if r.label == "MAFN")
    assert (val.source, test.source, test.sources) == ("mafn_readme", "mafn_table_1", {"miou": "mafn_text"})
    assert test.doubts["oiou"] == "illegible"
    assert all(test.doubts[m] == "reconstructed" for m in ("p50", "p60", "p70", "p80", "p90"))


def test_shares_are_whole_numbers_of_samples_except_in_the_rows_marked_as_truncated() -> None:
    problems = granularity_problems(RRSIS_D)
    assert Counter(p.label for p in problems) == {"CMPC": 3, "BRINet": 6, "CMPC+": 7}
    doubted = {(r.label, r.split) for r in RRSIS_D.rows if r.doubts.get("row") == "truncated"}
    assert {(p.label, p.split) for p in problems} <= doubted
    assert str(problems[0]) == (
        "comparison/CMPC/val/p70: 38.50 % must be a whole number of samples of the split, rounded"
    )


@pytest.mark.parametrize("k", range(0, 3482, 29))
def test_every_count_is_on_the_grid(k: int) -> None:
    assert on_grid(round(100 * k / 3481, 2), 3481)


def test_impossible_readings_are_off_the_grid() -> None:
    assert on_grid(0.13, 800)  # 0.125 rounded half up ...
    assert on_grid(0.12, 800)  # ... and half to even
    assert not any(on_grid(x, 3481) for x in (69.14, 56.70, 22.76))


def test_rows_match_our_trials_by_configuration() -> None:
    kernels = {r.label: r for r in RRSIS_D.table("kernels")}
    assert kernels["kernels [1, 3]"].matches(make_trial("v", 0, kernels=(1, 3)))
    assert not kernels["kernels [1, 3]"].matches(make_trial("v", 0, kernels=(1,)))
    assert axis_value(make_trial("v", 0), "train.lr") == 3e-5
    assert axis_value(make_trial("v", 0), "model.fusion.deeper") is None
    assert axis_value(make_trial("v", 0), "nowhere.x") is None


def test_the_first_table_that_exists_is_taken() -> None:
    assert RRSIS_D.table("my_kernels", "kernels") == RRSIS_D.table("kernels")
    with pytest.raises(HarnessError, match=r"RRSIS-D have no table 'kernles'; did you mean 'kernels'\?"):
        RRSIS_D.table("kernles")


def rows_of(name: str, table: str = "comparison", under: str | None = None) -> dict[str, PublishedRow]:
    rows = load_published(name, folder=FOLDER).table(table)
    return {r.label: r for r in rows if under in (None, r.under)}


def test_no_file_is_forgotten() -> None:
    assert {p.stem for p in FOLDER.glob("*.yaml")} == {"rrsis_d", *SEMANTIC}


@pytest.mark.parametrize("name", SEMANTIC)
def test_land_cover_rows_say_their_protocol_and_have_metrics_of_their_task(name: str) -> None:
    found = load_published(name, folder=FOLDER)
    assert found.task == "semantic"
    for row in found.rows:
        assert row.under in found.protocols
        assert row.scores
        assert all("semantic" in metric(m).tasks for m in row.scores)
        assert set(row.match) <= {"model.name"}
        assert row.match.get("model.name", "cmx") in MODELS.names()
    used = {x for r in found.rows for x in (r.source, *r.sources.values())}
    assert used == set(found.sources)
    assert {d for r in found.rows for d in r.doubts.values()} == set(found.doubts)
    assert {r.under for r in found.rows} == set(found.protocols)
    assert granularity_problems(found) == ()


@pytest.mark.parametrize(
    ("name", "rows", "figures"),
    [("whu_opt_sar", 34, 69), ("gid", 10, 19), ("vaihingen", 14, 34), ("potsdam", 14, 34), ("c2seg_bw", 7, 7)],
)
def test_every_land_cover_number_is_there(name: str, rows: int, figures: int) -> None:
    found = load_published(name, folder=FOLDER)
    assert (len(found.rows), sum(len(r.scores) for r in found.rows)) == (rows, figures)


def test_some_land_cover_numbers_by_hand() -> None:
    assert rows_of("whu_opt_sar", under="upseg")["UPSeg"].scores == {"miou": 51.3, "mpa": 66.5}
    assert rows_of("whu_opt_sar", under="asanet")["CMX"].scores == {"miou": 55.68}
    assert rows_of("gid")["DOFA"].scores == {"miou": 61.5, "mpa": 75.6}
    assert rows_of("vaihingen")["FTransUNet"].scores == {"oa": 92.40, "mf1": 91.21, "miou": 84.23}
    assert rows_of("potsdam")["SA-Gate"].scores == {"oa": 87.91, "mf1": 90.26, "miou": 82.53}
    assert rows_of("c2seg_bw")["MMGLOTS"].scores == {"miou": 19.88}
    assert "random" not in " ".join(r.under or "" for r in rows_of("c2seg_bw").values())
    assert rows_of("globe230k")["DF2RQ"].scores == {"miou": 80.73}


def test_a_mean_over_eight_classes_times_eight_sevenths_is_the_mean_over_seven() -> None:
    seven, eight = rows_of("whu_opt_sar", under="solc_7"), rows_of("whu_opt_sar", "solc_printed")
    assert set(seven) == set(eight)
    for label, row in eight.items():
        assert seven[label].scores["miou"] == pytest.approx(row.scores["miou"] * 8 / 7, abs=0.012)
        assert row.doubts["miou"] == "background_as_zero"


def test_models_that_are_only_called_alike_do_not_match() -> None:
    row = rows_of("whu_opt_sar", under="solc_7")["“MCANet” (MCAM disabled)"]
    assert (row.match, row.doubts) == ({}, {"row": "no_mcam"})
    assert not row.matches(make_trial("v", 0, name="mcanet"))
    assert rows_of("whu_opt_sar", under="upseg")["MCANet"].matches(make_trial("v", 0, name="mcanet"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "dataset: D",
            "dataset: D\nauthor: me",
            r"numbers\.yaml:\d+: author: unknown key 'author'",
        ),
        ("p50: 30", "p55: 30", r"row t/A/val: unknown metric 'p55'; did you mean"),
        ("p50: 30", "p50: 130", r"rows.0.scores.p50: must be less than or equal to 100, received 130"),
        ("p50: 30", "p50: .nan", r"rows.0.scores.p50: a number must be finite"),
        ("split: val", "split: vall", r"unknown split 'vall'; did you mean 'val'"),
        ("source: paper", "source: papre", r"unknown source 'papre'; did you mean 'paper'"),
        ("protocol: x", "protocol: x, doubts: {row: unclaer}", r"unknown doubt 'unclaer'; did you mean 'unclear'"),
        ("protocol: x", "protocol: x, sources: {miuo: paper}", r"unknown metric 'miuo'"),
        ("label: A,", "label: A, label: B,", r"key 'label' must be given once"),
        ("dataset: D", "dataset: [", r"must be valid YAML"),
        ("dataset: D", "", r"numbers.yaml:\d+: 'dataset' must be given, it is missing"),
        ("p50: 30", "kappa: 30", r"metric 'kappa' must belong to the task 'referring', it is for semantic"),
        ("{val: 10}", "{val: null}", r"p50 is a share of samples, so splits.val must say how many"),
        ("protocol: x", "under: x", r"row t/A/val: unknown protocol 'x'"),
        (", protocol: x", "", r"row t/A/val must say its protocol, or be under one of the file's"),
    ],
)
def test_a_mistake_in_a_file_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert load_published("numbers", folder=write(tmp_path, GOOD)).rows[0].label == "A"
    with pytest.raises(HarnessError, match=message) as caught:
        load_published("numbers", folder=write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_row_is_given_once(tmp_path: Path) -> None:
    twice = GOOD + GOOD.strip().splitlines()[-1] + "\n"
    with pytest.raises(HarnessError, match=r"row t/A/val must be given once"):
        load_published("numbers", folder=write(tmp_path, twice))


def test_a_score_of_one_class_may_be_quoted(tmp_path: Path) -> None:
    text = "task: semantic\n" + GOOD.replace("p50: 30", "iou.water: 30")
    quoted = load_published("numbers", folder=write(tmp_path, text))
    assert quoted.rows[0].scores == {"iou.water": 30.0}


def test_an_unknown_file_names_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r"no published numbers named 'rrsisd'; did you mean 'rrsis_d'"):
        load_published("rrsisd", folder=FOLDER)
