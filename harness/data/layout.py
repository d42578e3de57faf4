"""Reading a dataset folder that may be misspelt, incomplete, damaged or hostile: every failure is a `DataError`."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import DataError

_BROKEN_PICKLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError),
    *(AttributeError, MemoryError, OverflowError, RecursionError),
)


def require_layout(root: Path, title: str, *, files: Sequence[str], folders: Sequence[str]) -> None:
    """Raise `DataError` unless `root` holds the files and folders; the message names what is missing and a near name.

    Args:
        root: Folder of the dataset.
        title: Name of the dataset.
        files: Paths under `root`.
        folders: Paths under `root`.
    """
    missing = [*(f for f in files if not (root / f).is_file()), *(f for f in folders if not (root / f).is_dir())]
    if not missing:
        return
    paths = [*files, *folders]
    inside = sorted(p for p in _entries(root) if all((p / path).exists() for path in paths))
    above = [p for p in [root.parent] if all((p / path).exists() for path in paths)]
    near = [*above, *inside, *_near(root / missing[0])]
    hint = f"did you mean {near[0]}?" if near else "give the folder that holds them"
    lacks = f"missing: {', '.join(missing)}" if root.is_dir() else "there is no such folder"
    raise DataError(f"{root}: a folder of {title} must hold {', '.join(paths)}; {lacks}; {hint}")


def field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """The value of `key` in a dict read from a file.

    Args:
        entry: What the file holds; must be a dict.
        key: Must be there.
        kind: Type or types of the value; bool is no int.
        where: Start of the message: file and entry.

    Raises:
        DataError: No dict, no such key, or a value of another type.
    """
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must be a dict, got {describe(entry)}")
    if key not in entry:
        raise DataError(f"{where}: must have the key {key!r}, got {sorted(map(str, entry))}")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise DataError(f"{where}: {key!r} must be {' or '.join(k.__name__ for k in kinds)}, got {describe(value)}")
    return value


def read_pixels(path: Path, what: str, *, mode: str | None) -> NDArray[Any]:
    """Decode an image file.

    Args:
        path: The file.
        what: What it is, for messages: `the image of sample 12/1`.
        mode: Pillow mode to convert to, for example `RGB`; None for the values as they are stored.

    Returns:
        `(H, W)` or `(H, W, channels)`.

    Raises:
        DataError: The file is missing (then its cause is a `FileNotFoundError`) or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode) if mode else image)
    except FileNotFoundError as error:
        raise DataError(f"{path}: {what} must exist, found no file") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: {what} cannot be decoded: {error}") from error


def describe(value: Any) -> str:
    """Type and beginning of a value, for messages."""
    return f"{type(value).__name__} {value!r:.40}" if isinstance(value, int | float | str) else type(value).__name__


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle made of builtin containers, strings, numbers and None; nothing in it can run code.

    Raises:
        DataError: The file is truncated or no pickle, or it asks for a class or function.
    """
    with path.open("rb") as file:
        reader = _PlainUnpickler(file, encoding="utf-8")
        reader.path = path
        try:
            return reader.load()
        except _BROKEN_PICKLE as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DataError(f"{path}: must be a complete pickle, got {reason}; copy the file again") from error


class _PlainUnpickler(pickle.Unpickler):
    path: Path

    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise DataError(
            f"{self.path}: must hold only lists, dicts, strings and numbers, got the global "
            f"'{module_name}.{global_name}'; do not load this file, get it from the dataset's authors"
        )


def _entries(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if p.is_dir()]
    except OSError:
        return []


def _near(path: Path) -> list[Path]:
    """Existing neighbours whose name is near that of the first part of `path` that does not exist."""
    first = path
    while not first.parent.exists() and first.parent != first:
        first = first.parent
    try:
        names = {p.name.lower(): p for p in first.parent.iterdir()}
    except OSError:
        return []
    return [names[n] for n in difflib.get_close_matches(first.name.lower(), names, n=1, cutoff=0.6)]
