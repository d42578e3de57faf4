"""How a driver is asked to stop: Ctrl-C, SIGTERM, or `harness stop` from elsewhere; once gently, twice at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

NOW = "now"
"""Content of a driver's stop file that means the second press."""


class StopSignal:
    """How urgently the driver should stop.

    Args:
        file: The driver's stop file, which others write; None to listen to signals only.
        tell: Shows a line to the user.
    """

    def __init__(self, file: Path | None = None, tell: Callable[[str], None] = print) -> None:
        self._file, self._tell = file, tell
        self._presses = 0

    @property
    def level(self) -> int:
        """0: go on. 1: start no more trials and let the running ones save their state. 2: end them."""
        return max(self._presses, self._asked())

    def _asked(self) -> int:
        if self._file is None:
            return 0
        try:
            return 2 if self._file.read_text(encoding="utf-8").strip() == NOW else 1
        except OSError:
            return 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Count Ctrl-C and SIGTERM instead of ending at once; a third one ends the process as usual."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._pressed) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pressed(self, _number: int, _frame: FrameType | None) -> None:
        self._presses += 1
        if self._presses == 1:
            self._tell("stopping: no more trials are started, the running ones save their state; again to end at once")
        elif self._presses == 2:
            self._tell("ending the running trials")
        else:
            raise KeyboardInterrupt
