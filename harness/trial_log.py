"""What a trial printed and how it failed, once or as it comes."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.trial_folder import read_result

POLL_SECONDS = 0.5
TAIL_BYTES = 64 * 2**20
"""More of a log than this is not printed at once."""


def log_path(folder: Path, rank: int) -> Path:
    """What the worker of that rank printed."""
    return folder / f"log-{rank}.txt"


def ranks(folder: Path) -> list[int]:
    """Workers that have printed something."""
    names = (path.stem.removeprefix("log-") for path in folder.glob("log-*.txt"))
    return sorted(int(name) for name in names if name.isdigit())


def read_log(folder: Path, rank: int) -> str:
    """The whole log of a worker, or its end where it is very long; "" where there is none."""
    path = log_path(folder, rank)
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")


def follow_log(folder: Path, rank: int, *, is_running: Callable[[], bool]) -> Iterator[str]:
    """Pieces of a worker's log as they are written, until the trial has ended.

    Args:
        folder: The trial's.
        rank: Of the worker.
        is_running: Whether somebody still works on the trial; asked between two looks at the log.
    """
    path, place = log_path(folder, rank), 0
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while True:
        last_look = read_result(folder) is not None or not is_running()  # asked first: the log is whole by then
        if path.exists():
            if path.stat().st_size < place:
                place = 0  # written anew by the next attempt
            with path.open("rb") as file:
                file.seek(place)
                piece = file.read()
            place += len(piece)
            if text := decoder.decode(piece):
                yield text
        if last_look:
            return
        time.sleep(POLL_SECONDS)
