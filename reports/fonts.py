"""Letters that the figures' own font lacks, as Chinese ones, from other fonts of the machine.

A figure whose letters DejaVu Sans has is left as it is, so that it is the same on every machine.
"""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

from reports.style import SETTINGS

OWN = str(SETTINGS["font.family"])
NO_FONT = "Last Resort"
"""How matplotlib's font of boxes begins, which has every letter."""
MAX_NAMED = 20
"""Letters that a note lists."""


@contextmanager
def no_warnings_of_letters() -> Iterator[None]:
    """Letters that no font has are said in one note, not by a warning each; nor that a font has no regular weight."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield
    finally:
        log.setLevel(level)


def use_fonts(figure: Figure) -> frozenset[str]:
    """Let the texts of a figure use fonts that have their letters; returns the letters that none has."""
    axes: dict[Any, str] = {
        axis: "".join(tick.get_text() for tick in axis.get_ticklabels(which="both"))
        for plot in figure.axes
        for axis in (plot.xaxis, plot.yaxis)
    }
    texts: dict[Any, str] = {text: text.get_text() for text in figure.findobj(Text)}
    wanted = _lacking("".join([*axes.values(), *texts.values()]))
    if not wanted:
        return wanted
    families, lost = fonts_for(wanted)
    for axis in (axis for axis, text in axes.items() if _lacking(text)):
        axis.set_tick_params(which="both", labelfontfamily=[OWN, *families])
    for text in (text for text, shown in texts.items() if _lacking(shown)):
        text.set_fontfamily([OWN, *families])
    return lost


@cache
def fonts_for(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The fewest families that have some letters, and the letters that none has; the same on a machine every time.

    Of families that have equally many, a TrueType font comes first, as every reader of PDF takes it, then one without
    serifs, then the first by name.
    """
    found: list[str] = []
    left = set(letters)
    true_type = {entry.name for entry in fontManager.ttflist if str(entry.fname).lower().endswith(".ttf")}
    names = {entry.name for entry in fontManager.ttflist}
    order = sorted(names, key=lambda name: (name not in true_type, "Sans" not in name, name))
    known = {name: has for name in order if not name.startswith(NO_FONT) and (has := left & _letters_of(name))}
    while left and known:
        best = max(known, key=lambda name: len(known[name] & left))
        if not known[best] & left:
            break
        found.append(best)
        left -= known[best]
    return tuple(found), frozenset(left)


def lost_note(letters: Collection[str]) -> str:
    """What is said of letters that are drawn as boxes."""
    named = " ".join(sorted(letters)[:MAX_NAMED])
    more = f" and {len(letters) - MAX_NAMED} more" if len(letters) > MAX_NAMED else ""
    return (
        f"figures: no font of this machine has {named}{more}, which are drawn as boxes; install one that has them, for "
        "example Noto Sans CJK (Debian: apt-get install fonts-noto-cjk) for Chinese, Japanese and Korean"
    )


def _lacking(text: str) -> frozenset[str]:
    """The letters that the figures' own font does not have."""
    own = _letters_of(OWN)
    return frozenset(c for c in text if c not in own and not c.isspace() and unicodedata.category(c)[0] != "C")


@cache
def _letters_of(family: str) -> frozenset[str]:
    try:
        path = findfont(FontProperties(family=[family]), fallback_to_default=False)
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (ValueError, OSError, RuntimeError):
        return frozenset()
