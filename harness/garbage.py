"""What in a storage folder is needed by nobody any more; results, samples and logs are never among it.

Nothing that a living driver may touch is garbage: no file of a trial that it has claimed, and, while any driver lives,
no frozen code and no folder of an unrecorded trial.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.claims import BEAT_SECONDS, CLAIM, DRIVERS, Liveness, abandoned, read_drivers
from harness.records import TrialResult, TrialState
from harness.spool import SPOOL, Spool, is_abandoned
from harness.trial_folder import read_result

DRAFT_SECONDS = 600.0
"""A draft younger than this may be in the making."""


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can go."""

    path: Path
    size: int
    """Bytes on disk."""
    reason: str
    group: str
    """`states`, `weights`, `trials`, `drivers`, `claims`, `spools`, `drafts` or `code`."""


@dataclass(frozen=True)
class Limits:
    """How far `find_garbage` goes."""

    best: bool = False
    """Also the best weights of COMPLETE trials."""
    spool: bool = False
    """Also records of dead drivers that MLflow does not have: they are lost then."""
    recorded: Collection[str] | None = None
    """Ids of all trials in the tracking store; None where it was not asked, and no trial folder is garbage."""


def find_garbage(storage: Path, limits: Limits) -> list[Garbage]:
    """Everything in a storage folder that can go, the largest first within a group."""
    finder = _Finder(storage, limits)
    found = [g for find in (finder.trials, finder.drivers, finder.spools, finder.code, finder.drafts) for g in find()]
    inner = [g for g in found if not any(other.path in g.path.parents for other in found)]
    order = list(dict.fromkeys(g.group for g in inner))
    return sorted(inner, key=lambda g: (order.index(g.group), -g.size, g.path))


def remove(garbage: Garbage) -> None:
    """Delete a file or folder; one that is gone already is no error."""
    if garbage.path.is_dir():
        shutil.rmtree(garbage.path, ignore_errors=True)
    else:
        garbage.path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() or file.is_symlink())


class _Finder:
    """Looks through one storage folder."""

    def __init__(self, storage: Path, limits: Limits) -> None:
        self._storage, self._limits = storage, limits
        self._liveness = Liveness(storage)

    def _is_driven(self) -> bool:
        """Whether any driver lives, as of now: one may have started since the last look."""
        return any(self._liveness.is_alive(driver.token) for driver in read_drivers(self._storage))

    def trials(self) -> Iterator[Garbage]:
        """What trials keep and need no more."""
        for folder in sorted(path for path in (self._storage / "trials").glob("*") if path.is_dir()):
            if self._liveness.is_held(folder):
                continue
            result = read_result(folder)
            if self._is_orphan(folder, result):
                yield _garbage(folder, "not complete, and no study in the tracking store has it", "trials")
                continue
            if result is not None and result.state is TrialState.COMPLETE:
                yield from self._states(folder, result)
            claims = (path for path in folder.glob(f"{CLAIM}*") if _age(path) > BEAT_SECONDS)
            yield from (_garbage(path, "its driver is gone", "claims") for path in claims)
            yield from _drafts(folder)

    def _is_orphan(self, folder: Path, result: TrialResult | None) -> bool:
        recorded = self._limits.recorded
        if recorded is None or (result is not None and result.state is TrialState.COMPLETE) or self._is_driven():
            return False
        return folder.name not in recorded and not any(s.waiting() or s.refused() for s in self._spools())

    def _spools(self) -> Iterator[Spool]:
        yield from (Spool(path) for path in sorted((self._storage / SPOOL).glob("*/*")) if path.is_dir())

    def _states(self, folder: Path, result: TrialResult) -> Iterator[Garbage]:
        best = folder / f"best-{result.best_epoch}.pt"
        for path in sorted(folder.glob("*.pt")):
            if path == best:
                if self._limits.best:
                    yield _garbage(path, "best weights of a complete trial (--best)", "weights")
            else:
                yield _garbage(path, "complete: nothing goes on from it", "states")

    def drivers(self) -> Iterator[Garbage]:
        """Traces of drivers that ended without saying goodbye."""
        folder = self._storage / DRIVERS
        gone = list(abandoned(self._storage))
        yield from (_garbage(path, "its process is gone", "drivers") for path in gone)
        known = {d.token for d in read_drivers(self._storage)} - {path.stem for path in gone}
        for path in sorted(folder.glob("*.stop")):
            if path.stem not in known:
                yield _garbage(path, "asks a driver that is gone to stop", "drivers")
        yield from _drafts(folder)

    def spools(self) -> Iterator[Garbage]:
        """Spools of dead drivers: empty ones, and with `spool` those that hold records."""
        for spool in self._spools():
            if not is_abandoned(spool, self._storage, liveness=self._liveness):
                continue
            count = len(spool.waiting()) + len(spool.refused())
            if count == 0:
                yield _garbage(spool.folder, "empty, and its driver is gone", "spools")
            elif self._limits.spool:
                yield _garbage(spool.folder, f"{count} records that MLflow does not have (--spool)", "spools")

    def code(self) -> Iterator[Garbage]:
        """Code frozen for drivers that are gone; while any lives, all of it stays."""
        if not self._is_driven():
            for folder in sorted((self._storage / "code").glob("*")):
                yield _garbage(folder, "no driver runs it", "code")

    def drafts(self) -> Iterator[Garbage]:
        """Databases of MLflow that were never whole."""
        yield from _drafts(self._storage)


def _drafts(folder: Path) -> Iterator[Garbage]:
    for path in sorted(folder.glob("*.tmp")):
        if _age(path) > DRAFT_SECONDS:
            yield _garbage(path, "half written by a process that is gone", "drafts")


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _garbage(path: Path, reason: str, group: str) -> Garbage:
    return Garbage(path, size_of(path), reason, group)
