"""Decoded samples on the node's disk: after the first access no trial of the node decodes an image again.

Three files per split and size, mapped into memory, so that all processes of a node share them through the page cache.
`samples`: the resized image in planes and the mask in bits, at a place that follows from the index. `whole`: decoded
images at full resolution, appended as they come, for augmentation that must see them before resizing. `index`: the end
of `whole`, a mark per sample that is there, then the place of each full-resolution image.

Any number of processes may fill a cache at once: they write equal bytes, and a sample's mark after the sample. One that
dies half-way leaves an unmarked sample, which the next one writes again. Marks are not trusted after a restart of the
machine, when pages may have reached the disk in another order: the name of a cache holds the machine's boot id.

Letters: `N` samples, `S` side of the resized image, `H W` native size.
"""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import features

from harness.data.base import digest
from harness.data.cache_folder import GIB, CacheFolder, Entry, NoRoomError, default_folder, exclusive, say_once

FORMAT = b"1"
"""Raised with every change of the files."""

WHOLE_SHARE = 0.5
"""Share of the budget that full-resolution images of one cache may take."""

_CHUNK = 64 * 2**20
_CLAIM = ".claim"
_TAIL_BYTES = 8
_PLACE = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
_HEIGHT_AT = 8
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Pixels(NamedTuple):
    """What a model sees of a record, before normalisation."""

    image: NDArray[np.uint8]
    """`(S, S, 3)`."""
    mask: NDArray[np.uint8]
    """`(S, S)` of 0 and 1."""


