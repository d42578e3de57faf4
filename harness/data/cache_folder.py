"""One folder per node for files that can be made again, shared by processes and kept below a budget.

The folder holds entries: subfolders named `*.samples` with files of a size known when they are made; nothing else in it
is ever touched. A process that uses an entry holds a
shared lock on it, so that entries in use are never removed; the kernel drops the lock of a process that dies. Whatever
makes, grows or removes entries does so under one exclusive lock of the folder. Sizes are counted as promised, not as
written: files are sparse and fill up later.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

GIB = 2**30

FREE_SHARE = 0.1
"""Share of the place on the disk which nothing but the cache uses that stays free."""

_LOG = logging.getLogger(__name__)
_LOCK = ".lock"
_ENTRY = ".samples"
_GONE = ".samples-gone"


@functools.cache
def say_once(message: str) -> None:
    """Log a warning the first time this process has it."""
    _LOG.warning(message)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a file's lock against all other processes and threads; the file is made if it is missing."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def default_folder() -> Path:
    """`HARNESS_CACHE`, else a folder of this user in the system's folder for temporary files."""
    named = os.environ.get("HARNESS_CACHE")
    return Path(named).expanduser() if named else Path(tempfile.gettempdir()) / f"harness-cache-{os.getuid()}"


class NoRoomError(Exception):
    """An entry does not fit into the budget or onto the disk beside what is in use."""


class Entry(NamedTuple):
    """An entry in use by this process, until `lock` is closed."""

    path: Path
    lock: int
    """File descriptor that holds the shared lock."""


class CacheFolder:
    """The folder of a node's caches.

    Args:
        path: Made with mode 0700 if it is missing; one that belongs to somebody else, or that others may write to, is
            refused with a `PermissionError`: whoever writes there decides what is trained on.
        budget: Bytes that all entries together may have.
    """

    def __init__(self, path: Path, budget: int) -> None:
        self.path, self.budget = path, budget
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{path}: a cache folder must belong to this user and be writable by nobody else")

    def open(self, name: str, files: Mapping[str, int]) -> Entry:
        """Make an entry, or find it, and mark it as used now.

        Args:
            name: Equal names mean equal content.
            files: Name -> size in bytes that the file has at least; its bytes are 0 at first.

        Raises:
            NoRoomError: It does not fit, even without all entries that are not in use.
        """
        with exclusive(self.path / _LOCK):
            entry = self.path / (name + _ENTRY)
            sizes = {file: max(size, _size(entry / file)) for file, size in files.items()}
            if sum(sizes.values()) > self.budget:
                raise NoRoomError(f"needs {sum(sizes.values()) / GIB:.3g} of {self.budget / GIB:.3g} GiB")
            self._make_room(sum(sizes.values()) - sum(_size(entry / file) for file in files), keep=entry)
            entry.mkdir(mode=0o700, exist_ok=True)
            for file, size in sizes.items():
                _enlarge(entry / file, size)
            lock = os.open(entry / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(entry / _LOCK)
            return Entry(entry, lock)

    def grow(self, entry: Entry, file: str, size: int) -> None:
        """Make a file of an open entry at least `size` bytes long.

        Raises:
            NoRoomError: That does not fit.
        """
        with exclusive(self.path / _LOCK):
            more = size - _size(entry.path / file)
            if more > 0:
                self._make_room(more, keep=entry.path)
                _enlarge(entry.path / file, size)

    def used(self) -> int:
        """Bytes promised to all entries."""
        return sum(_promised(entry) for entry in self._entries())

    def _entries(self) -> list[Path]:
        """Entries, the one not used for the longest time first."""
        return sorted(self.path.glob(f"*{_ENTRY}"), key=_opened)

    def _make_room(self, needed: int, *, keep: Path) -> None:
        """Remove unused entries, oldest first, until `needed` bytes fit; none if that would not be enough."""
        for leftover in self.path.glob(f".*{_GONE}"):
            shutil.rmtree(leftover, ignore_errors=True)
        entries = self._entries()
        promised = {entry: _promised(entry) for entry in entries}
        unused = [entry for entry in entries if entry != keep and not _in_use(entry)]
        room = min(self.budget - sum(promised.values()), self._free(entries))
        if needed > 0 and needed - room > sum(promised[entry] for entry in unused):
            raise NoRoomError(f"needs {needed / GIB:.3g} GiB more than what is in use leaves")
        for entry in unused:
            if needed <= room:
                return
            gone = self.path / f".{uuid.uuid4().hex}{_GONE}"
            entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            room += promised[entry]

    def _free(self, entries: list[Path]) -> int:
        """Bytes that may still be promised: a share of what is free or ours on the disk, less what is promised."""
        free = shutil.disk_usage(self.path).free + sum(map(_written, entries))
        return int((1 - FREE_SHARE) * free) - sum(map(_promised, entries))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _promised(entry: Path) -> int:
    return sum(_size(file) for file in entry.iterdir())


def _written(entry: Path) -> int:
    return sum(min(s.st_blocks * 512, s.st_size) for s in (file.stat() for file in entry.iterdir()))


def _enlarge(path: Path, size: int) -> None:
    """Make a file `size` bytes long; what is added reads as 0 and takes no place on the disk until it is written."""
    with path.open("ab") as file:
        file.truncate(size)


def _opened(entry: Path) -> float:
    """When an entry was last opened; one whose maker died before it was complete counts as old."""
    lock = entry / _LOCK
    return lock.stat().st_mtime if lock.exists() else 0.0


def _in_use(entry: Path) -> bool:
    lock = os.open(entry / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
