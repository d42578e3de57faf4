"""Variables of MATLAB 7.3 files as rasters, addressed as `<file>.mat/<variable>`.

The format is HDF5 behind a header of 512 bytes. MATLAB stores columns first, so an array H x W x C lies in the file as
C x W x H; GDAL's driver for HDF5 reads windows of it with rows and columns exchanged, which `Transposed` undoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError

_SUFFIX = ".mat"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PLACES = (512, 0)
"""Where the signature may lie: behind MATLAB's header, or without one."""
_END_ADDRESS = {0: 40, 1: 44, 2: 28, 3: 28}
"""Version of the superblock -> place of the file's length in it (HDF5 file format specification, section II.A)."""


def is_variable(path: Path) -> bool:
    """Whether a path addresses a variable of a MATLAB file."""
    return path.parent.suffix == _SUFFIX


def file_of(path: Path) -> Path:
    """The file on disk that holds a raster: the path itself, or the MATLAB file of a variable."""
    return path.parent if is_variable(path) else path


def subdataset(file: Path, variable: str) -> str:
    """GDAL's name of a variable."""
    return f'HDF5:"{file}"://{variable}'


def require_complete(file: Path) -> None:
    """Raise `DataError` unless a file is HDF5 and as long as it says: GDAL would print HDF5's own report and go on."""
    with file.open("rb") as raw:
        head = raw.read(_PLACES[0] + 64)
    start = next((place for place in _PLACES if head.startswith(_SIGNATURE, place)), None)
    if start is None or len(head) < start + 64:
        raise DataError(f"{file}: must be a complete MATLAB 7.3 file (HDF5), found another or a truncated one")
    version = head[start + len(_SIGNATURE)]
    if version not in _END_ADDRESS:
        raise DataError(f"{file}: must be a MATLAB 7.3 file (HDF5, superblock 0 to 3), found superblock {version}")
    first = start + _END_ADDRESS[version]
    expected, found = int.from_bytes(head[first : first + 8], "little"), file.stat().st_size
    if found < expected:
        raise DataError(
            f"{file}: must have {expected:,} bytes as its header says, found {found:,}; copy the file again"
        )


class Transposed:
    """What `harness/data/raster.py` asks of an open raster, with rows and columns exchanged.

    Args:
        source: The raster as GDAL opens it, without georeference.
    """

    crs = None
    bounds = None

    def __init__(self, source: Any) -> None:
        self._source = source
        self.height, self.width = int(source.width), int(source.height)
        self.count = int(source.count)
        self.dtypes = source.dtypes
        self.nodata = source.nodata
        self.transform = source.transform

    def read(self, bands: Sequence[int], *, window: Any) -> NDArray[Any]:
        """Pixels `(C, h, w)` of a window of the exchanged raster; raises what GDAL's own reading raises."""
        turned = type(window)(window.row_off, window.col_off, window.height, window.width)
        stored = self._source.read(bands, window=turned)  # (C, w, h)
        return np.ascontiguousarray(stored.transpose(0, 2, 1))

    def close(self) -> None:
        """Close the file."""
        self._source.close()
