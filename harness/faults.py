"""What kind of failure an exception is, which decides whether its trial is tried again."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from harness.errors import DivergedError
from harness.records import Fault

TRACEBACK = "traceback.txt"
"""Artifact of a run that failed."""

OUT_OF_MEMORY = ("out of memory", "running low on memory", "can't allocate memory", "cannot allocate memory")
"""What PyTorch says, in whatever type of exception, when a device or the host has no memory left."""

PEER_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "nccl communicator was aborted",
    "ncclremoteerror",
    "ncclsystemerror",
    "timed out waiting",
)
"""What gloo and NCCL say when another worker of the group is gone."""


def fault_of(error: BaseException) -> Fault:
    """The kind of an exception, from itself and from what caused it."""
    for found in _chain(error):
        if isinstance(found, DivergedError):
            return Fault.DIVERGED
        text = f"{type(found).__name__}: {found}".lower()
        if isinstance(found, MemoryError) or "outofmemoryerror" in text or _says(text, OUT_OF_MEMORY):
            return Fault.MEMORY
        if isinstance(found, ConnectionError) or (isinstance(found, RuntimeError) and _says(text, PEER_LOST)):
            return Fault.INFRASTRUCTURE
    return Fault.ERROR


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it."""
    return "".join(traceback.format_exception(error))


def cause(traceback_text: str) -> str:
    """The last line of a traceback, which says what happened."""
    lines = [line.strip() for line in traceback_text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _says(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
