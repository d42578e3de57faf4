"""Generated datasets on disk: made once, found again, never written over something else."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.data.base import DATASETS, SyntheticConfig, digest, read_options
from harness.errors import DataError
from harness.records import Trial

GENERATOR_VERSION = 1
"""Raised with every change of what a config generates; part of the identity of trials on synthetic data."""

MARKER = "synthetic.json"
"""File at the root of a generated dataset that says what it was generated from."""


def synthetic_fingerprint(name: str, config: SyntheticConfig) -> str:
    """Hash of what `config` generates, known without generating it.

    Args:
        name: Name of the dataset, for example `rrsis_d`.
        config: What is generated.

    Returns:
        16 hex digits.
    """
    return digest(json.dumps(_origin(name, config), sort_keys=True).encode())


def ensure_synthetic(name: str, root: Path, config: SyntheticConfig) -> Path:
    """Generate a dataset at `root` unless it is already there.

    Several processes may call this at once: each generates beside `root` and renames, the first one wins.

    Args:
        name: Name of the dataset, for example `rrsis_d`.
        root: Missing, an empty folder, or a dataset generated before from the same config.
        config: What to generate.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds something else.
    """
    target = Path(root).resolve()
    if _holds(target, name, config):
        return root
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{target.parent}: must be a folder one can write to, got: {error.strerror}") from error
    try:
        DATASETS.get(name).write_synthetic(draft, config)
        (draft / MARKER).write_text(json.dumps(_origin(name, config), indent=2) + "\n", encoding="utf-8")
        try:
            draft.rename(target)
        except OSError:
            if not _holds(target, name, config):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root


def open_dataset(name: str, *, root: Path, synthetic: SyntheticConfig | None, options: Any = None) -> Any:
    """Open a dataset by name, generating it first where asked.

    Args:
        name: Name of the dataset, for example `rrsis_d`.
        root: Its folder.
        synthetic: What to generate at `root` if it is not there yet; None for a dataset that must be there.
        options: Values of the dataset's `Options`, for a dataset that has them.

    Returns:
        A `ReferringDataset` or a `SemanticDataset`, as the dataset's task is.

    Raises:
        UnknownNameError: No dataset of that name.
        DataError: A folder that is not in its layout or not what `synthetic` asks for.
    """
    dataset: Any = DATASETS.get(name)
    if synthetic is not None:
        ensure_synthetic(name, root, synthetic)
    chosen = read_options(name, options or {})
    return dataset(root) if chosen is None else dataset(root, options=chosen)


def data_root(trial: Trial, storage: Path) -> Path:
    """The folder of the trial's dataset; generated data lives under the storage, one folder per content."""
    if trial.data_root:
        return Path(trial.data_root)
    return storage / "data" / f"{trial.data['name']}-{trial.data_fingerprint}"


def _origin(name: str, config: SyntheticConfig) -> dict[str, Any]:
    return {"dataset": name, "generator": GENERATOR_VERSION, "config": asdict(config)}


def _holds(root: Path, name: str, config: SyntheticConfig) -> bool:
    """Whether the dataset is there; False for a missing or empty folder, `DataError` for anything else."""
    if not root.exists():
        return False
    advice = "choose another folder or delete this one"
    if not root.is_dir():
        raise DataError(f"{root}: must be a folder to generate a dataset in, got a file; {advice}")
    try:
        found = json.loads((root / MARKER).read_bytes())
    except FileNotFoundError:
        names = sorted(p.name for p in root.iterdir())
        if not names:
            return False
        raise DataError(
            f"{root}: must be empty or hold a generated dataset ({MARKER}), got {', '.join(names[:3])}; {advice}"
        ) from None
    except ValueError as error:
        raise DataError(f"{root / MARKER}: must be valid JSON, got: {error}; {advice}") from error
    wanted = _origin(name, config)
    if found != wanted:
        raise DataError(
            f"{root}: must hold the dataset generated from {json.dumps(wanted)}, got {json.dumps(found)}; {advice}"
        )
    return True
