"""Weights and everything else that a trial needs to go on where it stopped, on disk, never half written.

A trial's folder holds `state-<epoch>-<step>.pt` (model, optimizer, counters after that many epochs and steps), the
last few of them, and `best-<epoch>.pt` (weights only). Best weights are written before the state that names them and
stay as long as a kept state may name them. A state that is damaged, or whose best weights are, is passed over for the
one before. Random state needs no storing: every draw is derived from seed, epoch and step.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from harness.errors import TrialError
from harness.faults import fault_of
from harness.records import Fault
from harness.trial_folder import STATE

_LOG = logging.getLogger(__name__)
_BEST = re.compile(r"best-(\d+)\.pt")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OverflowError, struct.error, zlib.error)
"""What reading a damaged archive raises; `OSError` is not among them, for storage that is away damages nothing."""
_FOREIGN = (pickle.UnpicklingError, KeyError, TypeError)
"""What reading an archive raises that is not a state of ours."""


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    epoch: int = 0
    """Epochs done and evaluated."""
    step: int = 0
    """Optimizer steps done."""
    best_epoch: int = 0
    """Epoch with the best validation score, from 1; 0 before the first."""
    best_score: float = float("-inf")
    """That score."""
    seconds: float = 0.0
    """Training time so far, over all starts."""
    summed: tuple[float, ...] = ()
    """Each worker's sum of the losses of the unfinished epoch; empty between epochs."""
    first_losses: tuple[float, ...] = ()
    """Losses of the first steps, see `harness.watch`."""
    exploded: int = 0
    """Last steps in a row whose loss was too large."""


class Place(NamedTuple):
    """Where in training a state is from; later ones are larger."""

    step: int
    epoch: int


class Loaded(NamedTuple):
    """A state to go on from, on the CPU."""

    states: dict[str, Any]
    progress: Progress


def state_path(folder: Path, progress: Progress) -> Path:
    """Where the state of that progress is."""
    return folder / f"state-{progress.epoch}-{progress.step}.pt"


def best_path(folder: Path, epoch: int) -> Path:
    """Where the best weights of that epoch are."""
    return folder / f"best-{epoch}.pt"


def place_of(name: str) -> Place | None:
    """Where in training the state of that file name is from; None for another file."""
    found = STATE.fullmatch(name)
    return Place(int(found[2]), int(found[1])) if found else None


def outdated(names: Iterable[str], last: Place, *, best_epoch: int, keep: int) -> list[str]:
    """Files that need not be kept once the state `last` is written.

    The best epoch that a state names is the last one up to its own that has best weights. What is later than `last` is
    from a training that was given up, and stale.

    Args:
        names: File names of a trial's folder; what is neither state nor best weights is never outdated.
        last: The newest state.
        best_epoch: What it names.
        keep: States to keep.
    """
    states = {name: place for name in names if (place := place_of(name))}
    bests = {name: int(found[1]) for name in names if (found := _BEST.fullmatch(name))}
    kept = sorted(place for place in states.values() if place <= last)[-keep:]
    known = sorted(epoch for epoch in bests.values() if epoch <= best_epoch)
    named = {best_epoch} | {max((e for e in known if e <= place.epoch), default=0) for place in kept}
    return [n for n, place in states.items() if place not in kept] + [n for n, e in bests.items() if e not in named]


@contextmanager
def explain_full_storage(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one line that says what to do.

    Raises:
        TrialError: Instead of the `OSError`, in whatever it is wrapped.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = _storage_error(error)
        if code in _NO_SPACE:
            raise TrialError(
                f"the trial's files must fit into {folder}, no space is left there; free some, then run the same "
                f"command again"
            ) from error
        if code in _NOT_WRITABLE:
            raise TrialError(
                f"the trial's folder {folder} must be writable, it is not ({os.strerror(code)}); make it so or give "
                f"another --storage, then run the same command again"
            ) from error
        raise


def _storage_error(error: BaseException) -> int:
    """Number of the first `OSError` behind an error, which torch hides behind its own; 0 without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            return seen.errno
        seen = seen.__cause__ or seen.__context__
    return 0


def save_atomic(value: Any, path: Path) -> None:
    """`torch.save` that leaves either the old file or the whole new one, on the disk itself, and no draft."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with explain_full_storage(path.parent):
            with draft.open("wb") as file:
                torch.save(value, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems have no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def clear_drafts(folder: Path) -> None:
    """Remove what a killed process left half written; call before the folder's trial goes on."""
    for draft in folder.glob("*.pt.*.tmp"):
        draft.unlink(missing_ok=True)


def save_best(folder: Path, model: nn.Module, epoch: int) -> None:
    """Write the weights of the best epoch so far; older ones stay until `save_state`."""
    save_atomic(model.state_dict(), best_path(folder, epoch))


def save_state(folder: Path, states: dict[str, Any], progress: Progress, *, keep: int) -> Path:
    """Write the state to continue from, then remove what is outdated.

    Args:
        folder: The trial's.
        states: `model` and `optimizer`.
        progress: Names the state.
        keep: States to keep, with this one.
    """
    path = state_path(folder, progress)
    save_atomic({**states, "progress": asdict(progress)}, path)
    names = [found.name for found in folder.iterdir()]
    last = Place(progress.step, progress.epoch)
    for name in outdated(names, last, best_epoch=progress.best_epoch, keep=keep):
        (folder / name).unlink(missing_ok=True)
    return path


def is_intact(path: Path) -> bool:
    """Whether a file written by `save_atomic` is as it was written; torch itself does not check its sums."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (FileNotFoundError, *_DAMAGED):
        return False
    except OSError as error:
        if error.errno == errno.EINVAL:  # damage that names a place before the file's beginning
            return False
        raise


def load_state(folder: Path) -> Loaded | None:
    """The newest state that can be continued from, or None where there is none.

    What is damaged or later than that state is removed: it would be taken for newer than what comes next.
    """
    places = sorted((place, path) for path in folder.iterdir() if (place := place_of(path.name)))
    found = None
    while places and found is None:
        _, path = places.pop()
        found = _load_intact(path)
        if found is None:
            _LOG.warning("%s is damaged or its best weights are; going on from the state before", path)
            path.unlink(missing_ok=True)
    best_epoch = found.progress.best_epoch if found else 0
    for path in folder.iterdir():
        if (best := _BEST.fullmatch(path.name)) and int(best[1]) > best_epoch:
            path.unlink(missing_ok=True)
    return found


def _load_intact(path: Path) -> Loaded | None:
    if not is_intact(path):
        return None
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
        values: dict[str, Any] = states.pop("progress")
        progress = Progress(**values)
    except (*_DAMAGED, *_FOREIGN) as error:
        if fault_of(error) is Fault.MEMORY:
            raise
        return None
    if progress.best_epoch and not is_intact(best_path(path.parent, progress.best_epoch)):
        return None
    return Loaded(states, progress)


def load_best(folder: Path, epoch: int) -> dict[str, Any]:
    """The weights of the best epoch, on the CPU."""
    states: dict[str, Any] = torch.load(best_path(folder, epoch), map_location="cpu", weights_only=True)
    return states
