"""A process between two trials: what the first one left is put back, and what cannot be is found.

A worker process that has imported PyTorch is worth keeping, but only while a trial in it cannot tell that another was
there before. `Baseline` remembers how the process was. After a trial it puts back what can be (environment, folder,
import path, random states, threads, PyTorch's switches, process groups, GPU memory) and names everything else that the
trial left; a process with something left is not used again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

PACKAGES = ("harness", "models", "reports")
"""Packages in whose modules a trial must not rebind a name."""

WATCHED = ("torch.nn.functional", "torch.optim", "torch.utils.data", "numpy.random", "random", "timm.layers.config")
"""Modules of others that are watched in the same way."""

PATIENCE_SECONDS = 2.0
"""For threads of the trial that are about to end."""

MIB = 2**20
MAX_GROWTH_MIB = 2048
"""Host memory that a process may gain over its life before it is replaced."""


class Baseline:
    """How this process was before a trial; make it where nothing of a trial has run yet."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        self._folder = Path.cwd()
        self._path = list(sys.path)
        self._threads = set(threading.enumerate())
        self._switches = _switches()
        self._filters = list(warnings.filters)
        self._signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
        root = logging.getLogger()
        self._logging = (root.level, list(root.handlers))
        self._modules = len(sys.modules)
        self._names = _names()
        gc.collect()
        gc.freeze()  # what is there now need not be searched after every trial
        self._memory_mib = _resident_mib()

    def learn(self) -> None:
        """Count what has been imported since as it is now; nothing of a trial may have run in it."""
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        new = {module: names for module, names in _names().items() if module not in self._names}
        if new:
            self._names |= new
            gc.collect()
            gc.freeze()
            self._memory_mib = _resident_mib()

    def restore(self) -> list[str]:
        """Put back what can be; what is left, one line each, empty for a process as good as new."""
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.clear()
        os.environ.update(self._environ)
        os.chdir(self._folder)
        sys.path[:] = self._path
        warnings.filters[:] = self._filters  # type: ignore[index]  # a list, typed as a sequence
        root = logging.getLogger()
        root.setLevel(self._logging[0])
        root.handlers[:] = self._logging[1]
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._signals.items():
                signal.signal(number, handler)
        _set_switches(self._switches)
        _reseed()
        gc.collect()
        return [*self._rebound(), *_left_threads(self._threads), *_left_processes(), *self._left_memory()]

    def _rebound(self) -> Iterator[str]:
        """Modules of ours whose names have other values; what a trial imported counts as it was after its import."""
        for module, names in _names().items():
            before = self._names.setdefault(module, names)
            changed = sorted(n for n in before.keys() | names.keys() if before.get(n) != names.get(n))
            changed = [n for n in changed if not isinstance(getattr(sys.modules[module], n, None), ModuleType)]
            if changed:
                yield f"{module} has other values of {', '.join(changed[:5])}"

    def _left_memory(self) -> Iterator[str]:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            if held > MIB:
                yield f"{held / MIB:.0f} MiB of GPU memory are still held"
        gained = _resident_mib() - self._memory_mib
        if gained > MAX_GROWTH_MIB:
            yield f"the process has grown by {gained:.0f} MiB"


@contextlib.contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append everything that this process prints, from Python or C, to a file."""
    saved = [os.dup(1), os.dup(2)]
    try:
        with path.open("a", encoding="utf-8") as file:
            _flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        _flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):
            stream.flush()


def _names() -> dict[str, dict[str, int]]:
    """Module -> name -> identity of its value. Numbers and strings count by value: equal ones are the same."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] in PACKAGES or module_name in WATCHED:
            names = vars(module).items()
            found[module_name] = {n: hash(v) if isinstance(v, int | float | str) else id(v) for n, v in names}
    return found


def _switches() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
    }


def _set_switches(value: dict[str, Any]) -> None:
    torch.set_num_threads(value["threads"])
    torch.set_default_dtype(value["dtype"])
    if any(value[name] != now for name, now in _switches().items() if name in ("deterministic", "warn_only")):
        torch.use_deterministic_algorithms(value["deterministic"], warn_only=value["warn_only"])  # imports Inductor
    cudnn: Any = torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark, cudnn.enabled = value["cudnn"]
    torch.set_float32_matmul_precision(value["precision"])
    torch.set_grad_enabled(value["grad"])
    torch.autograd.set_detect_anomaly(value["anomaly"])


def _reseed() -> None:
    """Random states as unpredictable as in a new process: a trial that forgets to seed must not look reproducible."""
    random.seed()
    np.random.seed()
    torch.seed()


def _left_threads(before: set[threading.Thread]) -> Iterator[str]:
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            yield f"thread {thread.name!r} is still running"


def _left_processes() -> Iterator[str]:
    for child in multiprocessing.active_children():
        child.join(PATIENCE_SECONDS)
        if child.is_alive():
            child.kill()
            yield f"process {child.name!r} was still running"


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
