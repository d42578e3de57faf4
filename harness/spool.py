"""Records of studies on disk, on their way to the tracking store: one small file each, in order, until delivered.

A driver writes to `<storage>/spool/<study>/<token>/`:

| file | content |
|---|---|
| `owner` | which process writes here, and which store the records are for |
| `<number>.json` | a record that has not been delivered yet; numbers give the order |
| `refused/<number>.json` | a record that the store will never take, with its reason |
| `lock` | held by whoever delivers, so that no two processes do |

A record holds all that is needed to deliver it, times included: any process can, however late, and twice if need be.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.claims import DRIVERS, STALE_SECONDS, Liveness, birth_of, this_host
from harness.errors import TrackingError
from harness.trial_folder import write_json

SPOOL = "spool"
OWNER = "owner"
REFUSED = "refused"


@dataclass(frozen=True)
class Owner:
    """The process that fills a spool."""

    study: str
    uri: str
    """The store that the records are for, without its password."""
    token: str
    """Of the driver, as in `harness.claims`; of this spool alone where there is no driver."""
    host: str
    pid: int
    born: str
    """Start time of the process, which tells it from a later one of the same number."""
    started: float
    """Seconds since 1970."""


class Spool:
    """A folder of records in the order in which they were written."""

    def __init__(self, folder: Path, owner: Owner | None = None) -> None:
        self.folder = folder
        self._owner = owner
        self._numbers = itertools.count(self._last_number() + 1)

    @classmethod
    def create(cls, storage: Path, *, study: str, uri: str, token: str | None = None) -> Spool:
        """The spool of this process.

        Args:
            storage: Folder of the study's runs.
            study: Its name.
            uri: The store that records are for, without its password.
            token: Of this process as a driver, if it is one.
        """
        pid = os.getpid()
        name = token or uuid.uuid4().hex[:12]
        owner = Owner(study, uri, name, this_host(), pid, birth_of(pid), time.time())
        spool = cls(storage / SPOOL / study / name, owner)
        with _writable(spool.folder):
            spool._announce()
        return spool

    def _announce(self) -> None:
        """Say whose folder this is, also after somebody has tidied it away."""
        if self._owner is not None and not (self.folder / OWNER).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / OWNER, asdict(self._owner))

    @property
    def owner(self) -> Owner | None:
        """Who fills it; None where that cannot be read."""
        try:
            return Owner(**json.loads((self.folder / OWNER).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a record behind all others.

        Raises:
            TrackingError: The folder is not writable, or the disk is full.
        """
        path = self.folder / f"{next(self._numbers):08d}.json"
        with _writable(self.folder):
            self._announce()
            write_json(path, record)

    def waiting(self) -> list[Path]:
        """Records that are not delivered, the oldest first."""
        return sorted(self.folder.glob("[0-9]*.json"))

    def refused(self) -> list[Path]:
        """Records that the store does not take, the oldest first."""
        return sorted((self.folder / REFUSED).glob("[0-9]*.json"))

    def refuse(self, path: Path, reason: str) -> None:
        """Set a record aside, with the reason why the store does not take it."""
        aside = path.parent / REFUSED
        aside.mkdir(exist_ok=True)
        write_json(aside / path.name, {"reason": reason, "record": read_record(path)})
        path.unlink()

    def ask_again(self) -> None:
        """Put the refused records back in their places."""
        for path in self.refused():
            value = json.loads(path.read_text(encoding="utf-8"))
            write_json(self.folder / path.name, value["record"])
            path.unlink()

    @contextlib.contextmanager
    def delivering(self) -> Iterator[bool]:
        """Be the one who delivers; False where another process is, on this machine or on another."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            yield _try_lock(file.fileno(), wait=False)

    def remove_if_empty(self) -> bool:
        """Remove the folder unless records are in it; whether it is gone."""
        if self.waiting() or self.refused():
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
        return True

    def _last_number(self) -> int:
        return max((int(p.stem) for p in (*self.waiting(), *self.refused())), default=0)


def read_record(path: Path) -> dict[str, Any]:
    """A record as it was added; one that a failing disk damaged reads as empty."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def reason_of(path: Path) -> str:
    """Why a record was refused."""
    return str(read_record(path).get("reason", "unknown"))


@contextlib.contextmanager
def one_creator(storage: Path) -> Iterator[None]:
    """Be the only process that looks for a run and creates it where there is none."""
    folder = storage / SPOOL
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        _try_lock(file.fileno(), wait=True)
        yield


def _try_lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file until it is closed; False where another process has it. A file system may have no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def spools(storage: Path) -> list[Spool]:
    """Every spool of a storage folder, the oldest first."""
    found = [Spool(path.parent) for path in (storage / SPOOL).glob(f"*/*/{OWNER}")]
    return sorted(found, key=lambda spool: getattr(spool.owner, "started", 0.0))  # its file may go meanwhile


def is_abandoned(spool: Spool, storage: Path, *, liveness: Liveness | None = None) -> bool:
    """Whether the process that filled a spool is gone.

    Args:
        spool: Whose owner is looked for.
        storage: Folder of the study's runs.
        liveness: What has been seen of drivers on other machines, which need to be watched; None looks once.
    """
    owner = spool.owner
    if owner is None or owner.host != this_host():
        return not (liveness or Liveness(storage)).is_alive(spool.folder.name)
    return birth_of(owner.pid) != owner.born


def wait_until_known(spool: Spool, storage: Path) -> bool:
    """Watch a driver on another machine until it shows life or has been silent for long; whether it is gone."""
    liveness = Liveness(storage)
    beat = storage / DRIVERS / f"{spool.folder.name}.json"
    first = _touched(beat)
    ends = time.monotonic() + STALE_SECONDS + 5
    while not is_abandoned(spool, storage, liveness=liveness):
        owner = spool.owner
        if owner is None or owner.host == this_host() or _touched(beat) != first or time.monotonic() > ends:
            return False
        time.sleep(1)
    return True


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrackingError(
            f"the spool folder must be writable, got {folder}: {error.strerror}; free the disk or make it "
            "writable, then start the same command again"
        ) from None
