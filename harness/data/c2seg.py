"""C2Seg: land cover across cities from hyperspectral, multispectral and radar images, 13 classes.

Hong et al., "Cross-city matters", Remote Sensing of Environment 2023 (https://doi.org/10.1016/j.rse.2023.113856).
`BW`: Beijing for training and Wuhan for the test, either as patches in the layout of the DF2RQ repository,
`BW/<city>/{hsi,msi,sar,label}/<city>_<r0>_<r1>_<c0>_<c1>_<modality>.tiff`, or, without a folder `BW`, as published:
`<city>.mat` with HSI (30 m), MSI and SAR (10 m) and `<city>_label.mat`, MATLAB 7.3; the hyperspectral pixels are then
repeated 3 x 3 and cut to size, and the `label` inside `<city>.mat`, which holds other codes, is not used. `AB`:
Augsburg and Berlin, one MATLAB file (below version 7.3) per city, `<city>_multimodal.mat` with HSI, MSI, SAR and label.
Label 0 is none, 1 to 13 are the classes. There is no validation part; the lower fifth of the source city is held out,
so that nothing is chosen on the target. A radar pixel that is NaN gets the mean of its four neighbours, as published;
hyperspectral reflectance stored as integers x 10,000 (median above 5) is divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.base import DATASETS, DatasetInfo, SyntheticConfig
from harness.data.label_coding import IntegerCodes
from harness.data.landscape import SceneJob, backscatter, decibels, draw_classes, levels_of, num_levels, scene_jobs
from harness.data.layout import require_layout
from harness.data.matlab import unpack_matlab, write_matlab
from harness.data.raster import raster_info, read_values, write_raster
from harness.data.raster_dataset import Layout, RasterDataset, Scene, Source
from harness.data.semantic import IGNORED, ClassInfo, Division, ModalityInfo, SemanticTile, Window
from harness.errors import DataError

CLASSES = tuple(
    ClassInfo(index, name, colour)
    for index, (name, colour) in enumerate(
        (
            *(("surface water", (0, 255, 255)), ("street", (255, 255, 255)), ("urban fabric", (255, 0, 0))),
            *(("industrial, commercial, transport", (221, 160, 221)), ("mine, dump, construction", (148, 0, 211))),
            *(("artificial vegetated", (255, 0, 255)), ("arable", (255, 255, 0)), ("permanent crops", (205, 133, 63))),
            *(("pastures", (189, 183, 107)), ("forests", (0, 255, 0)), ("shrub", (154, 205, 50))),
            *(("open space", (139, 69, 19)), ("inland wetlands", (72, 61, 139))),
        )
    )
)

_CITIES = {"BW": ("beijing", "wuhan"), "AB": ("augsburg", "berlin")}
_VARIABLES = {"hsi": "HSI", "msi": "MSI", "sar": "SAR"}
_HSI_FACTOR = 3  # 30 m and 10 m
_NUM_NAME_PARTS = 6
_NUM_SYNTHETIC_BANDS = 12


@dataclass(frozen=True)
class C2SegOptions:
    """What can be chosen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    cities: Literal["BW", "AB"] = "BW"
    """Beijing to Wuhan, or Augsburg to Berlin."""
    validation: Literal["held_out", "none"] = "held_out"
    """Whether the lower fifth of the source city becomes the validation split; `none` trains on all of it."""


class _Patch(NamedTuple):
    row: int
    stem: str


