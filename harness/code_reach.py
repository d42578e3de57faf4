"""Which files of the code a module reaches by its imports, and which of them have changed since a trial ran."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("harness", "models")
"""Where imports are followed."""


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


def changed_files(recorded: Mapping[str, str], start: str, files: Mapping[str, Path]) -> tuple[str, ...]:
    """What a module reaches and is not as it was recorded.

    Args:
        recorded: Path -> SHA-256 of every file of the code that ran.
        start: Path of the module.
        files: Path -> file of the code as it is now.

    Returns:
        For example `models/mafn.py`, `models/layers/msrc.py (new)` or `models/mafn.py (gone)`.
    """
    if start not in files:
        return (f"{start} (gone)",)
    changed = []
    for path in reached(start, files):
        if path not in recorded:
            changed.append(f"{path} (new)")
        elif recorded[path] != hashlib.sha256(files[path].read_bytes()).hexdigest():
            changed.append(path)
    return tuple(changed)


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
