"""What a trial ran on and from which code: versions, machine, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

VERSION = "harness.version."
"""How tags of versions begin; the package follows."""

PACKAGES = ("torch", "ray", "mlflow", "timm", "transformers", "numpy", "pandas", "pillow")
"""Packages whose versions become tags of a run."""


MAX_DIFF = 2**20
"""Bytes of a difference that are kept."""
MAX_NEW_FILES = 200
"""Files outside the commit whose text is kept with a difference."""


class Code(NamedTuple):
    """The code that runs."""

    commit: str
    """Full hash, or `unknown` outside a git checkout and without `HARNESS_GIT_COMMIT`."""
    dirty: bool
    """Whether files differ from that commit or are not in it, those that git ignores aside."""


def _command(*words: str, cwd: Path | None = None, good: tuple[int, ...] = (0,)) -> str | None:
    """What a program prints, run in this package's folder; None if it cannot be run or fails."""
    here = cwd or Path(__file__).resolve().parent
    try:
        done = subprocess.run(words, cwd=here, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode in good else None


def code_state() -> Code:
    """The commit this package was loaded from.

    A job submitted to a cluster runs from an upload without history: `HARNESS_GIT_COMMIT` carries the commit there.
    """
    is_ours = _command("git", "ls-files", "--error-unmatch", "__init__.py") is not None  # not a checkout around .venv
    commit = _command("git", "rev-parse", "HEAD") if is_ours else None
    if commit is None:
        return Code(os.environ.get("HARNESS_GIT_COMMIT", "unknown"), False)
    return Code(commit, bool(_command("git", "status", "--porcelain")))


def code_diff() -> str:
    """How the code differs from its commit, files that are not in it included; "" where it does not.

    Of a difference above 1 MiB the beginning.
    """
    root = _command("git", "rev-parse", "--show-toplevel")
    if root is None or not code_state().dirty:
        return ""
    top = Path(root)
    parts = [_command("git", "diff", "--no-ext-diff", "HEAD", cwd=top) or ""]
    listed = _command("git", "ls-files", "--others", "--exclude-standard", "-z", cwd=top) or ""
    names = [name for name in listed.split("\0") if name]
    for name in names[:MAX_NEW_FILES]:
        if (top / name).is_file() and (top / name).stat().st_size > MAX_DIFF:
            parts.append(f"new file {name}: {(top / name).stat().st_size} bytes, too large to keep")
        else:
            parts.append(_command("git", "diff", "--no-index", "--", os.devnull, name, cwd=top, good=(0, 1)) or "")
    if len(names) > MAX_NEW_FILES:
        parts.append(f"and {len(names) - MAX_NEW_FILES} more new files")
    text = "\n".join(part for part in parts if part) + "\n"
    if len(text.encode()) <= MAX_DIFF:
        return text
    return text.encode()[:MAX_DIFF].decode(errors="ignore") + f"\n(cut: {len(text.encode())} bytes in all)\n"


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
