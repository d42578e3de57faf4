r"""Whether a paper still says what the store says: its copies of generated tables, its `numbers.tex`, and the numbers
that its prose cites through macros.

A copy is known by its first line, or by its name and the look of a generated table. Every figure is compared by its
place in the table, and what is left (caption, labels, footnotes) line by line. Only names of runs may differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, nearest
from reports.latex import MARKER, Origin, plain_comment, render_table
from reports.latex_numbers import SETTINGS
from reports.markdown import render_markdown
from reports.numbers import FILE, MACROS, OF_DELTA, Key, number_source, numbers_of, read_numbers
from reports.paper_copies import NOTHING, Copy, read_csv, read_markdown, read_tex
from reports.table_model import TableModel

KINDS = (".tex", ".md", ".csv")
AROUND = 24
"""Characters shown before and after the place where two lines part."""
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
CITED = re.compile(rf"\\({'|'.join(MACROS)})(?![A-Za-z@])" + r"\s*\{([^{}#]*)\}" * 4)
INPUT = re.compile(r"\\(?:input|include|subfile)\s*\{([^{}]+)\}")
LATEX_TABLE = r"\begin{tabular}"


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
    """Files that are copies of this study's."""
    others: tuple[str, ...]
    """Copies of other studies', which were not compared."""
    cited: int
    """Numbers cited through macros."""


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
    texts = _read(path)
    findings: list[Finding] = []
    checked, others, foreign = [], [], set[Key]()
    prose = {}
    for name, text in texts.items():
        what, study = _identify(name, text, current)
        if what is None:
            prose[name] = text
        elif study != plain_comment(current.origin.study):
            others.append(name)
            foreign |= set(read_numbers(text))
        else:
            checked.append(name)
            findings += _of_numbers(name, text, current) if what == FILE else _of_table(name, text, what, current)
    cited = [use for name, text in prose.items() if name.endswith(".tex") for use in _uses(name, text)]
    findings += _of_citations(cited, current, foreign)
    return PaperCheck(tuple(findings), tuple(checked), tuple(others), len(cited))


def _read(path: Path) -> dict[str, str]:
    """Path inside the paper -> text."""
    if path.is_dir():
        inside = (p for p in sorted(path.rglob("*")) if p.suffix in KINDS and p.is_file())
        found = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        return {p.relative_to(path).as_posix(): _text(p) for p in found}
    if path.suffix != ".tex" or not path.is_file():
        raise HarnessError(f"--check must be the folder of a paper or its .tex file, got {path}, which is not")
    texts: dict[str, str] = {}
    queue = [path.name]
    for name in queue:
        file = path.parent / name
        if name in texts or not file.is_file():
            continue
        texts[name] = _text(file)
        inputs = INPUT.findall(_without_comments(texts[name]))
        queue += [i if i.endswith(".tex") else f"{i}.tex" for i in map(str.strip, inputs)]
    return texts


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} must be a readable text in UTF-8: {error}") from None


def _identify(name: str, text: str, current: Current) -> tuple[str | None, str]:
    """The table a file is a copy of, or `numbers`, and its study; None for any other text."""
    own, path = plain_comment(current.origin.study), Path(name)
    if path.suffix == ".tex":
        marked = MARKER.match(text)
        if marked:
            return marked[1] or FILE, marked[2]
        generated = LATEX_TABLE in text and path.stem in current.tables
        return (path.stem, own) if generated else (None, own)
    head = text.partition("\n")[0]
    if path.suffix == ".csv":
        known = current.csv.get(path.stem, "").partition("\n")[0]
        return (path.stem, own) if known and head == known else (None, own)
    table = current.tables.get(path.stem)
    begins = render_markdown(table).partition("** ")[0] if table else None
    return (path.stem, own) if begins and head.startswith(begins) else (None, own)


def _of_table(name: str, text: str, what: str, current: Current) -> Iterator[Finding]:
    table = current.tables.get(what)
    if table is None:
        yield Finding(name, f"table {what}", "a copy", f"the study has no such table; {nearest(what, current.tables)}")
        return
    kind = Path(name).suffix
    if kind == ".csv":
        sides = read_csv(text), read_csv(current.csv[what])
    elif kind == ".md":
        sides = read_markdown(text), read_markdown(render_markdown(table))
    else:
        sides = read_tex(text), read_tex(render_table(table, current.origin, siunitx=SETTINGS in text))
    yield from _of_copies(name, what, *sides)


def _of_copies(name: str, table: str, old: Copy, new: Copy) -> Iterator[Finding]:
    rows = [dict.fromkeys(place.row for place in side.cells) for side in (old, new)]
    gone = [row for row in rows[0] if row not in rows[1]]
    added = [row for row in rows[1] if row not in rows[0]]
    for row in gone:
        yield Finding(name, f"table {table}, row {row}", "in the paper", "not in the store's table")
    for row in added:
        yield Finding(name, f"table {table}, row {row}", "not in the paper", "in the store's table")
    for place in dict.fromkeys((*old.cells, *new.cells)):
        before, after = old.cells.get(place, NOTHING), new.cells.get(place, NOTHING)
        if before != after and place.row not in (*gone, *added):
            yield Finding(name, f"table {table}, row {place.row}, {place.what}", before, after)
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
    plain = _without_comments(text)
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


def _without_comments(text: str) -> str:
    return COMMENT.sub(r"\1", text)
