r"""Whether a paper still says what the store says: its copies of generated tables, its `numbers.tex`, and the numbers
that its prose cites through macros.

Every figure is compared by its place in the table, and what is left (caption, labels, footnotes) line by line. Only
names of runs may differ. What is named as a copy and cannot be compared is a finding too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import nearest
from reports.latex import Origin, plain_comment, render_table
from reports.latex_numbers import SETTINGS
from reports.markdown import render_markdown
from reports.numbers import FILE, MACROS, OF_DELTA, Key, number_source, numbers_of, read_numbers
from reports.paper_copies import NOTHING, Copy, read_csv, read_markdown
from reports.paper_files import Paper, read_paper, without_comments
from reports.paper_pieces import Piece, holds_table, pieces_of
from reports.paper_tex import read_tex
from reports.table_model import TableModel

AROUND = 24
"""Characters shown before and after the place where two lines part."""
CITED = re.compile(rf"\\({'|'.join(MACROS)})(?![A-Za-z@])" + r"\s*\{([^{}#]*)\}" * 4)


@dataclass(frozen=True)
class Finding:
    """Something of a paper that the store does not say."""

    place: str
    """`file:line` or `file`, from the folder of the paper."""
    what: str
    """For example `table components, row + MSRC, val miou`."""
    old: str
    """What the paper has."""
    new: str
    """What the store says."""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}: {self.old} -> {self.new}"


@dataclass(frozen=True)
class PaperCheck:
    """What was found in a paper."""

    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    """The file of every copy of this study's; one that holds two copies stands here twice."""
    others: tuple[str, ...]
    """Files with copies of other studies', which were not compared."""
    cited: int
    """Numbers cited through macros."""
    notes: tuple[str, ...] = ()
    """What was not compared and is probably no copy."""


@dataclass(frozen=True)
class Current:
    """What the store says now."""

    origin: Origin
    tables: Mapping[str, TableModel]
    csv: Mapping[str, str]
    """Name of a table -> its figures as CSV."""


def check_paper(path: Path, current: Current) -> PaperCheck:
    """Compare a paper with the store; nothing is written.

    Args:
        path: Folder of a paper, or its main `.tex` file, of which the files it inputs are checked too.
        current: What the store says.

    Raises:
        HarnessError: There is no such file or folder, or it cannot be read as text.
    """
    paper = read_paper(path, _known(current))
    findings = list(_of_unread(paper, current))
    checked, others, notes, foreign = [], dict[str, None](), [], set[Key]()
    for name, text in paper.texts.items():
        pieces = pieces_of(name, text, current.tables, current.csv)
        for piece in pieces:
            if _is_ours(piece, current):
                checked.append(name)
                findings += _of_piece(name, piece, current)
            else:
                others[name] = None
                foreign |= set(read_numbers(piece.text))
        if not pieces and Path(name).stem in current.tables:
            if holds_table(name, text):
                findings.append(_not_compared(name, "no copy that can be read"))
            else:
                notes.append(f"{name} is named as a table of the report and holds none")
    notes += _unfollowed(paper, current, is_folder=path.is_dir())
    cited = [
        use for name, text in paper.texts.items() if Path(name).suffix.lower() == ".tex" for use in _uses(name, text)
    ]
    findings += _of_citations(cited, current, foreign)
    return PaperCheck(tuple(findings), tuple(checked), tuple(others), len(cited), tuple(notes))


def _known(current: Current) -> set[str]:
    """Stems of the files that a report writes."""
    return {*current.tables, FILE}


def _of_unread(paper: Paper, current: Current) -> Iterator[Finding]:
    """Files that are named as the report's and that were not found or are no text."""
    known = _known(current)
    for name, why in paper.unread.items():
        if Path(name).stem in known:
            yield _not_compared(name, why)
    read = {Path(name).stem for name in (*paper.texts, *paper.unread)}
    for name, wanted in paper.missing:
        if Path(wanted).stem in known - read:
            yield Finding(name, f"input {wanted}", "no such file", "compare the folder that holds it")


def _unfollowed(paper: Paper, current: Current, *, is_folder: bool) -> Iterator[str]:
    known = _known(current)
    for name, why in paper.unread.items():
        if Path(name).stem not in known:
            yield f"{name} cannot be read: {why}"
    for name, wanted in () if is_folder else paper.missing:
        if ("#" in wanted or "\\" in wanted) and Path(wanted).stem not in known:
            yield f"{name} inputs {wanted}, which only LaTeX can find; --check of the folder reads every file"


def _not_compared(name: str, why: str) -> Finding:
    return Finding(name, Path(name).stem, why, "copy it again, or give the file another name")


def _is_ours(piece: Piece, current: Current) -> bool:
    """Whether a copy is of this study; one that does not say so is, if it has a table of this study."""
    if piece.study is not None:
        return piece.study == plain_comment(current.origin.study)
    return piece.what != FILE or any(key.table in current.tables for key in read_numbers(piece.text))


