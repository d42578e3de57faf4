"""Who runs which trial: one driver at a time, whichever machine it is on and however the one before it ended.

A driver announces itself with `<storage>/drivers/<token>.json` and touches that file while it lives; a claim is a file
in the trial's folder that names the driver. A driver that is gone holds nothing: on this machine its process tells, for
another machine its file stays untouched. That is watched for `STALE_SECONDS` of this process's own monotonic clock, so
that no clock that jumps, here or on the file server, makes a living driver look dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
CLAIM = "claim.json"
DRIVERS = "drivers"


@dataclass(frozen=True)
class Driver:
    """A process that runs a study."""

    token: str
    """Unique to this process."""
    study: str
    host: str
    """Name, boot and process namespace: process numbers mean something only inside one of these."""
    pid: int
    born: str
    """Start time of the process, which tells it from a later one of the same number."""
    started: float
    """Seconds since 1970."""


def this_host() -> str:
    """This machine since it booted, seen from inside this container."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{platform.node()} {boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    return platform.node()


def birth_of(pid: int) -> str:
    """Start time of a process in ticks since boot; "" where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def read_drivers(storage: Path) -> list[Driver]:
    """Every driver that announced itself and has not said goodbye, alive or not."""
    found = []
    for path in sorted((storage / DRIVERS).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Driver(**json.loads(path.read_text(encoding="utf-8"))))
    return found


class Liveness:
    """Tells whether drivers live, from their processes and from how long their files have been untouched."""

    def __init__(self, storage: Path) -> None:
        self._folder = storage / DRIVERS
        self._seen: dict[str, tuple[float, float]] = {}

    def is_alive(self, token: str) -> bool:
        """Whether the driver of that token must be taken to be alive."""
        path = self._folder / f"{token}.json"
        try:
            touched = path.stat().st_mtime
            driver = Driver(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError):
            return True  # being written, or the file server is away for a moment
        if driver.host == this_host():
            return birth_of(driver.pid) == driver.born
        now = time.monotonic()
        if self._seen.get(token, (None, now))[0] != touched:
            self._seen[token] = (touched, now)
        return now - self._seen[token][1] < STALE_SECONDS

    def is_held(self, folder: Path) -> bool:
        """Whether a driver that must be taken to be alive has claimed a trial's folder."""
        token = claimed_by(folder)
        return token is not None and self.is_alive(token)


class Claims:
    """This process as a driver, and the trials it has claimed.

    Args:
        storage: Folder of the study's runs, seen by all drivers.
        study: What this process runs, for whoever asks who is driving.
    """

    def __init__(self, storage: Path, study: str) -> None:
        self._folder = storage / DRIVERS
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in abandoned(storage):
            path.unlink(missing_ok=True)
            path.with_suffix(".stop").unlink(missing_ok=True)
        pid = os.getpid()
        self.driver = Driver(uuid.uuid4().hex[:12], study, this_host(), pid, birth_of(pid), time.time())
        self._file = self._folder / f"{self.driver.token}.json"
        self._announce()
        self._liveness = Liveness(storage)
        self._held: set[Path] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name="claims", daemon=True).start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for folder in list(self._held):
            self.release(folder)
        for path in (self._file, self.stop_file):
            path.unlink(missing_ok=True)

    @property
    def stop_file(self) -> Path:
        """Whoever wants this driver to stop writes this file: `harness stop`."""
        return self._file.with_suffix(".stop")

    def take(self, folder: Path) -> bool:
        """Claim a trial's folder; False where another living driver has it."""
        claim = folder / CLAIM
        for _ in range(3):
            try:
                with claim.open("x", encoding="utf-8") as file:
                    file.write(json.dumps({"token": self.driver.token}))
            except FileExistsError:
                if self.owns(folder):
                    return True
                if not self._take_away(claim):
                    return False
                continue
            self._held.add(folder)
            return True
        return False

    def owns(self, folder: Path) -> bool:
        """Whether this driver still has the claim; a driver that slept for minutes may have lost it."""
        return claimed_by(folder) == self.driver.token

    def new_ticket(self, folder: Path) -> str:
        """Begin an attempt at a claimed trial; workers of an earlier attempt that still live have lost theirs."""
        ticket = uuid.uuid4().hex[:12]
        draft = folder / f"{CLAIM}.tmp"
        draft.write_text(json.dumps({"token": self.driver.token, "ticket": ticket}), encoding="utf-8")
        draft.replace(folder / CLAIM)
        return ticket

    def release(self, folder: Path) -> None:
        """Give a claim back, if it is still ours."""
        self._held.discard(folder)
        if self.owns(folder):
            (folder / CLAIM).unlink(missing_ok=True)

    def _take_away(self, claim: Path) -> bool:
        """Remove the claim of a dead driver; of several who try, one succeeds."""
        token = claimed_by(claim.parent)
        if token is not None and self._liveness.is_alive(token):
            return False
        if token is None and claim.exists() and time.time() - claim.stat().st_mtime < BEAT_SECONDS:
            return False  # being written
        aside = claim.with_name(f"{CLAIM}.{self.driver.token}")
        with contextlib.suppress(FileNotFoundError):
            claim.rename(aside)
            if _read(aside, "token") != token:  # somebody was faster, and this is the new claim: give it back
                with contextlib.suppress(FileExistsError):
                    os.link(aside, claim)
            aside.unlink(missing_ok=True)
        return True

    def _announce(self) -> None:
        draft = self._file.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self.driver)), encoding="utf-8")
        draft.replace(self._file)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the file server may come back
                if self._file.exists():
                    os.utime(self._file)
                elif not self._closed.is_set():
                    self._announce()


def claimed_by(folder: Path) -> str | None:
    """Token of the driver that has claimed a trial's folder; None where nobody has."""
    return _read(folder / CLAIM, "token")


def ticket_of(folder: Path) -> str | None:
    """Ticket of the attempt that may write into a trial's folder; None where there is none."""
    return _read(folder / CLAIM, "ticket")


def _read(path: Path, name: str) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError):
        return None


def abandoned(storage: Path) -> Iterator[Path]:
    """Files of drivers that are gone, for `harness gc`."""
    liveness = Liveness(storage)
    for driver in read_drivers(storage):
        if driver.host == this_host() and not liveness.is_alive(driver.token):
            yield storage / DRIVERS / f"{driver.token}.json"
