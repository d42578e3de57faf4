"""Figures as files: all that a study can name are drawn, equal results give equal bytes, what is missing is said."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.errors import UnknownNameError
from harness.records import Table
from harness.spec_report import FIGURES as ASKABLE
from reports.artifacts import NotDrawn
from reports.build import build_report
from reports.curve_figures import draw_learning_curves, draw_precision_curve, precision_curves
from reports.delta_figure import differences
from reports.drawing import MAX_PIXELS, SUFFIXES, Drawing, new_figure, wrapped, write_drawing
from reports.feature_maps import arrange_bands, draw_feature_maps, point_names, stretch, variant_maps
from reports.figures import FIGURES, DrawnFigures, draw_figures
from reports.qualitative import draw_qualitative
from reports.results import Results
from reports.style import COLOURS, house_style, series
from tests.drawn_study import SENTENCES, make_request, make_study
from tests.test_paper_figures import assert_readable, boxes

STEMS = (
    *("delta_parts", "ranks_parts", "precision_curve_parts", "learning_curves_parts", "qualitative_parts"),
    *("feature_maps_parts_1", "feature_maps_parts_2"),
)
CELLS = (
    "it takes a row for every combination of levels (design: grid); rows differ in fusion and decoder, and 3 of 4 "
    "combinations are there"
)
UNFIT = (
    "figure cost of table parts: it takes at least 2 rows with a score and a recorded cost",
    "figure class_bars of table parts: no complete run has recorded scores of single classes on val",
    f"figure interaction of table parts: {CELLS}",
    "figure waterfall of table parts: it takes rows that each add to the one before (design: cumulative)",
    f"figure shapley of table parts: {CELLS}",
)
UNDISTURBED = (
    "figure robustness of table parts: no complete run has miou on a disturbed test split; ask for some with "
    "evaluate.stress in the study"
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnFigures:
    return draw_figures(make_request(figures=tuple(FIGURES)), tmp_path_factory.mktemp("figures"))


def test_every_name_that_a_study_may_use_is_drawn() -> None:
    assert {name for names in ASKABLE.values() for name in names} == set(FIGURES)


def test_each_figure_is_four_files(drawn: DrawnFigures) -> None:
    assert [p.name for p in drawn.paths] == [stem + suffix for stem in STEMS for suffix in SUFFIXES]
    assert drawn.notes == (*UNFIT, UNDISTURBED)
    for path in drawn.paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert np.asarray(image.convert("L")).std() > 5
        if path.suffix == ".csv":
            assert len(list(csv.reader(path.read_text().splitlines()))) > 2
    assert "default|0" in drawn.run_ids
    assert "+ noise|1" not in drawn.run_ids


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not on PATH")
def test_text_of_the_pdf_is_text(drawn: DrawnFigures) -> None:
    pdf = next(p for p in drawn.paths if p.name == "feature_maps_parts_2.pdf")
    text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
    assert SENTENCES[1] in " ".join(text.split())
    assert "fused 2" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not on PATH")
def test_the_floats_compile(drawn: DrawnFigures, tmp_path: Path) -> None:
    inputs = "\n".join(rf"\input{{{p}}}" for p in drawn.paths if p.suffix == ".tex")
    folder = drawn.paths[0].parent
    text = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp,amssymb,graphicx}"
    text += rf"\graphicspath{{{{{folder}/}}}}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "all.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_equal_results_give_equal_bytes(drawn: DrawnFigures, tmp_path: Path) -> None:
    again = draw_figures(make_request(figures=("learning_curves", "qualitative")), tmp_path)
    kept = {p.name: p.read_bytes() for p in drawn.paths}
    assert len(again.paths) == 8
    assert all(p.read_bytes() == kept[p.name] for p in again.paths)
    assert sorted(tmp_path.iterdir()) == sorted(again.paths)


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    request = make_request(missing=["default", "+ noise", "MAFN"], figures=tuple(FIGURES))
    found = draw_figures(request, tmp_path)
    assert [p.name for p in found.paths] == [f"delta_parts{suffix}" for suffix in SUFFIXES]
    assert found.notes == (
        UNFIT[0],
        "figure ranks of table parts: ranks take 3 rows with scores and 2 blocks (categories or classes of splits) on "
        "which all of them have one; rows: 3, such blocks: 1",
        *UNFIT[1:],
        "figure precision_curve of table parts: no complete run has left a per-sample table",
        "figure learning_curves of table parts: no complete run has the learning curve val/miou",
        "figure qualitative of table parts: it takes per-sample results of the reference and of another row",
        UNDISTURBED,
        "figure feature_maps of table parts: no complete run has left feature maps; the models may declare none",
    )


def test_comparisons_have_no_feature_maps(tmp_path: Path) -> None:
    request = make_request(figures=("feature_maps",))
    table = replace(request.plan.tables[0], kind="comparison")
    found = draw_figures(replace(request, plan=replace(request.plan, tables=(table,))), tmp_path)
    assert (found.paths, found.notes) == ((), ("figure feature_maps: no table is of kind ablation",))


OF_LABELS = (draw_precision_curve, draw_learning_curves, draw_qualitative, draw_feature_maps)


@pytest.mark.parametrize("length", [85, 150])
@pytest.mark.parametrize("draw", OF_LABELS, ids=lambda draw: draw.__name__)
def test_labels_that_differ_at_their_end_are_shown_whole(
    draw: Callable[[Results, Table], Sequence[Drawing]], length: int
) -> None:
    request = make_request()
    (table,) = request.plan.tables
    words = ("the proposed network with correlation-aware fusion and noise " * 3)[: length - 4]
    labels = [f"{words} ({letter})" for letter in "abc"]
    rows = tuple(replace(row, label=label) for row, label in zip(table.rows, labels, strict=True))
    table = replace(table, rows=rows)
    request = replace(request, plan=replace(request.plan, tables=(table,)))
    with house_style():
        figure = draw(request, table)[0].figure
        found = boxes(figure)
    assert_readable(figure, found)
    # a line may also end inside a word of several parts
    shown = ["".join(text.split()).removesuffix("(n=2)") for text, _ in found]
    assert set(shown) >= {"".join(label.split()) for label in labels}


def test_wide_letters_take_two_places_of_a_line_which_may_end_behind_any() -> None:
    assert wrapped("多模态遥感图像分割 (a)", 10) == "多模态遥感\n图像分割\n(a)"
    assert wrapped("a plain label", 7) == "a plain\nlabel"


def test_a_png_is_coarser_than_the_house_style_where_it_would_be_too_long(tmp_path: Path) -> None:
    with house_style():
        write_drawing(Drawing("tall", new_figure(1.0, 300.0), pd.DataFrame(), "Tall.", ()), tmp_path)
    assert Image.open(tmp_path / "tall.png").size[1] == MAX_PIXELS


def test_unknown_figures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown figure 'detla'; did you mean 'delta'"):
        draw_figures(make_request(figures=("detla",)), tmp_path)


def test_a_report_draws_records_and_notes(tmp_path: Path) -> None:
    request = make_request(figures=("delta",), breakdowns=("size",))
    files = build_report(request, tmp_path / "a", published_dir=tmp_path)
    assert [p.relative_to(tmp_path / "a").as_posix() for p in files.figures] == [
        f"figures/delta_parts{s}" for s in SUFFIXES
    ]
    assert (tmp_path / "a" / "breakdown_size_parts_val.md").exists()
    assert "figures/delta_parts.pdf" in files.manifest.read_text()
    assert files.notes == ()
    nothing = "no complete run has left per-sample results that can be grouped so"
    plan, frame = make_study(figures=("delta", "precision_curve"), breakdowns=("size",))
    files = build_report(Results(plan, frame), tmp_path / "b", published_dir=tmp_path)
    assert {p.stem for p in files.figures} == {"delta_parts"}
    assert files.notes == (
        f"break-down by size of table parts on val: {nothing}",
        "figure precision_curve of table parts: no complete run has left a per-sample table",
    )


def test_differences_are_paired_and_count_what_is_missing() -> None:
    request = make_request()
    found = differences(request, request.plan.tables[0])
    assert [d.row.label for d in found] == ["default", "+ noise"]
    assert found[0].values == pytest.approx((-0.1, -0.1))
    assert (found[1].values, found[1].replicates) == (pytest.approx((-0.05,)), (0,))
    rows = tuple(replace(row, is_reference=False) for row in request.plan.tables[0].rows)
    table = replace(request.plan.tables[0], rows=rows)
    lost = replace(request, plan=replace(request.plan, tables=(table,)))
    with pytest.raises(NotDrawn, match="no table trains the reference"):
        differences(lost, table)
    empty = replace(request, frame=request.frame.iloc[:0])
    with pytest.raises(NotDrawn, match="no replicate is complete in both"):
        differences(empty, request.plan.tables[0])


def test_precision_curves_start_at_one_and_fall() -> None:
    request = make_request()
    curves = precision_curves(request, request.plan.tables[0])
    assert [(c.label, len(c.y)) for c in curves] == [("default", 2), ("+ noise", 1), ("MAFN", 2)]
    for curve in curves:
        assert (curve.y[:, 0] == 1).all()
        assert (np.diff(curve.y) <= 0).all()
    # one of eight samples is hit exactly by `default`, in both replicates
    assert curves[0].y[:, -1] == pytest.approx([1 / 8, 1 / 8])


def test_points_of_variants_that_lack_some_are_merged_in_order() -> None:
    request = make_request()
    table = request.plan.tables[0]
    assert point_names(variant_maps(request, table)) == ["fused 1", "fused 2", "decoder 1"]
    (first, second) = draw_feature_maps(make_request(absent=True), table)
    assert (first.name, second.name) == ("feature_maps_parts_1", "feature_maps_parts_2")
    assert "smallest SHA-256" in first.caption
    assert len(first.data) == 2 + 2 + 3


def test_bands_keep_kinds_together() -> None:
    kinds = {"words": 4, "visual": 3, "fused": 3, "decoder": 3}
    names = [f"{kind} {i}" for kind, n in kinds.items() for i in range(n)]
    assert [len(band) for band in arrange_bands(names)] == [7, 6]
    assert [len(band) for band in arrange_bands([f"layer {i}" for i in range(19)])] == [8, 8, 3]


def test_maps_are_stretched_each_to_its_own_range() -> None:
    values = np.arange(100, dtype=np.float16).reshape(10, 10)
    assert (stretch(values).min(), stretch(values).max()) == (0, 1)
    assert stretch(values) == pytest.approx(stretch(values * 7 + 3), abs=1e-3)
    assert not stretch(np.full((3, 3), 5.0)).any()


def test_neighbouring_series_differ_in_every_way_and_none_repeats() -> None:
    looks = series(28)
    assert len(set(looks)) == 28
    for a, b in pairwise(looks):
        assert all(x != y for x, y in zip(a, b, strict=True))
    assert len(set(COLOURS)) == 7


def test_a_users_own_settings_do_not_matter_and_are_kept() -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 33}):
        with house_style():
            assert matplotlib.rcParams["font.size"] == 7.5
        assert matplotlib.rcParams["font.size"] == 33
