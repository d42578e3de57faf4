"""Figures for the package siunitx: columns aligned at the decimal mark, and beside them what is no number.

Every column of figures is two of LaTeX: an `S` column with the number and its uncertainty, and one with counts and
marks, which siunitx would take for parts of the number.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable

from reports import costs
from reports.cells import MINUS
from reports.latex_text import Latex
from reports.table_model import Cell, Emphasis

PACKAGE = "siunitx"

SETTINGS = Latex(
    r"\sisetup{mode=text, reset-text-series=false, uncertainty-mode=separate, retain-explicit-plus=true,"
    r" retain-zero-uncertainty=true}"
    "  % version 3 or later"
)
"""Inside the float, so that they hold for nothing else. In text mode a bold number is bold with its uncertainty; one of
0 is kept, as it is not that of a single replicate."""

HINT = "Debian: apt-get install texlive-science"


def is_cost(cell: Cell) -> bool:
    """Whether it is a cost, which nothing follows: its number stands in the second column, below a wide head."""
    return cell.split == costs.SPLIT


def column_format(cells: Iterable[Cell]) -> Latex:
    """The two columns for figures: room for the most digits before and behind the decimal mark, and for a sign."""
    found = [cell for cell in cells if cell.figure]
    parts = [_plain(cell.figure).lstrip("+-").partition(".") for cell in found]
    sign = "+" if any(_plain(cell.figure)[0] in "+-" for cell in found) else ""
    whole, decimals = (max([least, *(len(part[i]) for part in parts)]) for i, least in ((0, 1), (2, 0)))
    spreads = [len(cell.spread.replace(".", "").lstrip("0")) for cell in found if cell.spread]
    uncertainty = f"({max(decimals, *spreads)})" if spreads else ""
    numbers = f"S[table-format={sign}{whole}.{decimals}{uncertainty}]"
    return Latex(f"l@{{}}{numbers}" if any(is_cost(cell) for cell in found) else f"{numbers}@{{}}l")


def number_source(cell: Cell) -> Latex:
    """A figure with its uncertainty as siunitx reads it."""
    bold = r"\bfseries " if cell.emphasis is Emphasis.BEST else ""
    spread = f" +- {cell.spread}" if cell.spread else ""
    return Latex(f"{bold}{_plain(cell.figure)}{spread}")


def is_installed() -> bool:
    """Whether TeX finds the package; true where TeX cannot be asked."""
    program = shutil.which("kpsewhich")
    if program is None:
        return True
    return subprocess.run([program, f"{PACKAGE}.sty"], capture_output=True, check=False).returncode == 0


def _plain(figure: str) -> str:
    return figure.replace(MINUS, "-")
