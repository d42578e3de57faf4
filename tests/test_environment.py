"""What is recorded of code and machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import harness.environment
from harness.environment import Code, code_diff, code_state, describe_environment, versions


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a package that this module believes to be its own."""
    monkeypatch.delenv("HARNESS_GIT_COMMIT", raising=False)
    folder = tmp_path / "harness"
    folder.mkdir()
    for name in ("__init__.py", "environment.py"):
        (folder / name).write_text("")
    monkeypatch.setattr(harness.environment, "__file__", str(folder / "environment.py"))
    return folder


def test_commit_and_dirtiness(package: Path) -> None:
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    commit = git(package, "rev-parse", "HEAD").strip()
    assert code_state() == Code(commit, False)
    (package / "new.py").write_text("not in the commit")
    assert code_state() == Code(commit, True)
    (package / "new.py").unlink()
    (package / "environment.py").write_text("changed")
    assert code_state() == Code(commit, True)


def test_the_difference_to_the_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_diff() == ""
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    assert code_diff() == ""
    (package / "environment.py").write_text("changed\n")
    (package / "new file.py").write_text("not in the commit\n")
    (package.parent / ".gitignore").write_text("ignored\n")
    (package.parent / "ignored").write_text("secret\n")
    found = code_diff()
    for line in ("+changed", "+not in the commit", "+ignored"):
        assert f"\n{line}\n" in found
    assert "secret" not in found
    git(package.parent, "clean", "-fdqx")
    git(package.parent, "checkout", "-q", ".")
    assert code_state().dirty is False
    (package / "environment.py").write_text(found)
    git(package.parent, "commit", "-qam", "second")
    assert code_diff() == ""

    monkeypatch.setattr(harness.environment, "MAX_DIFF", 2000)
    monkeypatch.setattr(harness.environment, "MAX_NEW_FILES", 2)
    (package / "a large file").write_text("x" * 3000)
    for name in "bcd":
        (package / name).write_text("y" * 1990)
    found = code_diff()
    assert "a large file: 3000 bytes, too large to keep" in found
    assert 2000 < len(found) < 2100
    assert found.endswith("bytes in all)\n")


@pytest.mark.usefixtures("package")
def test_without_history_the_commit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_state() == Code("unknown", False)
    monkeypatch.setenv("HARNESS_GIT_COMMIT", "abc")
    assert code_state() == Code("abc", False)


def test_a_checkout_around_an_installed_package_is_not_its_commit(package: Path) -> None:
    git(package.parent, "init", "-q")
    git(package.parent, "commit", "-qm", "of the user's own project", "--allow-empty")
    assert code_state().commit == "unknown"


@pytest.mark.usefixtures("package")
def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_state() == Code("unknown", False)


def test_versions_name_installed_packages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.environment, "PACKAGES", ("numpy", "no-such-package"))
    found = versions()
    assert found.keys() == {"python", "numpy"}


def test_description_is_json() -> None:
    found = json.loads(json.dumps(describe_environment()))
    assert {"packages", "python", "platform", "host", "cpus", "cpu_threads", "cuda", "driver", "gpus"} == found.keys()
    assert "torch" in found["packages"]
