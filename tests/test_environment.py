"""What is recorded of code and machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import harness.environment
from harness.environment import Code, code_state, describe_environment, versions


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
