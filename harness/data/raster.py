"""Windowed reading and writing of rasters: never a whole scene, every failure one line that names the file.

Open files are kept per thread and process (a handle that a fork shares would move the parent's file position), at
most `MAX_OPEN` of them. GDAL's cache of decoded blocks is limited to 128 MB per process unless `GDAL_CACHEMAX` is set,
so the memory of a loader does not depend on the size of the scenes.

A path `<file>.mat/<variable>` is a variable of a MATLAB 7.3 file, see `harness/data/hdf5.py`.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.hdf5 import Transposed, file_of, is_variable, require_complete, subdataset
from harness.data.semantic import IGNORED, Bounds, Window
from harness.errors import DataError

os.environ.setdefault("GDAL_CACHEMAX", "128")  # before GDAL is loaded, which reads it once

import rasterio
import rasterio.windows
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine

MAX_OPEN = 64
"""Most files that a thread keeps open."""


class RasterInfo(NamedTuple):
    """What the header of a raster says."""

    height: int
    width: int
    num_bands: int
    dtype: str
    crs: str | None
    bounds: Bounds | None
    """None without a georeference."""


class Georeference(NamedTuple):
    """Where a raster lies: system, upper left corner, side of a pixel, all in units of the system."""

    crs: str
    left: float
    top: float
    pixel: float


class _Handles(threading.local):
    def __init__(self) -> None:
        self.process = os.getpid()
        self.files: OrderedDict[tuple[str, int, int], Any] = OrderedDict()


_HANDLES = _Handles()


def raster_info(path: Path) -> RasterInfo:
    """The header of a raster.

    Raises:
        DataError: The file is missing or no raster.
    """
    source = _open(path)
    placed = source.crs is not None
    return RasterInfo(
        height=int(source.height),
        width=int(source.width),
        num_bands=int(source.count),
        dtype=str(source.dtypes[0]),
        crs=source.crs.to_string() if placed else None,
        bounds=Bounds(*map(float, source.bounds)) if placed else None,
    )


def read_bands(path: Path, window: Window, bands: Sequence[int]) -> NDArray[Any]:
    """Pixels as they are stored, `(C, h, w)`.

    Args:
        path: The raster.
        window: Inside the raster.
        bands: Numbers of the bands, from 1, in the wanted order.

    Raises:
        DataError: The file is missing, damaged, truncated or smaller than the window.
    """
    return _read(path, _open(path), window, bands)


def _read(path: Path, source: Any, window: Window, bands: Sequence[int]) -> NDArray[Any]:
    _require_inside(path, window, source)
    part = rasterio.windows.Window(window.column, window.row, window.width, window.height)
    try:
        found: NDArray[Any] = source.read(list(bands), window=part)
    except (RasterioError, IndexError) as error:
        rows = f"rows {window.row} to {window.row + window.height - 1}"
        raise DataError(
            f"{path}: must hold {source.height}x{source.width} complete pixels (height x width), {rows} cannot be "
            f"read: {_reason(error)}; copy the file again"
        ) from error
    return found


def read_values(path: Path, window: Window, bands: Sequence[int]) -> NDArray[np.float32]:
    """Pixels `(C, h, w)` as float32, NaN where the file says that there is no data; see `read_bands`."""
    source = _open(path)
    stored = _read(path, source, window, bands)
    values: NDArray[np.float32] = stored.astype(np.float32)
    nodata = source.nodata
    if nodata is not None and not np.isnan(nodata):
        values[stored == nodata] = np.nan
    if np.issubdtype(stored.dtype, np.floating):
        values[np.isinf(values)] = np.nan
    return values


def write_raster(path: Path, values: NDArray[Any], *, at: Georeference | None = None) -> None:
    """Write a compressed GeoTIFF.

    Args:
        path: The file; its folder is made.
        values: `(C, H, W)` or `(H, W)`.
        at: Where it lies; None for a raster without georeference.
    """
    transform = None if at is None else Affine(at.pixel, 0, at.left, 0, -at.pixel, at.top)
    _write(path, values, crs=None if at is None else at.crs, transform=transform, nodata=None)


def write_prediction(path: Path, indices: NDArray[np.uint8], *, like: Path, window: Window | None = None) -> None:
    """Write class indices as a GeoTIFF that lies exactly where its input lies.

    Args:
        path: The file; its folder is made.
        indices: Class indices `(h, w)`, 255 for no prediction.
        like: The input raster.
        window: The part of the input that was predicted; None for all of it.

    Raises:
        DataError: The size of `indices` is not that of the input or window.
    """
    source = _open(like)
    part = window or Window(0, 0, source.height, source.width)
    _require_inside(like, part, source)
    if indices.shape != (part.height, part.width):
        raise DataError(
            f"{path}: a prediction for {like} must be {part.height}x{part.width} (height x width), got {indices.shape}"
        )
    transform = source.transform @ Affine.translation(part.column, part.row)
    placed = source.crs is not None or source.transform != Affine.identity()
    _write(path, indices, crs=source.crs, transform=transform if placed else None, nodata=IGNORED)


def _write(path: Path, values: NDArray[Any], *, crs: Any, transform: Any, nodata: int | None) -> None:
    stack = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "compress": "deflate", "crs": crs, "transform": transform, "nodata": nodata}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(
                path, "w", height=stack.shape[1], width=stack.shape[2], count=len(stack), dtype=stack.dtype, **profile
            ) as target:
                target.write(stack)
        except RasterioError as error:
            raise DataError(f"{path}: must be a place one can write to, got: {_reason(error)}") from error


def _open(path: Path) -> Any:
    """The open file; opened again after a fork or when the file has changed."""
    if _HANDLES.process != os.getpid():
        _HANDLES.process = os.getpid()
        _HANDLES.files = OrderedDict()
    try:
        state = file_of(path).stat()
    except OSError as error:
        raise DataError(f"{path}: must be a raster file, found: {error.strerror}") from error
    key = (str(path), state.st_mtime_ns, state.st_size)
    files = _HANDLES.files
    if key in files:
        files.move_to_end(key)
        return files[key]
    files[key] = _open_variable(path) if is_variable(path) else _open_raster(path)
    if len(files) > MAX_OPEN:
        files.popitem(last=False)[1].close()
    return files[key]


def _open_raster(path: Path) -> Any:
    try:
        return _opened(str(path))
    except RasterioError as error:
        raise DataError(f"{path}: must be a raster file, found: {_reason(error)}; copy the file again") from error


def _open_variable(path: Path) -> Transposed:
    file = file_of(path)
    require_complete(file)
    try:
        return Transposed(_opened(subdataset(file, path.name)))
    except RasterioError as error:
        raise DataError(f"{file}: {_why_not(file, path.name)}") from error


def _why_not(file: Path, variable: str) -> str:
    """Why a variable could not be opened: GDAL itself only says that there is no such file."""
    with rasterio.Env() as env:
        if "HDF5" not in env.drivers():
            return "is HDF5, which this build of GDAL cannot read; install rasterio from PyPI"
    complete = "must be a complete MATLAB 7.3 file (HDF5) with at least one matrix"
    try:
        with _opened(str(file), driver="HDF5") as source:
            # A file with a single matrix opens as that matrix and lists nothing.
            known = sorted(name.rpartition("/")[2] for name in source.subdatasets)
    except RasterioError:
        return f"{complete}, found another or a damaged file; copy the file again"
    return f"must hold the matrix {variable!r}, found {', '.join(known) or 'one of another name'}"


def _opened(name: str, driver: str | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(name, driver=driver)


def _require_inside(path: Path, window: Window, source: Any) -> None:
    inside = (
        min(window.row, window.column) >= 0
        and min(window.height, window.width) > 0
        and window.row + window.height <= source.height
        and window.column + window.width <= source.width
    )
    if not inside:
        raise DataError(
            f"{path}: the window must lie inside {source.height}x{source.width} pixels (height x width), got {window}"
        )


def _reason(error: Exception) -> str:
    """The first line of the most specific message: GDAL's own, where rasterio wraps it."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return (str(deepest) or type(deepest).__name__).splitlines()[0]
