"""What a trial ran on and from which code: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("torch", "ray", "mlflow", "timm", "transformers", "numpy", "pandas", "pillow")
"""Packages whose versions become tags of a run."""


class Code(NamedTuple):
    """The code that runs."""

    commit: str
    """Full hash, or `unknown` outside a git checkout and without `HARNESS_GIT_COMMIT`."""
    dirty: bool
    """Whether files differ from that commit or are not in it, those that git ignores aside."""


def _command(*words: str) -> str | None:
    """What a program prints, run in this package's folder; None if it cannot be run or fails."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(words, cwd=here, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def code_state() -> Code:
    """The commit this package was loaded from.

    A job submitted to a cluster runs from an upload without history: `HARNESS_GIT_COMMIT` carries the commit there.
    """
    is_ours = _command("git", "ls-files", "--error-unmatch", "__init__.py") is not None  # not a checkout around .venv
    commit = _command("git", "rev-parse", "HEAD") if is_ours else None
    if commit is None:
        return Code(os.environ.get("HARNESS_GIT_COMMIT", "unknown"), False)
    return Code(commit, bool(_command("git", "status", "--porcelain")))


def versions() -> dict[str, str]:
    """Version of Python and of each of `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_environment() -> dict[str, Any]:
    """Everything about this process that could explain a difference between two runs; JSON-ready."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "packages": {d.metadata["Name"]: d.version for d in metadata.distributions()},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if gpus else None,
        "driver": _command("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpus else None,
        "gpus": gpus,
    }