def _of_piece(name: str, piece: Piece, current: Current) -> Iterator[Finding]:
    table = current.tables.get(piece.what)
    kind = Path(name).suffix.lower()
    if piece.what == FILE:
        yield from _of_numbers(name, piece.text, current)
    elif table is None:
        hint = nearest(piece.what, current.tables)
        yield Finding(name, f"table {piece.what}", "a copy", f"the study has no such table; {hint}")
    elif kind == ".csv":
        yield from _of_copies(name, piece.what, read_csv(piece.text), read_csv(current.csv[piece.what]))
    elif kind == ".md":
        yield from _of_copies(name, piece.what, read_markdown(piece.text), read_markdown(render_markdown(table)))
    else:
        yield from _of_tex(name, piece, table, current.origin)


def _of_tex(name: str, piece: Piece, table: TableModel, origin: Origin) -> Iterator[Finding]:
    """By the comments behind figures, or by the heads of columns where not every figure has its comment."""
    siunitx = without_comments(SETTINGS).strip() in piece.text
    old, new = read_tex(piece.text), read_tex(render_table(table, origin, siunitx=siunitx))
    if old is None or new is None:
        yield Finding(name, f"table {table.name}", "no rows of figures that can be read", "copy it again")
    else:
        sides = (side.copy(by_origin=old.has_origins) for side in (old, new))
        yield from _of_copies(name, table.name, *sides)


def _of_copies(name: str, table: str, old: Copy, new: Copy) -> Iterator[Finding]:
    rows = [dict.fromkeys(place.row for place in side.cells) for side in (old, new)]
    gone = [row for row in rows[0] if row not in rows[1]]
    added = [row for row in rows[1] if row not in rows[0]]
    for row in gone:
        yield Finding(name, f"table {table}, row {row}", "in the paper", "not in the store's table")
    for row in added:
        yield Finding(name, f"table {table}, row {row}", "not in the paper", "in the store's table")
    for place in dict.fromkeys((*old.cells, *new.cells)):
        before, after = old.cells.get(place, ""), new.cells.get(place, "")
        if before != after and place.row not in (*gone, *added):
            yield Finding(name, f"table {table}, row {place.row}, {place.what}", before or NOTHING, after or NOTHING)
    if " ".join(old.rest) == " ".join(new.rest):
        return
    matcher = difflib.SequenceMatcher(None, old.rest, new.rest, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            before, after = (" ".join(side) for side in (old.rest[i:j], new.rest[k:m]))
            yield Finding(name, f"table {table}, text", *_parting(before, after))


def _parting(old: str, new: str) -> tuple[str, str]:
    """Both texts around the place where they part."""
    same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start, end = max(0, same - AROUND), same + AROUND
    found = [("…" if start else "") + t[start:end] + ("…" if len(t) > end else "") for t in (old, new)]
    return found[0] or NOTHING, found[1] or NOTHING


def _of_numbers(name: str, text: str, current: Current) -> Iterator[Finding]:
    now = numbers_of(current.tables.values())
    old, new = read_numbers(text), {key: number_source(value) for key, value in now.values.items()}
    for key in dict.fromkeys((*old, *new)):
        before, after = old.get(key, NOTHING), new.get(key, now.absent.get(key, NOTHING))
        if before != after:
            yield Finding(name, str(key), before, after)


def _uses(name: str, text: str) -> Iterator[tuple[str, Key]]:
    """Every number that a text cites, with its place."""
    plain = without_comments(text)
    for found in CITED.finditer(plain):
        parts = (" ".join(part.split()) for part in found.groups())
        yield f"{name}:{plain.count(chr(10), 0, found.start()) + 1}", Key(*parts)


def _of_citations(cited: Iterable[tuple[str, Key]], current: Current, foreign: set[Key]) -> Iterator[Finding]:
    now = numbers_of(current.tables.values())
    for place, key in cited:
        if key in now.values or key in foreign:
            continue
        figure = key._replace(macro="resdelta" if key.macro in OF_DELTA else "res")
        if figure in now.absent:
            reason = f"there is no figure: {now.absent[figure]}"
        elif figure in now.values:
            reason = "that figure has none"
        else:
            reason = f"there is no such number; {_hint(figure, now.values)}"
        yield Finding(place, str(key), "cited", reason)


def _hint(key: Key, known: Iterable[Key]) -> str:
    """The nearest names for the first part of a key that no number has."""
    left = list(known)
    for n, part in enumerate(key):
        matching = [other for other in left if other[n] == part]
        if not matching:
            return f"{key._fields[n]}: {nearest(part, (other[n] for other in left))}"
        left = matching
    return nearest(str(key), map(str, left))
