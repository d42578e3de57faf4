"""Which files of the code a module reaches by its imports, and which of them have changed since a trial ran."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.frozen_code import code_sha, hash_files
from harness.records import Trial

PACKAGES = ("harness", "models")
"""Where imports are followed."""

TRAINING = "harness/trial.py"
"""Reaches everything that trains and evaluates, whatever the model."""


class Change(NamedTuple):
    """What has changed of the code that a trial ran."""

    stale: tuple[str, ...]
    """Of its own model and dataset."""
    also: tuple[str, ...]
    """Training code, which all rows share; or that it is not known."""


def reached(start: str, files: Mapping[str, Path]) -> tuple[str, ...]:
    """The files that run when a module is imported, and those that its functions import.

    Args:
        start: Path of the module, for example `models/mafn.py`.
        files: Path -> file of all the code, as `harness.frozen_code.code_files` gives it.

    Returns:
        Paths, sorted, with `start` and the `__init__.py` of each package on the way; empty where `start` is not there.
    """
    found: dict[str, None] = {start: None} if start in files else {}
    queue = list(found)
    for path in queue:
        for name in (*_imported(path, files[path]), _module(path)):
            new = [p for p in _files_of(name, files) if p not in found]
            found.update(dict.fromkeys(new))
            queue.extend(new)
    return tuple(sorted(found))


class Changes:
    """What has changed of the code since trials ran it; files are read once, states of the code compared once.

    Args:
        files: Path -> file of the code as it is now.
        recorded: Run id -> its `code.json`, None where it left none; asked once per state of the code that is not the
            present one.
    """

    def __init__(self, files: Mapping[str, Path], recorded: Callable[[str], Mapping[str, Any] | None]) -> None:
        self._files = files
        self._recorded = recorded
        self._hashes = hash_files(files)
        self._sha = code_sha(self._hashes)
        self._kept: dict[str, Mapping[str, str] | None] = {}
        self._reached: dict[str, tuple[str, ...]] = {}

    def since(self, trial: Trial, run_id: str, sha: str) -> Change:
        """What has changed since a run of a trial began with the code of that hash; empty for one not recorded."""
        if sha == self._sha:
            return Change((), ())
        key = sha or run_id
        if key not in self._kept:
            kept = self._recorded(run_id)
            self._kept[key] = None if kept is None else kept["files"]
        recorded = self._kept[key]
        if recorded is None:
            return Change((), ("not known whether code changed: the run has no code.json",))
        modules = {"model": f"models/{trial.model['name']}.py", "data": f"harness/data/{trial.data['name']}.py"}
        own = {what: self.changed(recorded, path) for what, path in modules.items()}
        named = {path for paths in own.values() for path in paths}
        shared = [path for path in self.changed(recorded, TRAINING) if path not in named]
        return Change(
            tuple(f"code of the {what}: {', '.join(paths)}" for what, paths in own.items() if paths),
            (f"code that trains every row: {', '.join(shared)}",) if shared else (),
        )

    def changed(self, recorded: Mapping[str, str], start: str) -> tuple[str, ...]:
        """What a module reaches and is not as it was recorded.

        Args:
            recorded: Path -> SHA-256 of every file of the code that ran.
            start: Path of the module.

        Returns:
            For example `models/mafn.py`, `models/layers/msrc.py (new)` or `models/mafn.py (gone)`.
        """
        if start not in self._files:
            return (f"{start} (gone)",)
        if start not in self._reached:
            self._reached[start] = reached(start, self._files)
        paths = [path for path in self._reached[start] if recorded.get(path) != self._hashes[path]]
        return tuple(path if path in recorded else f"{path} (new)" for path in paths)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _files_of(name: str, files: Mapping[str, Path]) -> Iterator[str]:
    """The files behind an imported name: the module, or the one it is defined in, and the packages around."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return
    for end in range(1, len(parts) + 1):
        stem = "/".join(parts[:end])
        yield from (path for path in (f"{stem}/__init__.py", f"{stem}.py") if path in files)


def _imported(path: str, file: Path) -> Iterator[str]:
    """Dotted names that a module imports, but for type checkers."""
    package = _module(path) if path.endswith("/__init__.py") else _module(path).rpartition(".")[0]
    queue: list[ast.AST] = [ast.parse(file.read_bytes())]
    for node in queue:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*around, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        queue += ast.iter_child_nodes(node)