class CacheShape(NamedTuple):
    """How many samples of which size."""

    num_samples: int
    size: int

    @property
    def image_bytes(self) -> int:
        """Bytes of a resized image."""
        return 3 * self.size**2

    @property
    def sample_bytes(self) -> int:
        """Bytes of a resized image and its mask in bits."""
        return self.image_bytes + -(-(self.size**2) // 8)

    @property
    def places_at(self) -> int:
        """Where the table of full-resolution images begins in `index`: behind the tail and the marks."""
        return _TAIL_BYTES + -(-self.num_samples // 8) * 8

    @property
    def index_bytes(self) -> int:
        """Bytes of `index`."""
        return self.places_at + self.num_samples * _PLACE.itemsize


class SampleCache:
    """The cache of one split at one size, in use until it is no longer referenced; see `open_cache`.

    It survives `fork` and can be pickled: another process of the node opens the same files.
    """

    def __init__(self, folder: CacheFolder, name: str, shape: CacheShape) -> None:
        self._folder, self._name, self._shape = folder, name, shape
        sizes = {"samples": shape.num_samples * shape.sample_bytes, "whole": 0, "index": shape.index_bytes}
        self._entry: Entry = folder.open(name, sizes)
        weakref.finalize(self, os.close, self._entry.lock)
        self._files: dict[str, int] = {}
        for file in sizes:
            self._files[file] = os.open(self._entry.path / file, os.O_RDWR)
            weakref.finalize(self, os.close, self._files[file])
        index = self._map("index")
        self._samples, self._whole = self._map("samples"), self._map("whole")
        self._marks = index[_TAIL_BYTES : _TAIL_BYTES + shape.num_samples]
        self._places = index[shape.places_at :].view(_PLACE)
        self._is_full = self._is_whole_full = False

    def __reduce__(self) -> tuple[object, tuple[Path, int, str, CacheShape]]:
        return _reopen, (self._folder.path, self._folder.budget, self._name, self._shape)

    def read(self, index: int) -> Pixels | None:
        """The resized image and mask of a sample, read-only views where possible; None if they are not there yet."""
        if not self._marks[index]:
            return None
        start, size = index * self._shape.sample_bytes, self._shape.size
        planes = self._samples[start : start + self._shape.image_bytes].reshape(3, size, size)
        bits = self._samples[start + self._shape.image_bytes : start + self._shape.sample_bytes]
        return Pixels(planes.transpose(1, 2, 0), np.unpackbits(bits, count=size**2).reshape(size, size))

    def write(self, index: int, pixels: Pixels) -> None:
        """Keep a sample; several processes may do so at once with equal pixels."""
        if self._is_full:
            return
        planes = np.ascontiguousarray(pixels.image.transpose(2, 0, 1))  # (S, S, 3) -> (3, S, S)
        data = planes.tobytes() + np.packbits(pixels.mask).tobytes()
        try:
            _write(self._files["samples"], data, index * self._shape.sample_bytes)
            _write(self._files["index"], b"\1", _TAIL_BYTES + index)
        except OSError as error:
            self._is_full = True
            self._say("resized", error)

    def read_whole(self, index: int) -> NDArray[np.uint8] | None:
        """The image of a sample at full resolution `(H, W, 3)`, read-only; None if it is not there."""
        offset, height, width = self._places[index].item()
        if not height:
            return None
        end = offset + 3 * height * width
        if end > len(self._whole):
            self._whole = self._map("whole")
        return self._whole[offset:end].reshape(height, width, 3)

    def write_whole(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keep an image `(H, W, 3)` at full resolution, as long as there is room."""
        if self._is_whole_full:
            return
        try:
            offset = self._claim(image.nbytes)
            _write(self._files["whole"], image.tobytes(), offset)
            with exclusive(self._entry.path / _CLAIM):
                self._place(index, offset, image)
        except (OSError, NoRoomError) as error:
            self._is_whole_full = True
            self._say("full-resolution", error)

    def _claim(self, num_bytes: int) -> int:
        """Take the next bytes of `whole` for this process alone; where they begin."""
        index = self._files["index"]
        with exclusive(self._entry.path / _CLAIM):
            offset = int.from_bytes(os.pread(index, _TAIL_BYTES, 0), "little")
            end = offset + num_bytes
            if end > WHOLE_SHARE * self._folder.budget:
                raise NoRoomError(f"they may take {WHOLE_SHARE:.0%} of resources.cache_gib")
            if end > os.fstat(self._files["whole"]).st_size:
                self._folder.grow(self._entry, "whole", end + min(_CHUNK, self._folder.budget // 64))
            _write(index, end.to_bytes(_TAIL_BYTES, "little"), 0)
        return offset

    def _place(self, index: int, offset: int, image: NDArray[np.uint8]) -> None:
        """Enter an image that is written, unless another process was faster; its height, which says so, last."""
        if self._places[index]["height"]:
            return
        at = self._shape.places_at + index * _PLACE.itemsize
        _write(self._files["index"], np.array([(offset, 0, image.shape[1])], _PLACE).tobytes(), at)
        _write(self._files["index"], image.shape[0].to_bytes(4, "little"), at + _HEIGHT_AT)

    def _say(self, what: str, error: Exception) -> None:
        say_once(f"{self._entry.path}: no more {what} images are kept: {error}; the others are decoded every time")

    def _map(self, file: str) -> NDArray[np.uint8]:
        handle = self._files[file]
        if os.fstat(handle).st_size == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(handle, 0, access=mmap.ACCESS_READ), np.uint8)


def open_cache(content: str, shape: CacheShape, *, gib: float, folder: Path | None = None) -> SampleCache | None:
    """The node's cache of some samples; None where there is none, which is said once per process.

    Args:
        content: Stands for the files, split and size that are cached: equal only if the pixels are.
        shape: How many samples of which size.
        gib: What all caches of the node together may take, in GiB; 0 for no cache.
        folder: Where they are; `default_folder()` if not given.
    """
    if gib <= 0:
        return None
    path = folder or default_folder()
    boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
    decoder = f"{features.version('pil')} {features.version('jpg')}".encode()
    name = f"{content}-{digest(FORMAT, boot, decoder, repr(tuple(shape)).encode())}"
    return _reopen(path, int(gib * GIB), name, shape)


def _reopen(path: Path, budget: int, name: str, shape: CacheShape) -> SampleCache | None:
    try:
        return SampleCache(CacheFolder(path, budget), name, shape)
    except NoRoomError as error:
        hint = "raise resources.cache_gib, or point HARNESS_CACHE to a larger disk"
        say_once(f"{path}: no cache for {name}: it {error}; every epoch decodes its images; {hint}")
    except OSError as error:
        say_once(f"{path}: no cache for {name}: {error}; every epoch decodes its images; set HARNESS_CACHE")
    return None


def _write(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
