"""Takes records from a spool to the store in the background, in order, however often the store goes away."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from harness.delivery import Delivery, RefusedError
from harness.results import is_away, shown
from harness.spool import Spool, read_record

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before a record is tried again."""
MAX_TRIES = 5
"""Times that a store which answers other questions may fail at one record before the record is set aside."""
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # its own retries would make a second run where only the answer was lost
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's settings, which it has for a process, while records are delivered."""


def say_on_stderr(line: str) -> None:
    """Print a line where warnings go; a live display on the terminal lets it pass above itself."""
    print(line, file=sys.stderr, flush=True)


class _Settings:
    """`SETTINGS` for as long as anybody delivers in this process."""

    _lock: ClassVar = threading.Lock()
    _users: ClassVar[int] = 0
    _kept: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @contextmanager
    def applied(cls) -> Iterator[None]:
        with cls._lock:
            if cls._users == 0:
                cls._kept = {name: os.environ[name] for name in SETTINGS if name in os.environ}
                os.environ.update(SETTINGS)
            cls._users += 1
        try:
            yield
        finally:
            with cls._lock:
                cls._users -= 1
                if cls._users == 0:
                    for name in SETTINGS:
                        os.environ.pop(name, None)
                    os.environ.update(cls._kept)


def hand_over(spool: Spool, path: Path, delivery: Delivery) -> str:
    """Deliver one record and remove it; the reason where it was set aside instead, else "".

    Raises:
        Exception: Whatever the store raises while it is away.
    """
    try:
        delivery.deliver(read_record(path))
    except RefusedError as error:
        spool.refuse(path, str(error))
        return str(error)
    path.unlink(missing_ok=True)
    return ""


def deliver_all(spool: Spool, delivery: Delivery) -> tuple[int, list[str]]:
    """Deliver what waits, here and now; how many records were, and why others were set aside.

    Raises:
        Exception: Whatever the store raises while it is away; what is not delivered waits on.
    """
    reasons = []
    paths = spool.waiting()
    with _Settings.applied():
        for path in paths:
            if reason := hand_over(spool, path, delivery):
                reasons.append(reason)
    return len(paths) - len(reasons), reasons


class Courier:
    """A thread that delivers a spool's records until it is stopped.

    Args:
        spool: Where records wait.
        delivery: Writes them to the store.
        say: Told in one line when the store goes away, when it is back, and what it refuses.
    """

    def __init__(self, spool: Spool, delivery: Delivery, *, say: Callable[[str], None] = say_on_stderr) -> None:
        self._spool, self._delivery, self._say = spool, delivery, say
        self._changed = threading.Condition()
        self._is_stopped = False
        self._has_news = True
        self._num_done = 0
        self._tries = 0
        self._is_away = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is a new record."""
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def flush(self, patience_s: float) -> int:
        """Wait until everything is delivered, or nothing has been for `patience_s`; how many records are left."""
        self.wake()
        with self._changed:
            seen, since = self._num_done, time.monotonic()
            while left := len(self._spool.waiting()):
                if self._num_done != seen:
                    seen, since = self._num_done, time.monotonic()
                if not self._thread.is_alive() or time.monotonic() - since > patience_s:
                    return left
                self._changed.wait(min(0.2, patience_s))
        return 0

    def stop(self) -> None:
        """End the thread after the record that it is delivering."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        with _Settings.applied():
            while not self._is_stopped:
                with self._spool.delivering() as is_mine:
                    if is_mine:
                        self._serve()
                self._sleep(1.0)  # another process took this one for dead and delivers

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._has_news or self._is_stopped)
                self._has_news = False
            for path in self._spool.waiting():
                if self._is_stopped or not self._deliver(path):
                    return
            if self._is_stopped:
                return

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped, timeout=seconds)

    def _deliver(self, path: Path) -> bool:
        """Deliver a record, however long that takes; False where the thread is to end."""
        self._tries = failures = 0
        while not self._is_stopped:
            try:
                reason = hand_over(self._spool, path, self._delivery)
            except Exception as error:  # noqa: BLE001 -- whatever happens to one record, the others must go on
                if not is_away(error, self._delivery.uri):
                    failures += 1
                if failures >= MAX_TRIES:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    self._spool.refuse(path, reason)
                else:
                    self._wait_for_store(error)
                    continue
            self._is_delivered(reason)
            return True
        return False

    def _is_delivered(self, reason: str) -> None:
        if reason:
            self._say(f"warning: the tracking store refused a record, kept in {self._spool.folder}/refused: {reason}")
        if self._is_away:
            self._say(f"the tracking store {shown(self._delivery.uri)} is back; what waited is being delivered")
        self._is_away = False
        with self._changed:
            self._num_done += 1
            self._changed.notify_all()

    def _wait_for_store(self, error: Exception) -> None:
        """Pause before the next try; from the second on, the user knows."""
        if self._tries == 1:
            first = (str(error).splitlines() or [type(error).__name__])[0].rpartition("got: ")[2][:200]
            self._say(
                f"warning: the tracking store {shown(self._delivery.uri)} is away; trials go on, records wait in "
                f"{self._spool.folder}; got: {first}"
            )
            self._is_away = True
        self._sleep(PAUSES[min(self._tries, len(PAUSES) - 1)])
        self._tries += 1