@DATASETS.register("c2seg")
class C2Seg(RasterDataset):
    """C2Seg opened at the folder that holds `BW` or its four MATLAB files, or the two MATLAB files of `AB`."""

    info: ClassVar[DatasetInfo] = DatasetInfo(
        title="C2Seg",
        paper="Hong et al., RSE 2023, https://doi.org/10.1016/j.rse.2023.113856",
        task="semantic",
        expected={},
    )
    Options: ClassVar[type[Any]] = C2SegOptions

    @staticmethod
    def division(options: Any) -> Division:
        """Which division into splits those options ask for."""
        source, target = _CITIES[options.cities]
        return Division(f"{source} to {target}, validation {options.validation}")

    def _find(self, root: Path) -> Layout:
        options: C2SegOptions = self.options
        source = _CITIES[options.cities][0]
        self._is_published_bw = options.cities == "BW" and _is_published_bw(root)
        self.uniform = options.cities == "BW" and not self._is_published_bw
        if self._is_published_bw:
            scenes = _published_bw(root)
        else:
            scenes = _patches(root, options) if self.uniform else _whole_cities(root)
        if not scenes:
            raise DataError(f"{root / 'BW'}: must hold patches like {source}/label/{source}_0_256_0_256_label.tiff")
        hsi = scenes[0].files["hsi"]
        header = raster_info(hsi)
        self._hsi_scale = np.float32(1)
        middle = Window(header.height // 4, header.width // 4, header.height // 2, header.width // 2)
        numbers = tuple(range(1, header.num_bands + 1))
        if np.nanmedian(read_values(hsi, middle._replace(height=1), numbers)) > 5:
            self._hsi_scale = np.float32(1e4)
        bands = tuple(f"h{number}" for number in numbers)
        sources = (
            Source(ModalityInfo("hsi", bands), numbers, header.num_bands, _HSI_FACTOR if self._is_published_bw else 1),
            Source(ModalityInfo("msi", ("m1", "m2", "m3", "m4")), (1, 2, 3, 4), 4),
            Source(ModalityInfo("sar", ("s1", "s2")), (1, 2), 2),
        )
        coding = IntegerCodes({c.index + 1: c.index for c in CLASSES}, ignored=frozenset({0}))
        return Layout(scenes, sources, CLASSES, coding)

    def _divide(self, tiles: Sequence[SemanticTile]) -> Sequence[SemanticTile]:
        # A city is one scene, as patches and as a whole.
        tiles = [replace(t, scene=t.key.partition("_")[0], by_columns=self._is_published_bw) for t in tiles]
        if self.uniform or self.options.validation == "none":
            return tiles
        train, test = tiles
        cut = train.height * 4 // 5
        held_out = replace(train, key=f"{train.key}/val", split="val", row=cut, height=train.height - cut)
        return [replace(train, key=f"{train.key}/train", height=cut), held_out, test]

    def _values(self, tile: SemanticTile, name: str, window: Window) -> NDArray[np.float32]:
        values = super()._values(tile, name, window)
        if name == "hsi":
            return values / self._hsi_scale
        if name != "sar" or not np.isnan(values).any():
            return values
        top, left = max(window.row - 1, 0), max(window.column - 1, 0)
        bottom = min(window.row + window.height + 1, tile.height)
        right = min(window.column + window.width + 1, tile.width)
        around = super()._values(tile, name, Window(top, left, bottom - top, right - left))
        rows, columns = window.row - top, window.column - left
        return neighbour_mean(around)[:, rows : rows + window.height, columns : columns + window.width]

    @staticmethod
    def write_synthetic(root: Path, config: SyntheticConfig) -> None:
        """Write patches of Beijing and Wuhan and small files of Augsburg and Berlin."""
        beijing, wuhan = _CITIES["BW"]
        size = config.size
        places = {beijing: 0, wuhan: 0}
        for job in scene_jobs(config):
            city = wuhan if job.split == "test" else beijing
            row = places[city] * size
            places[city] += 1
            stem = f"{city}_{row}_{row + size}_0_{size}"
            for name, values in _draw(job, size).items():
                write_raster(root / "BW" / city / name / f"{stem}_{name}.tiff", values)
        for number, city in enumerate(_CITIES["AB"]):
            rng = np.random.default_rng([config.seed, number])
            is_odd = config.quirks and number == 0
            drawn = _draw(SceneJob("train", number, rng, (0, 0), is_odd), size)
            arrays = {_VARIABLES.get(name, name): np.atleast_3d(v.transpose(1, 2, 0)) for name, v in drawn.items()}
            write_matlab(root / f"{city}_multimodal.mat", {**arrays, "label": drawn["label"][0]})


def neighbour_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace NaN in `(C, H, W)` by the mean of the finite pixels above, below, left and right; NaN without any."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    near = np.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]])
    finite = np.isfinite(near)
    count = finite.sum(axis=0)
    mean = np.where(finite, near, 0).sum(axis=0) / np.maximum(count, 1)
    return np.where(np.isnan(values) & (count > 0), mean, values).astype(np.float32)


def _draw(job: SceneJob, size: int) -> dict[str, NDArray[Any]]:
    """Arrays `(C, H, W)` of one scene."""
    classes = draw_classes(len(CLASSES), size, size, job.rng)
    levels = levels_of(classes, job.shift)
    num = num_levels(len(CLASSES))
    # Spectra do not depend on the scene: every level has a bump of reflectance at its own wavelength.
    centres, wavelengths = np.linspace(0, 1, num), np.linspace(0, 1, _NUM_SYNTHETIC_BANDS)
    spectra = 0.1 + 0.3 * np.exp(-(((wavelengths[:, None] - centres) / 0.15) ** 2))  # (bands, levels)
    hsi = spectra[:, levels.optical] + job.rng.normal(0, 0.02, (_NUM_SYNTHETIC_BANDS, size, size))
    radar = decibels(backscatter(levels.other, num, job.rng))
    labels = np.where(classes == IGNORED, 0, classes + 1).astype(np.uint8)
    sar = np.stack([radar, radar - 8])
    if job.is_odd:
        sar[1, size // 2, size // 3] = np.nan
        labels[:3, :3] = 99
    # The multispectral bands see the same spectra.
    msi = 1e4 * hsi[[1, 4, 7, 10]]
    return {"hsi": hsi.astype(np.float32), "msi": msi.astype(np.float32), "sar": sar, "label": labels[None]}


def _patches(root: Path, options: C2SegOptions) -> list[Scene]:
    source, target = _CITIES["BW"]
    base = root / "BW"
    kinds = (*_VARIABLES, "label")
    require_layout(
        base, "C2Seg-BW", files=(), folders=[f"{city}/{kind}" for city in (source, target) for kind in kinds]
    )
    found = {city: sorted(_patch(path) for path in (base / city / "label").glob("*.tiff")) for city in (source, target)}
    rows = sorted({patch.row for patch in found[source]})
    num_val = max(1, round(len(rows) / 5)) if options.validation == "held_out" and len(rows) > 1 else 0
    first_val = rows[-num_val] if num_val else np.inf
    return [
        Scene(
            key=patch.stem,
            split="test" if city == target else "val" if patch.row >= first_val else "train",
            files={kind: base / city / kind / f"{patch.stem}_{kind}.tiff" for kind in _VARIABLES},
            label=base / city / "label" / f"{patch.stem}_label.tiff",
        )
        for city, patches in found.items()
        for patch in patches
    ]


def _patch(path: Path) -> _Patch:
    parts = path.stem.split("_")
    if len(parts) != _NUM_NAME_PARTS or not all(part.isdigit() for part in parts[1:5]):
        raise DataError(f"{path}: a patch must be called <city>_<r0>_<r1>_<c0>_<c1>_label.tiff")
    return _Patch(int(parts[1]), "_".join(parts[:5]))


def _whole_cities(root: Path) -> list[Scene]:
    scenes = []
    for city, split in zip(_CITIES["AB"], ("train", "test"), strict=True):
        path = root / f"{city}_multimodal.mat"
        found = unpack_matlab(path, (*_VARIABLES.values(), "label"))
        files = {name: found[variable] for name, variable in _VARIABLES.items()}
        scenes.append(Scene(key=city, split=split, files=files, label=found["label"]))
    return scenes


def _is_published_bw(root: Path) -> bool:
    return not (root / "BW").is_dir() and any((root / name).is_file() for name in _published_names())


def _published_names() -> list[str]:
    return [f"{city}{suffix}.mat" for city in _CITIES["BW"] for suffix in ("", "_label")]


def _published_bw(root: Path) -> list[Scene]:
    require_layout(root, "C2Seg-BW", files=_published_names(), folders=())
    # Predictions are written like the first file, so one of full size.
    names = sorted(_VARIABLES, key=lambda name: name == "hsi")
    return [
        Scene(
            key=city,
            split=split,
            files={name: root / f"{city}.mat" / _VARIABLES[name] for name in names},
            label=root / f"{city}_label.mat" / "label",
        )
        for city, split in zip(_CITIES["BW"], ("train", "test"), strict=True)
    ]
