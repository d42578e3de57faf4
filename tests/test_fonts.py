"""Labels whose letters the figures' own font lacks: drawn from another font, or said in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from reports import fonts
from reports.drawing import new_figure
from reports.figures import DrawnFigures, draw_figures
from reports.style import house_style
from tests.drawn_study import make_request

FAMILY = "Two Letters Sans"
LETTERS = "中文"
FIGURES = ("delta", "precision_curve")


@pytest.fixture(autouse=True)
def only_own_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fonts that come with matplotlib: which others a machine has does not matter here."""
    own = [entry for entry in fontManager.ttflist if entry.name.startswith("DejaVu Sans")]
    monkeypatch.setattr(fontManager, "ttflist", own)
    forget()
    yield
    forget()


def forget() -> None:
    """As after a new start."""
    fontManager._findfont_cached.cache_clear()
    fonts.fonts_for.cache_clear()
    fonts._letters_of.cache_clear()


def add_font(folder: Path) -> None:
    """A font of squares for two letters."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for corner in ((900, 0), (900, 800), (100, 800)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", "one", "two"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, LETTERS), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": FAMILY, "styleName": "Regular", "psName": "TwoLettersSans-Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(folder / "two.ttf")
    fontManager.addfont(folder / "two.ttf")
    forget()


def draw(labels: str, folder: Path) -> DrawnFigures:
    """Figures of rows whose labels begin so; a warning is an error."""
    request = make_request(figures=FIGURES)
    (table,) = request.plan.tables
    rows = tuple(replace(row, label=f"{labels} {row.label}") for row in table.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw_figures(replace(request, plan=replace(request.plan, tables=(replace(table, rows=rows),))), folder)


def test_letters_that_another_font_has_are_drawn_from_it_the_same_every_time(tmp_path: Path) -> None:
    add_font(tmp_path)
    first, again = (draw(LETTERS, tmp_path / name) for name in ("first", "again"))
    assert first.notes == ()
    assert len({path.stem for path in first.paths}) == 2
    for one, other in zip(first.paths, again.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".pdf":
            assert b"TwoLettersSans" in one.read_bytes()


def test_letters_that_no_font_has_are_named_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    add_font(tmp_path)
    found = draw(f"{LETTERS}字", tmp_path / "figures")
    (note,) = found.notes
    assert note.startswith(
        "figures: no font of this machine has 字, which are drawn as boxes; install one that has them"
    )
    assert len({path.stem for path in found.paths}) == 2
    assert capfd.readouterr().err == ""


def test_many_lost_letters_are_counted() -> None:
    note = fonts.lost_note([chr(0x4E00 + i) for i in range(fonts.MAX_NAMED + 3)])
    assert f" {chr(0x4E00 + fonts.MAX_NAMED - 1)} and 3 more, which are drawn" in note


def test_a_figure_that_needs_no_other_font_is_left_as_it_is(tmp_path: Path) -> None:
    add_font(tmp_path)
    with house_style():
        figure = new_figure(2, 1)
        text, latin = figure.text(0, 0, f"Δ ± → é {LETTERS[0]}"), figure.text(0, 1, "Δ ± → é")
        assert fonts.use_fonts(figure) == frozenset()
        assert text.get_fontfamily() == ["DejaVu Sans", FAMILY]
        assert latin.get_fontfamily() == ["DejaVu Sans"]
