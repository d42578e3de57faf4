"""The code of a study, copied when it is started: what is edited meanwhile does not reach its trials.

The copy lies in `<storage>/code/<sha>/` and holds the packages only, no data, no runs. Ray uploads it to every node,
and its hash is part of each trial's record.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

PACKAGES = ("harness", "models", "reports")
MAX_MIB = 20
"""More than this is no code."""


@dataclass(frozen=True)
class FrozenCode:
    """A copy of the packages."""

    folder: Path
    """Holds the packages; a place for the front of an import path."""
    sha: str
    """12 hex digits of the SHA-256 over names and contents."""
    files: dict[str, str]
    """Path inside the folder -> SHA-256 of the file."""

    def to_json(self) -> dict[str, Any]:
        """What is recorded of it with every trial."""
        return {"code_sha": self.sha, "files": self.files}


def code_files(root: Path | None = None) -> dict[str, Path]:
    """Path -> file of everything in the packages that this process was loaded from, or in those under `root`."""
    base = root or Path(__file__).resolve().parent.parent
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((base / package).rglob("*")):
            inside = path.relative_to(base)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                found[inside.as_posix()] = path
    return found


def freeze_code(storage: Path, root: Path | None = None) -> FrozenCode:
    """Copy the packages, unless this very code has been copied before.

    Args:
        storage: Folder of the study's runs.
        root: Folder of the packages; the one this process was loaded from by default.

    Raises:
        HarnessError: The packages hold more than code.
    """
    files = code_files(root)
    _check_size(files)
    hashes, sha = code_hashes(files)
    folder = storage / "code" / sha
    if not folder.is_dir():
        draft = folder.with_name(f"{sha}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        for name, path in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, draft / name)
        try:
            draft.replace(folder)
        except OSError:  # another driver was faster with the same code
            shutil.rmtree(draft, ignore_errors=True)
    return FrozenCode(folder, sha, hashes)


def code_hashes(files: Mapping[str, Path]) -> tuple[dict[str, str], str]:
    """Path -> SHA-256 of the file, and 12 hex digits that stand for all of them."""
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return hashes, hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def _check_size(files: dict[str, Path]) -> None:
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values()) / 2**20
    if total > MAX_MIB:
        large = ", ".join(f"{n} ({sizes[n] / 2**20:.0f} MiB)" for n in sorted(sizes, key=lambda n: -sizes[n])[:3])
        raise HarnessError(
            f"the packages {', '.join(PACKAGES)} go to every node and must hold code only, at most {MAX_MIB} MiB; "
            f"got {total:.0f} MiB, largest {large}; move what is no code elsewhere"
        )
