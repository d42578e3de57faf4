"""A copy of a trial's states outside its folder: another file system or an object store.

Copying is the work of one thread beside training. A state that is saved while an earlier one still waits takes its
place, so training never waits and at most one state is behind. What goes wrong is a warning, since the trial's own
folder is whole; only the last copy matters, and `close` says whether it succeeded.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import fs

from harness.checkpoint import Progress, best_path, explain_full_storage, is_intact, outdated, place_of, state_path
from harness.errors import HarnessError

CLOSE_SECONDS = 600.0
"""Longest wait for the last copy."""
_CHUNK = 8 << 20
_LOG = logging.getLogger(__name__)


class _Copy(NamedTuple):
    folder: Path
    progress: Progress


class Mirror:
    """States of one trial at `<uri>/<trial>/`.

    Args:
        uri: `s3://bucket/path?region=...`, `gs://bucket/path`, `file:///path`, or whatever else `pyarrow.fs` opens;
            credentials come from the environment.
        trial: Name of the trial's folder there.
        keep: States to keep there.

    Raises:
        HarnessError: No such kind of storage.
    """

    def __init__(self, uri: str, trial: str, *, keep: int) -> None:
        try:
            self._files, path = fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, ValueError) as error:
            raise HarnessError(
                f"checkpoints.mirror must be a URI like s3://bucket/path or file:///path, got {uri!r}: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self._uri, self._root, self._keep = uri, f"{path.rstrip('/')}/{trial}", keep
        self._is_local = isinstance(self._files, fs.LocalFileSystem)
        self._there: set[str] = set()
        self._waiting: _Copy | None = None
        self._is_busy = self._is_closed = False
        self._failure: str | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def copy(self, folder: Path, progress: Progress) -> None:
        """Copy the state of that progress, and the best weights it names, as soon as the copy before is done."""
        with self._changed:
            self._waiting = _Copy(folder, progress)
            self._changed.notify_all()

    def close(self) -> str | None:
        """Wait for the last copy; what went wrong with it, or None."""
        with self._changed:
            done = self._changed.wait_for(lambda: not self._waiting and not self._is_busy, timeout=CLOSE_SECONDS)
            self._is_closed = True
            self._changed.notify_all()
        return self._failure if done else f"the last state was not copied to {self._uri} in {CLOSE_SECONDS:g} s"

    def fetch(self, folder: Path) -> bool:
        """Bring the newest intact state and its best weights into an empty folder; whether there is one.

        Raises:
            HarnessError: The storage refuses to be read.
            ConnectionError: It cannot be reached; beginning anew would lose what is there.
        """
        with self._explained(), explain_full_storage(folder):
            self._require_bucket()
            names = self._names()
            places = sorted((place, name) for name in names if (place := place_of(name)))
            for place, name in reversed(places):
                # the best weights a state names are the last ones up to its epoch, see `outdated`
                bests = [e for n in names if n.startswith("best-") and (e := _epoch_of(n)) <= place.epoch]
                wanted = ([best_path(folder, max(bests)).name] if bests else []) + [name]
                if all(self._get(wanted_name, folder) for wanted_name in wanted):
                    return True
                _LOG.warning("%s/%s is damaged; trying the state before", self._uri, name)
        return False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._waiting is None:
                    return
                job, self._waiting, self._is_busy = self._waiting, None, True
            failure = self._try(job)
            with self._changed:
                self._failure, self._is_busy = failure, False
                self._changed.notify_all()

    def _try(self, job: _Copy) -> str | None:
        try:
            self._put_all(job)
        except (OSError, pyarrow.ArrowException) as error:
            if isinstance(error, FileNotFoundError) and self._waiting:
                return None  # a newer state has taken the place of this one
            state = state_path(job.folder, job.progress).name
            failure = f"{state} was not copied to {self._uri}: {str(error).splitlines()[0]}"
            _LOG.warning("%s", failure)
            return failure
        return None

    def _put_all(self, job: _Copy) -> None:
        progress = job.progress
        if self._is_local:
            self._files.create_dir(self._root, recursive=True)
        if progress.best_epoch:
            best = best_path(job.folder, progress.best_epoch)
            if best.name not in self._there:
                self._put(best)
        state = state_path(job.folder, progress)
        self._put(state)
        last = place_of(state.name)
        assert last is not None
        for name in outdated(self._names(), last, best_epoch=progress.best_epoch, keep=self._keep):
            self._files.delete_file(f"{self._root}/{name}")
            self._there.discard(name)

    def _put(self, source: Path) -> None:
        """Upload a file; an object store shows it once it is whole, a file system gets a draft first."""
        target = f"{self._root}/{source.name}"
        draft = f"{target}.tmp" if self._is_local else target
        with source.open("rb") as file:
            try:
                with self._files.open_output_stream(draft) as out:
                    shutil.copyfileobj(file, out, _CHUNK)
            except BaseException:
                with suppress(OSError):
                    self._files.delete_file(draft)  # closing the stream has made a cut file of it
                raise
        if self._is_local:
            self._files.move(draft, target)
        self._there.add(source.name)

    def _get(self, name: str, folder: Path) -> bool:
        draft = folder / f"{name}.{os.getpid()}.tmp"
        try:
            with self._files.open_input_stream(f"{self._root}/{name}") as source, draft.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
            if not is_intact(draft):
                return False
            draft.replace(folder / name)
            return True
        finally:
            draft.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return [info.base_name for info in found if info.type is fs.FileType.File]

    def _require_bucket(self) -> None:
        """A listing does not tell a bucket that is missing from one that is empty."""
        bucket = self._root.partition("/")[0]
        if not self._is_local and self._files.get_file_info(bucket).type is fs.FileType.NotFound:
            raise HarnessError(f"checkpoints.mirror must be in a bucket that exists, {bucket!r} does not; create it")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = str(error).splitlines()[0]
            if "NETWORK_CONNECTION" in reason or "imeout" in reason or "imed out" in reason:
                raise ConnectionError(f"checkpoints.mirror {self._uri} could not be reached: {reason}") from error
            raise HarnessError(f"checkpoints.mirror must be readable, {self._uri} is not: {reason}") from error


def _epoch_of(name: str) -> int:
    return int(name.removeprefix("best-").removesuffix(".pt"))
