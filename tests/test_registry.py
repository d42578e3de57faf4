"""Names are found by file name, imported when asked for, and misspelt ones are answered with near ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UnknownNameError
from harness.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of two entries, a private module and a module that registers nothing."""
    folder = tmp_path / "shelf"
    (folder / "layers").mkdir(parents=True)
    (folder / "__init__.py").write_text("from harness.registry import Registry\nSHELF = Registry('book', 'shelf')\n")
    (folder / "layers" / "__init__.py").write_text("")
    for name in ("atlas", "bible"):
        text = f"from shelf import SHELF\n@SHELF.register('{name}')\nclass Entry:\n    title = '{name}'\n"
        (folder / f"{name}.py").write_text(text)
    (folder / "base.py").write_text("raise RuntimeError('private modules are not imported')\n")
    (folder / "empty.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shelf"
    for name in [n for n in sys.modules if n.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_names_come_from_files_without_importing_them(package: str) -> None:
    shelf: Registry[type] = Registry("book", package, private=frozenset({"base"}))
    assert shelf.names() == ("atlas", "bible", "empty")
    assert "shelf.atlas" not in sys.modules


def test_an_entry_is_imported_when_it_is_asked_for(package: str) -> None:
    __import__(package)
    shelf = sys.modules[package].SHELF
    assert shelf.get("atlas").title == "atlas"
    assert shelf.get("atlas") is shelf.get("atlas")
    assert "shelf.bible" not in sys.modules


def test_a_file_that_registers_nothing_is_unknown(package: str) -> None:
    shelf: Registry[type] = Registry("book", package, private=frozenset({"base"}))
    with pytest.raises(UnknownNameError, match="unknown book 'empty'"):
        shelf.get("empty")


def test_entries_of_code_that_is_already_imported() -> None:
    figures: Registry[str] = Registry("figure")
    assert figures.register("delta")("drawn") == "drawn"
    assert figures.names() == ("delta",)
    assert figures.get("delta") == "drawn"


def test_misspelt_name() -> None:
    figures: Registry[str] = Registry("figure")
    figures.register("delta")("drawn")
    with pytest.raises(UnknownNameError, match=r"^unknown figure 'dleta'; did you mean 'delta'\?$"):
        figures.get("dleta")


def test_a_name_is_taken_once() -> None:
    figures: Registry[str] = Registry("figure")
    figures.register("delta")("drawn")
    with pytest.raises(ValueError, match=r"^figure name 'delta' must be registered once; it is already taken$"):
        figures.register("delta")("again")
