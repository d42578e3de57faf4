"""Predictions of all variants on the same samples, chosen by a rule that looks at every sample: nothing is hand-picked.

Shapes: `S S` a mask, `P P` its enlarged picture.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from harness.error_picture import FALSE_ALARM, HIT, MISS, Colour, Mask, error_picture
from harness.errors import DataError
from harness.records import Row, Table
from reports.artifacts import NotDrawn, Panel
from reports.captions import split_label
from reports.drawing import Drawing, fitted, new_figure
from reports.evidence import Evidence
from reports.results import Results
from reports.style import FAINT, PAGE_WIDTH, house_style

GAIN, MEDIAN, LOSS = "largest gain", "median gain", "smallest gain"


class Choice(NamedTuple):
    """A sample and why it is shown."""

    rule: str
    key: str
    gain: float


@dataclass(frozen=True)
class Shown:
    """A variant's prediction on a sample."""

    row: Row
    run: Evidence
    mask: Mask
    """`(S, S)`."""


def choose_samples(gains: Mapping[str, float]) -> list[Choice]:
    """The samples of largest, median and smallest gain, each once; equal gains are ordered by key.

    Args:
        gains: Key -> IoU of the reference minus the mean IoU of the variants compared with it.

    Returns:
        Three choices, fewer where there are fewer samples. Of an even number of samples the median is the lower one.
    """
    order = sorted(gains, key=lambda key: (gains[key], key))
    if not order:
        return []
    ranked = {GAIN: order[-1], LOSS: order[0], MEDIAN: order[(len(order) - 1) // 2]}
    kept: dict[str, str] = {}
    for rule, key in ranked.items():
        if key not in kept.values():
            kept[rule] = key
    return [Choice(rule, kept[rule], gains[kept[rule]]) for rule in (GAIN, MEDIAN, LOSS) if rule in kept]


def mean_ious(results: Results, row: Row, split: str) -> pd.Series[float] | None:
    """Key -> mean IoU over the complete replicates of a row; None where none has left its samples."""
    found = [results.samples.ious(run, split) for run in results.runs(row)]
    kept = [ious for ious in found if ious is not None]
    return pd.concat(kept, axis=1, join="inner").mean(axis=1) if kept else None


def sample_gains(results: Results, table: Table, reference: Row) -> dict[str, float]:
    """Key -> mean IoU of the reference minus the mean over the other rows of their mean IoU.

    Raises:
        NotDrawn: The reference or every other row lacks per-sample results.
    """
    split = results.plan.deciding_split(table)
    ours = mean_ious(results, reference, split)
    others = [mean_ious(results, row, split) for row in table.rows if row.variant != reference.variant]
    kept = [ious for ious in others if ious is not None]
    if ours is None or not kept:
        raise NotDrawn("it takes per-sample results of the reference and of another row")
    joined = pd.concat([ours, *kept], axis=1, join="inner")
    gains = joined.iloc[:, 0] - joined.iloc[:, 1:].mean(axis=1)
    return {str(key): float(gain) for key, gain in gains.items()}


def mask_iou(truth: Mask, predicted: Mask) -> float:
    """IoU of two masks; 0 where both are empty."""
    union = int((truth | predicted).sum())
    return int((truth & predicted).sum()) / union if union else 0.0


def draw_qualitative(results: Results, table: Table) -> Sequence[Drawing]:
    """A row per chosen sample: image, ground truth, and every variant that has kept its masks."""
    reference = results.plan.reference(table)
    if reference is None:
        raise NotDrawn("no table trains the reference, so no gain can be computed")
    rows = [*table.rows] if any(row.is_reference for row in table.rows) else [*table.rows, reference]
    choices = choose_samples(sample_gains(results, table, reference))
    shown = shown_predictions(results, rows, choices, results.plan.deciding_split(table))
    panels = _panels(results, results.plan.deciding_split(table), choices, shown)
    with house_style():
        figure = _draw(choices, shown, panels)
    runs = tuple(dict.fromkeys(s.run.run_id for of in shown.values() for s in of))
    data = _data(choices, shown, panels)
    return [Drawing(f"qualitative_{table.name}", figure, data, _caption(results, table, reference), runs)]


def shown_predictions(
    results: Results, rows: Sequence[Row], choices: Sequence[Choice], split: str
) -> dict[str, list[Shown]]:
    """Key -> predictions of each row's first complete replicate."""
    found: dict[str, list[Shown]] = {choice.key: [] for choice in choices}
    for row in rows:
        for run in results.runs(row)[:1]:
            masks = results.sources.artifacts.masks(run.run_id, split, list(found))
            for key, mask in masks.items():
                found[key].append(Shown(row, run, mask))
    if not all(found.values()):
        raise NotDrawn("no complete run has kept its predicted masks")
    return found


def _panels(
    results: Results, split: str, choices: Sequence[Choice], shown: Mapping[str, Sequence[Shown]]
) -> dict[tuple[str, int], Panel]:
    """(key, side) -> panel, for every size of mask."""
    sizes = {len(s.mask) for of in shown.values() for s in of}
    keys = [choice.key for choice in choices]
    try:
        read = {size: results.sources.panels.read(split, keys, size=size) for size in sizes}
    except DataError as error:
        raise NotDrawn(f"the images are not at hand: {error}") from None
    return {(key, size): panel for size, found in read.items() for key, panel in found.items()}


def _caption(results: Results, table: Table, reference: Row) -> str:
    split = split_label(results.plan.deciding_split(table))
    return (
        f"Predictions on the same {split} samples, chosen by rule from all of them: the "
        f"gain of a sample is the IoU of “{reference.label}” minus the mean IoU of the other rows, each averaged over "
        f"replicates; shown are the samples of largest, median and smallest gain. Masks and the IoU below them are "
        "those of each variant's first complete replicate. Light: hit; striped: false alarm; dark: miss."
    )


def _data(
    choices: Sequence[Choice], shown: Mapping[str, Sequence[Shown]], panels: Mapping[tuple[str, int], Panel]
) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    for choice in choices:
        for s in shown[choice.key]:
            panel = panels[choice.key, len(s.mask)]
            lines.append(
                {
                    "rule": choice.rule,
                    "key": choice.key,
                    "gain": choice.gain,
                    "sentence": panel.sentence,
                    "variant": s.row.label,
                    "replicate": s.run.replicate,
                    "run_id": s.run.run_id,
                    "intersection": int((panel.truth & s.mask).sum()),
                    "union": int((panel.truth | s.mask).sum()),
                    "iou": mask_iou(panel.truth, s.mask),
                }
            )
    return pd.DataFrame(lines)


class _Grid:
    """Places pictures by inches from the top left corner."""

    LEFT, TOP, BOTTOM, GAP, TEXT = 0.22, 0.42, 0.26, 0.05, 0.36

    def __init__(self, *, num_rows: int, heads: Sequence[str]) -> None:
        self.side = min((PAGE_WIDTH - self.LEFT) / len(heads) - self.GAP, 1.5)
        self.heads = fitted(heads, max(8, int(self.side * 17)), lines=3)
        self.head = max(self.TOP, self.heads.height + 0.05)
        width = self.LEFT + len(heads) * (self.side + self.GAP)
        height = self.head + num_rows * (self.side + self.TEXT) + self.BOTTOM
        self.figure: Figure = new_figure(width, height)
        self._width, self._height = width, height

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Figure coordinates of a point in inches."""
        return x / self._width, 1 - y / self._height

    def left(self, column: int) -> float:
        """Inches from the left to a column."""
        return self.LEFT + column * (self.side + self.GAP)

    def top(self, row: int) -> float:
        """Inches from the top to a row."""
        return self.head + row * (self.side + self.TEXT)

    def picture(self, row: int, column: int, picture: NDArray[Any], *, below: str = "") -> None:
        """Show an image, with a line of text below it."""
        x, y = self.point(self.left(column), self.top(row) + self.side)
        axes = self.figure.add_axes((x, y, self.side / self._width, self.side / self._height))
        axes.imshow(picture, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.4, color=FAINT)
        middle = self.left(column) + self.side / 2
        self.text(middle, self.top(row) + self.side + 0.03, below, ha="center", va="top")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write at a point in inches."""
        self.figure.text(*self.point(x, y), text, **style)


def _draw(
    choices: Sequence[Choice], shown: Mapping[str, Sequence[Shown]], panels: Mapping[tuple[str, int], Panel]
) -> Figure:
    labels = [s.row.label for s in shown[choices[0].key]]
    grid = _Grid(num_rows=len(choices), heads=["image", "ground truth", *labels])
    for column, title in enumerate(grid.heads.texts):
        middle = grid.left(column) + grid.side / 2
        grid.text(middle, grid.head - 0.05, title, ha="center", va="bottom", fontsize=grid.heads.size)
    for i, choice in enumerate(choices):
        first = panels[choice.key, len(shown[choice.key][0].mask)]
        grid.picture(i, 0, first.image)
        grid.picture(i, 1, error_picture(first.image, first.truth, first.truth))
        for column, s in enumerate(shown[choice.key], start=2):
            panel = panels[choice.key, len(s.mask)]
            below = f"{100 * mask_iou(panel.truth, s.mask):.1f}"
            grid.picture(i, column, error_picture(panel.image, panel.truth, s.mask), below=below)
        middle = grid.top(i) + grid.side / 2
        rule = f"{choice.rule} ({100 * choice.gain:+.1f})".replace("-", "\u2212")
        grid.text(grid.LEFT - 0.06, middle, rule, ha="right", va="center", rotation=90, fontsize=6.5)
        sentence = textwrap.shorten(first.sentence, int(grid.side * (2 + len(labels)) * 16), placeholder=" …")
        grid.text(grid.left(0), grid.top(i) + grid.side + 0.165, f"“{sentence}”", va="top", style="italic")
    _legend(grid)
    return grid.figure


def _legend(grid: _Grid) -> None:
    def colour(value: Colour) -> str:
        return "#{:02x}{:02x}{:02x}".format(*value)

    patches = [
        Patch(facecolor=colour(HIT), edgecolor=FAINT, label="hit, ground truth"),
        Patch(facecolor="white", edgecolor=colour(FALSE_ALARM), hatch="/////", label="false alarm"),
        Patch(facecolor=colour(MISS), edgecolor=FAINT, label="miss"),
    ]
    title = "below a picture: IoU in %"
    handles = [*patches, Patch(facecolor="none", edgecolor="none", label=title)]
    grid.figure.legend(handles=handles, loc="lower center", ncols=4, handlelength=1.6, bbox_to_anchor=(0.5, 0))
