"""A figure as files: vector PDF, PNG, its numbers as CSV, its caption in a LaTeX float; equal figures, equal bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from reports.latex_text import latex_escape
from reports.style import COLUMN_WIDTH, SETTINGS

MAX_PIXELS = 16_000
"""Side of a PNG; longer ones are drawn coarser, because browsers do not show them, and matplotlib draws no 65,536."""

SMALL = 5.5
"""Points of letters that are still read in print."""
LINE = 1.4
"""From a line of text to the next, in sizes of its letters."""

SUFFIXES = (".pdf", ".png", ".csv", ".tex")


@dataclass(frozen=True)
class Drawing:
    """A figure, not yet written."""

    name: str
    """Stem of its files."""
    figure: Figure
    data: pd.DataFrame
    """The numbers it shows."""
    caption: str
    """Plain text: what is shown, by which rule it was chosen, how it was computed."""
    run_ids: Sequence[str]
    """MLflow runs it was drawn from."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn without any window system."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def wrapped(label: str, width: int = 24, *, cut_words: bool = False) -> str:
    """A label on lines of so many characters, or one word, so that it leaves room for what it labels.

    Wide characters, as Chinese has them, count twice, and a line may end behind any of them.
    """
    if cell_len(label) == len(label):
        return textwrap.fill(label, width, break_long_words=cut_words)
    return "\n".join(line.plain.rstrip() for line in Text(label).wrap(Console(), width))


def most_lines(labels: Iterable[str]) -> int:
    """Of the label that has most."""
    return max(label.count("\n") + 1 for label in labels)


class Fitted(NamedTuple):
    """Labels beside or above pictures, whole, so that rows which differ look different."""

    texts: list[str]
    size: float
    """Of the letters, in points."""
    height: float
    """Inches of the highest."""


def fitted(labels: Sequence[str], letters: int, *, lines: int) -> Fitted:
    """Labels for a place that is so many letters wide; smaller letters where one takes more than so many lines."""
    size = float(SETTINGS["font.size"])
    texts = [wrapped(label, letters, cut_words=True) for label in labels]
    if most_lines(texts) > lines:
        texts = [wrapped(label, int(letters * size / SMALL), cut_words=True) for label in labels]
        size = SMALL
    return Fitted(texts, size, most_lines(texts) * LINE * size / 72)


def write_drawing(drawing: Drawing, folder: Path) -> tuple[Path, ...]:
    """Write the files of a figure, inside `house_style`; none of them holds a time or a machine."""
    stem = folder / drawing.name
    pdf, png, csv, tex = (stem.with_name(stem.name + suffix) for suffix in SUFFIXES)
    drawing.figure.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    dpi = min(float(rcParams["savefig.dpi"]), MAX_PIXELS / max(drawing.figure.get_size_inches()))
    drawing.figure.savefig(png, dpi=dpi, metadata={"Software": None})
    csv.write_bytes(drawing.data.to_csv(index=False, lineterminator="\n", float_format="%.10g").encode())
    tex.write_bytes(latex_float(drawing).encode())
    return pdf, png, csv, tex


def latex_float(drawing: Drawing) -> str:
    """A float that includes the PDF; it expects the figures' folder on `\\graphicspath`."""
    environment = "figure*" if drawing.figure.get_figwidth() > COLUMN_WIDTH + 0.1 else "figure"
    return (
        f'% Figure "{drawing.name}", written by "harness report"; changes made here are lost. Needs graphicx.\n'
        f"\\begin{{{environment}}}[!htbp]\n"
        "  \\centering\n"
        f"  \\includegraphics[width=\\linewidth,height=0.8\\textheight,keepaspectratio]{{{drawing.name}.pdf}}\n"
        f"  \\caption{{{latex_escape(drawing.caption)}}}\n"
        f"  \\label{{fig:{drawing.name}}}\n"
        f"\\end{{{environment}}}\n"
    )
