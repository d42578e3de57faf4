"""The figures a study can ask for by name, drawn into a folder; what cannot be drawn is said, never dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.errors import UnknownNameError, nearest
from harness.records import Table
from reports.artifacts import NotDrawn, OtherDesign
from reports.class_bars import draw_class_bars
from reports.contribution_figures import draw_shapley, draw_waterfall
from reports.cost_figure import draw_cost
from reports.curve_figures import draw_learning_curves, draw_precision_curve
from reports.delta_figure import draw_delta
from reports.drawing import Drawing, write_drawing
from reports.feature_maps import draw_feature_maps
from reports.fonts import lost_note, no_warnings_of_letters, use_fonts
from reports.interaction_figure import draw_interaction
from reports.qualitative import draw_qualitative
from reports.rank_figure import draw_ranks
from reports.results import Results, distinct_tables
from reports.robustness_figure import draw_robustness
from reports.style import house_style


class FigureKind(NamedTuple):
    """A figure that is drawn once per table with rows of its own."""

    draw: Callable[[Results, Table], Sequence[Drawing]]
    """Raises `NotDrawn` where a table does not have what it takes."""
    kinds: tuple[str, ...] = ("comparison", "ablation")
    """Kinds of table it is drawn for."""


FIGURES: Mapping[str, FigureKind] = {
    "delta": FigureKind(draw_delta),
    "cost": FigureKind(draw_cost),
    "ranks": FigureKind(draw_ranks),
    "class_bars": FigureKind(draw_class_bars),
    "interaction": FigureKind(draw_interaction),
    "waterfall": FigureKind(draw_waterfall),
    "shapley": FigureKind(draw_shapley),
    "precision_curve": FigureKind(draw_precision_curve),
    "learning_curves": FigureKind(draw_learning_curves),
    "qualitative": FigureKind(draw_qualitative),
    "robustness": FigureKind(draw_robustness),
    "feature_maps": FigureKind(draw_feature_maps, kinds=("ablation",)),
}
"""Name in `report.figures` -> figure."""


@dataclass(frozen=True)
class DrawnFigures:
    """What was drawn, and what was not."""

    paths: tuple[Path, ...]
    run_ids: frozenset[str]
    notes: tuple[str, ...]
    """One line per figure that could not be drawn."""
    captions: Mapping[Path, str] = field(default_factory=dict)
    """PNG -> caption."""


def draw_figures(results: Results, folder: Path) -> DrawnFigures:
    """Draw the figures that the plan asks for into a folder, made if there is any.

    Raises:
        UnknownNameError: The plan names a figure that does not exist.
    """
    unknown = [name for name in results.plan.figures if name not in FIGURES]
    if unknown:
        raise UnknownNameError(f"unknown figure {unknown[0]!r}; {nearest(unknown[0], FIGURES)}")
    drawings: list[Drawing] = []
    notes: list[str] = []
    for name in results.plan.figures:
        tables = [t for t in distinct_tables(results.plan) if t.kind in FIGURES[name].kinds]
        notes += [] if tables else [f"figure {name}: no table is of kind {' or '.join(FIGURES[name].kinds)}"]
        made: list[Drawing] = []
        passed: list[str] = []
        for table in tables:
            try:
                made += FIGURES[name].draw(results, table)
            except NotDrawn as reason:
                kept = passed if isinstance(reason, OtherDesign) else notes
                kept.append(f"figure {name} of table {table.name}: {reason}")
        drawings += made
        notes += [] if made else passed
    if drawings:
        folder.mkdir(parents=True, exist_ok=True)
    with house_style(), no_warnings_of_letters():
        lost = {letter for drawing in drawings for letter in use_fonts(drawing.figure)}
        written = [(drawing, write_drawing(drawing, folder)) for drawing in drawings]
    notes += [lost_note(lost)] if lost else []
    return DrawnFigures(
        tuple(path for _, paths in written for path in paths),
        frozenset(run for drawing in drawings for run in drawing.run_ids),
        tuple(notes),
        {path: drawing.caption for drawing, paths in written for path in paths if path.suffix == ".png"},
    )
