"""Tiles as pictures: the shown windows of a split, bands as colours, classes in the dataset's own.

A tile may be thousands of pixels wide, so what is shown is a part of it. Letters: `C` bands, `h w` window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.data.label_coding import paint
from harness.data.semantic import IGNORED, ClassInfo, ModalityInfo, SemanticDataset, SemanticTile, Window
from harness.error_picture import Colour
from harness.pictures import SIDE, Picture, chosen
from harness.sliding_window import Strip, tile_windows

SHOWN = "shown"
"""Column of measured rows with what was predicted in the tile's shown windows: place in `shown_windows` -> classes."""
WINDOW = 2 * SIDE
"""Largest side of a shown window in pixels."""
PRIMARIES_UM = (0.66, 0.56, 0.48)
"""Red, green and blue in micrometres."""
PERCENTILES = (2, 98)
"""Values of an image that become black and white."""
NO_LABEL: Colour = (0, 0, 0)

Predicted = dict[int, NDArray[np.uint8]]


def shown_windows(tiles: Sequence[SemanticTile]) -> list[tuple[int, Window]]:
    """The shown ones of the windows that cover a split, each with the place of its tile."""
    counts = np.cumsum([len(_windows(tile)) for tile in tiles])
    found = []
    for place in chosen(int(counts[-1])):
        number = int(np.searchsorted(counts, place, side="right"))
        windows = _windows(tiles[number])
        found.append((number, windows[place - int(counts[number])]))  # a negative place counts from the tile's end
    return found


def _windows(tile: SemanticTile) -> list[Window]:
    return tile_windows(tile.height, tile.width, window=WINDOW, stride=WINDOW)


def enter_strip(strip: Strip, kept: Predicted, windows: Sequence[tuple[int, Window]]) -> None:
    """Copy what finished rows of a tile show into its shown windows.

    Args:
        strip: Rows of the tile.
        kept: Place in `windows` -> classes `(h, w)`, for the windows of this tile; written to.
        windows: The shown windows of the split.
    """
    first, rows = strip
    for place, classes in kept.items():
        window = windows[place][1]
        begin, end = max(first, window.row), min(first + len(rows), window.row + window.height)
        if begin < end:
            columns = slice(window.column, window.column + window.width)
            classes[begin - window.row : end - window.row] = rows[begin - first : end - first, columns]


def shown_modality(modalities: Sequence[ModalityInfo]) -> ModalityInfo:
    """The first with three bands or more; the first of all where none has."""
    return next((m for m in modalities if len(m.bands) >= len(PRIMARIES_UM)), modalities[0])


def colour_bands(modality: ModalityInfo) -> tuple[int, ...]:
    """Places of the bands that are shown as red, green and blue.

    Those nearest to these colours; the first three where two colours would share a band, as in false-colour images, or
    where nothing is known of the wavelengths; the first band thrice, as grey, where there are fewer.
    """
    if len(modality.bands) < len(PRIMARIES_UM):
        return (0, 0, 0)
    centres = np.array(modality.wavelengths_um or ())
    nearest = tuple(int(np.abs(centres - wanted).argmin()) for wanted in PRIMARIES_UM) if len(centres) else ()
    return nearest if len(set(nearest)) == len(PRIMARIES_UM) else (0, 1, 2)


def colour_image(values: NDArray[np.float32], modality: ModalityInfo) -> NDArray[np.uint8]:
    """The image `(h, w, 3)` of values `(C, h, w)`, stretched between `PERCENTILES`; black where nothing is known."""
    bands = values[list(colour_bands(modality))].transpose(1, 2, 0)
    if not np.isfinite(bands).any():
        return np.zeros(bands.shape, np.uint8)
    low, high = np.nanpercentile(bands, PERCENTILES)
    scaled = np.nan_to_num((bands - low) / max(high - low, np.finfo(np.float32).tiny))
    stretched: NDArray[np.uint8] = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
    return stretched


def tile_picture(data: SemanticDataset, tile: SemanticTile, window: Window, predicted: NDArray[np.uint8]) -> Picture:
    """A window of a tile with the predicted classes `(h, w)`; pixels without label are black in the ground truth."""
    modality = shown_modality(data.modalities)
    values = data.read(tile, window, only=[modality.name])[modality.name]
    truth = data.read_label(tile, window)
    labelled = truth != IGNORED
    share = f"{100 * np.mean(truth[labelled] == predicted[labelled]):.1f} % right" if labelled.any() else "no label"
    return Picture(
        image=colour_image(values, modality),
        truth=_painted(truth, data.classes),
        prediction=_painted(predicted, data.classes),
        words=(tile.key, f"row {window.row}, column {window.column}", share),
        legend=_legend(truth, predicted, data.classes),
    )


def _painted(indices: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> NDArray[np.uint8]:
    return paint(indices, classes).transpose(1, 2, 0)


def _legend(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> dict[str, Colour]:
    """The classes that are there, the most frequent first, and what pixels without label look like."""
    counts = np.bincount(np.concatenate([truth.ravel(), predicted.ravel()]), minlength=IGNORED + 1)
    there = sorted((c for c in classes if counts[c.index]), key=lambda c: -counts[c.index])
    found = {c.name: c.colour for c in there}
    return {**found, "no label": NO_LABEL} if counts[IGNORED] else found
