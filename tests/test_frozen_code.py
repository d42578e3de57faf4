"""The copy of the code that a study's trials run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import frozen_code
from harness.errors import HarnessError
from harness.frozen_code import PACKAGES, code_files, freeze_code


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Packages of one file each, and what does not belong to them."""
    found = tmp_path / "root"
    for package in PACKAGES:
        (found / package / "__pycache__").mkdir(parents=True)
        (found / package / "__init__.py").write_text(f"# {package}\n")
        (found / package / "__pycache__" / "x.pyc").write_bytes(b"x")
    (found / "runs").mkdir()
    (found / "runs" / "large.bin").write_bytes(b"x" * 1000)
    return found


def test_the_packages_are_copied_and_nothing_else(root: Path, tmp_path: Path) -> None:
    code = freeze_code(tmp_path / "runs", root)
    copied = {path.relative_to(code.folder).as_posix() for path in code.folder.rglob("*") if path.is_file()}
    assert copied == set(code.files) == {f"{package}/__init__.py" for package in PACKAGES}
    assert code.folder == tmp_path / "runs" / "code" / code.sha


def test_equal_code_is_one_copy_and_a_change_is_another(root: Path, tmp_path: Path) -> None:
    first, again = freeze_code(tmp_path, root), freeze_code(tmp_path, root)
    assert first == again
    (root / "models" / "__init__.py").write_text("# edited\n")
    edited = freeze_code(tmp_path, root)
    assert edited.sha != first.sha
    assert (first.folder / "models" / "__init__.py").read_text() == "# models\n"
    assert edited.to_json()["code_sha"] == edited.sha


def test_templates_belong_to_the_code() -> None:
    names = code_files()
    assert {"harness/cli.py", "models/mafn.py", "reports/templates/table.tex.j2"} <= names.keys()
    assert not any("__pycache__" in name for name in names)


def test_what_is_too_large_for_code_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "models" / "weights.bin").write_bytes(b"x" * 3 * 2**20)
    monkeypatch.setattr(frozen_code, "MAX_MIB", 2)
    with pytest.raises(HarnessError, match=r"at most 2 MiB; got 3 MiB, largest models/weights.bin \(3 MiB\)"):
        freeze_code(tmp_path, root)
