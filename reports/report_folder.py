"""The folder of a report: which of its files an earlier report wrote, and how a new one takes its place.

Only files that the manifest of an earlier report lists are replaced or removed. While they are, the manifest lists
those of both reports, so that a report that is killed half-way does not lock its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from harness.errors import HarnessError

MANIFEST = "manifest.json"
MAX_NAMED = 3
"""Files that an error names."""


@dataclass(frozen=True)
class Manifest:
    """What a report consists of and came from."""

    study: str
    spec_sha: str
    files: Mapping[str, str]
    """Path inside the folder -> SHA-256."""
    runs: tuple[str, ...]

    def to_text(self) -> str:
        """The same bytes for equal reports."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest | None:
    """What a folder's earlier report lists; None where it holds none, or a manifest of something else."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kept = {str(name): str(digest) for name, digest in found["files"].items() if _is_inside(name)}
        return Manifest(str(found["study"]), str(found["spec_sha"]), kept, tuple(map(str, found["runs"])))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def require_folder(folder: Path, study: str) -> None:
    """Make a report's folder if it is not there.

    Raises:
        HarnessError: It cannot be a folder, or holds the report of another study.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    earlier = read_manifest(folder)
    if earlier is not None and earlier.study != study:
        raise HarnessError(
            f"a report's folder must be empty or hold a report of the same study, {folder} holds that of "
            f"{earlier.study!r}, not of {study!r}; give another folder"
        )


def replace_report(folder: Path, drafts: Path, manifest: Manifest, *, is_own: bool) -> None:
    """Put a report where an earlier one may be, whose other files go.

    Args:
        folder: An existing folder.
        drafts: Folder with the new files.
        manifest: What it lists is written, and `manifest.json`.
        is_own: Whether nobody but the harness writes to the folder, so that a file in the way is a report's even if no
            manifest lists it.

    Raises:
        HarnessError: A file or folder of somebody else stands in the way, and nothing has been written, or writing
            fails.
    """
    with _writing(folder), _alone_in(folder):
        earlier = read_manifest(folder)
        listed = {*earlier.files, MANIFEST} if earlier is not None else set()
        _require_free(folder, [*manifest.files, MANIFEST], listed, is_own=is_own)
        both = manifest if earlier is None else replace(manifest, files={**earlier.files, **manifest.files})
        _write_manifest(folder, both)
        for name in manifest.files:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            half = path.with_name(f"{path.name}.part")
            shutil.copyfile(drafts / name, half)
            half.replace(path)
        for name in both.files:
            _remove(folder / f"{name}.part", folder)  # of a report that was killed
            if name not in manifest.files:
                _remove(folder / name, folder)
        _write_manifest(folder, manifest)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name != MANIFEST


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise HarnessError(
            f"a report's folder must be one that can be written to, got {folder}: {reason}; give another"
        ) from None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for another report of the folder: several drivers of one study end together."""
    here = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(here, fcntl.LOCK_EX)
        yield
    finally:
        os.close(here)


def _require_free(folder: Path, names: Iterable[str], listed: set[str], *, is_own: bool) -> None:
    wrong = []
    for name in names:
        path = folder / name
        if path.parent != folder and path.parent.exists() and not path.parent.is_dir():
            wrong.append(str(path.parent.relative_to(folder)))
        elif path.is_dir() and not path.is_symlink():
            wrong.append(f"{name}/")
        elif not is_own and name not in listed:
            wrong += [n for n in (name, f"{name}.part") if (folder / n).is_symlink() or (folder / n).exists()]
    if wrong := list(dict.fromkeys(wrong)):
        more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
        raise HarnessError(
            f"a report replaces only files that {MANIFEST} of an earlier one lists, {folder} has others in its way: "
            f"{', '.join(wrong[:MAX_NAMED])}{more}; give an empty folder, or move them away"
        )


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    half = folder / f"{MANIFEST}.part"
    half.write_text(manifest.to_text(), encoding="utf-8")
    half.replace(folder / MANIFEST)


def _remove(path: Path, folder: Path) -> None:
    """Delete a file of an earlier report, and its folder if that is empty then."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    if path.parent != folder:
        with suppress(OSError):  # not empty, or gone
            path.parent.rmdir()
