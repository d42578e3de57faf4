"""Maps inside the variants of an ablation, stage by stage: what each part does to the features."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from harness.errors import DataError
from harness.records import Row, Table
from reports.artifacts import NotDrawn, Panel
from reports.drawing import Drawing, fitted, new_figure
from reports.evidence import Evidence
from reports.results import Results
from reports.style import FAINT, PAGE_WIDTH, SEQUENTIAL, house_style

SPLIT = "val"
MAX_COLUMNS = 8
"""Maps beside each other; more of them go into further bands of rows."""

LEFT, TITLE, GAP = 0.95, 0.2, 0.04
"""Inches: room for the variants' labels, for the points' names, between maps."""


@dataclass(frozen=True)
class VariantMaps:
    """The maps of one run."""

    row: Row
    run: Evidence
    keys: tuple[str, ...]
    maps: dict[str, NDArray[Any]]
    """Point -> `(B, H, W)`."""


def variant_maps(results: Results, table: Table) -> list[VariantMaps]:
    """The maps of each row's first complete replicate that has left some."""
    found = []
    for row in table.rows:
        for run in results.runs(row)[:1]:
            maps = dict(results.sources.artifacts.feature_maps(run.run_id))
            keys = tuple(str(k) for k in maps.pop("keys", ()))
            if keys and maps:
                found.append(VariantMaps(row, run, keys, maps))
    if not found:
        raise NotDrawn("no complete run has left feature maps; the models may declare none")
    return found


def point_names(found: Sequence[VariantMaps]) -> list[str]:
    """Names of all points, in the order of the forward pass; variants may lack some of them."""
    names: list[str] = []
    for variant in found:
        at = 0
        for name in variant.maps:
            if name not in names:
                names.insert(at, name)
            at = names.index(name) + 1
    return names


def arrange_bands(names: Sequence[str]) -> list[list[str]]:
    """Points beside each other, at most `MAX_COLUMNS`; those that differ in their last word only stay together."""
    bands: list[list[str]] = [[]]
    for _, group in groupby(names, key=lambda name: name.rpartition(" ")[0]):
        kind = list(group)
        if bands[-1] and len(bands[-1]) + len(kind) > MAX_COLUMNS:
            bands.append([])
        while kind:
            room = MAX_COLUMNS - len(bands[-1])
            bands[-1] += kind[:room]
            kind = kind[room:]
            bands += [[]] if kind else []
    return bands


def stretch(values: NDArray[Any]) -> NDArray[np.float64]:
    """Scale a map to 0..1 between its own 1st and 99th percentile; a constant map becomes 0."""
    x = values.astype(np.float64)
    low, high = np.percentile(x, [1, 99])
    scaled: NDArray[np.float64] = np.clip((x - low) / (high - low), 0, 1) if high > low else np.zeros_like(x)
    return scaled


def draw_feature_maps(results: Results, table: Table) -> Sequence[Drawing]:
    """A figure per sample: bands of rows, one per variant, with up to eight points beside each other."""
    found = variant_maps(results, table)
    keys = [key for key in found[0].keys if all(key in variant.keys for variant in found)]
    panels = _panels(results, keys)
    with house_style():
        return [
            Drawing(
                f"feature_maps_{table.name}_{number}",
                _draw(found, key, panels.get(key)),
                _data(found, key),
                _caption(results, key, panels.get(key)),
                tuple(v.run.run_id for v in found),
            )
            for number, key in enumerate(keys, start=1)
        ]


def _panels(results: Results, keys: Sequence[str]) -> dict[str, Panel]:
    """The samples' pictures; none where the dataset is not at hand, as the maps stand without them."""
    try:
        return dict(results.sources.panels.read(SPLIT, keys, size=results.plan.trials[0].data.get("image_size", 480)))
    except DataError:
        return {}


def _caption(results: Results, key: str, panel: Panel | None) -> str:
    sentence = f" (“{panel.sentence}”)" if panel else ""
    return (
        f"Feature maps of validation sample {key}{sentence} in study “{results.plan.study}”: mean absolute activation "
        "over channels, each map scaled to its own 1st to 99th percentile, bright is high. A row is a variant's first "
        "complete replicate, its best weights; a crossed field is a part that the variant does not have. Samples are "
        "those of the smallest SHA-256 of their keys, the same for every model."
    )


def _data(found: Sequence[VariantMaps], key: str) -> pd.DataFrame:
    lines = []
    for variant in found:
        index = variant.keys.index(key)
        for name, maps in variant.maps.items():
            x = maps[index].astype(np.float64)
            numbers = [float(x.min()), float(x.mean()), float(x.max())]
            lines.append([key, variant.row.label, variant.run.run_id, name, x.shape[0], x.shape[1], *numbers])
    columns = ["key", "variant", "run_id", "point", "height", "width", "min", "mean", "max"]
    return pd.DataFrame(lines, columns=columns)


def _draw(found: Sequence[VariantMaps], key: str, panel: Panel | None) -> Figure:
    names = point_names(found)
    bands = arrange_bands(names)
    columns = max(map(len, bands))
    side = min((PAGE_WIDTH - LEFT) / columns - GAP, 0.75)
    head = 1.0 if panel else 0.0
    labels = fitted([variant.row.label for variant in found], 15, lines=4)
    tall = max(side, labels.height)
    width = LEFT + max(columns * (side + GAP), 4.5)
    height = head + len(bands) * (TITLE + len(found) * (tall + GAP) + 0.08)
    figure = new_figure(width, height)
    sheet = _sheet(figure, width, height)
    if panel:
        _show(sheet, LEFT, 0.04, 0.85, panel.image)
        _show(sheet, LEFT + 0.9, 0.04, 0.85, panel.truth, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        sentence = "\n".join(textwrap.wrap(f"“{panel.sentence}”", int((width - LEFT - 1.9) * 17)))
        figure.text((LEFT + 1.85) / width, 1 - 0.05 / height, sentence, va="top", style="italic")
    top = head
    for band in bands:
        for column, name in enumerate(band):
            x = LEFT + column * (side + GAP) + side / 2
            figure.text(x / width, 1 - (top + TITLE - 0.04) / height, name, ha="center", va="bottom")
        top += TITLE
        for variant, label in zip(found, labels.texts, strict=True):
            beside: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": labels.size}
            figure.text((LEFT - 0.06) / width, 1 - (top + tall / 2) / height, label, **beside)
            for column, name in enumerate(band):
                x, y = LEFT + column * (side + GAP), top + (tall - side) / 2
                maps = variant.maps.get(name)
                if maps is None:
                    sheet.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor="#cccccc", hatch="xxx"))
                else:
                    values = stretch(maps[variant.keys.index(key)])
                    _show(sheet, x, y, side, values, cmap=SEQUENTIAL, vmin=0, vmax=1, interpolation="nearest")
            top += tall + GAP
        top += 0.08
    return figure


def _sheet(figure: Figure, width: float, height: float) -> Axes:
    """Axes over the whole figure, in inches from its upper left corner: one for each of hundreds of maps is slow."""
    figure.suppressComposite = True  # else the maps become one image at the resolution of a PNG, also in the PDF
    sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    sheet.set_autoscale_on(False)
    sheet.set_axis_off()
    return sheet


def _show(sheet: Axes, x: float, y: float, side: float, image: NDArray[Any], **how: Any) -> None:
    """Draw a picture as a square with a frame; `x` and `y` are its upper left corner."""
    sheet.imshow(image, extent=(x, x + side, y + side, y), aspect="auto", **how)
    sheet.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor=FAINT, linewidth=0.4))
