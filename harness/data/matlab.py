"""MATLAB files below version 7.3 as rasters: unpacked once into the node's cache folder, then read in windows.

The format has no windows: one variable at a time is held in memory while it is unpacked, never during training. Files
of version 7.3 are HDF5, see `harness/data/hdf5.py`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from harness.data.base import digest
from harness.data.cache_folder import default_folder
from harness.data.raster import write_raster
from harness.errors import DataError


def unpack_matlab(path: Path, names: Sequence[str]) -> dict[str, Path]:
    """Write variables of a MATLAB file as GeoTIFFs, unless that was done before.

    Args:
        path: The file.
        names: Variables of shape H x W or H x W x C.

    Returns:
        Variable -> its raster, bands in the order of C.

    Raises:
        DataError: The file is missing, damaged, of version 7.3, or lacks a variable.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: must be a MATLAB file, found: {error.strerror}") from error
    identity = digest(str(path.resolve()).encode(), f"{state.st_size} {state.st_mtime_ns}".encode())
    folder = default_folder() / f"unpacked-{identity}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise DataError(f"{folder}: must belong to you; set HARNESS_CACHE to a folder of your own")
    found = {name: folder / f"{name}.tif" for name in names}
    for name, target in found.items():
        if not target.is_file():
            draft = target.with_suffix(f".{uuid.uuid4().hex}.tif")
            write_raster(draft, _variable(path, name))
            draft.replace(target)
    return found


def write_matlab(path: Path, variables: dict[str, Any]) -> None:
    """Write arrays as a MATLAB file of version 5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)
    # The header names the time of writing; equal configs must give equal bytes.
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(116))


def _variable(path: Path, name: str) -> Any:
    """An array `(C, H, W)` of a file."""
    try:
        loaded = scipy.io.loadmat(path, variable_names=[name])
    except NotImplementedError as error:
        raise DataError(
            f"{path}: must be a MATLAB file below version 7.3, found 7.3 (HDF5); save it in MATLAB with '-v7'"
        ) from error
    except (MatReadError, ValueError, TypeError, OSError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: must be a complete MATLAB file, found: {reason}; copy the file again") from error
    if name not in loaded:
        known = ", ".join(key for key, _, _ in scipy.io.whosmat(path))
        raise DataError(f"{path}: must hold the variable {name!r}, found {known}")
    array = np.asarray(loaded[name])
    if array.ndim not in (2, 3):
        raise DataError(f"{path}: {name!r} must be H x W or H x W x bands, found shape {array.shape}")
    return np.atleast_3d(array).transpose(2, 0, 1)
