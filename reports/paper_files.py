"""The texts of a paper: every file of its folder, or a main file, with what they input."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.errors import HarnessError

KINDS = (".tex", ".md", ".csv")
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
INPUT = re.compile(
    r"\\(?:@{0,2}input|include|subfile(?:include)?|InputIfFileExists)(?![A-Za-z@])\s*"
    r'(?:\{([^{}]*)\}|"([^"\n]+)"|([^\s\\{}"]+))'
)
IMPORT = re.compile(r"\\(?:sub)?(?:import|inputfrom|includefrom)\*?\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
FILE_NAME = re.compile(r"\{([^{}]+\.(?:csv|md))\}")
r"""A file that a package reads, as in `\csvautotabular{tables/components.csv}`."""
LONGEST = 200
"""Characters of a name; what is longer is no name of a file."""
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Paper:
    """What a paper consists of; names are paths from its folder."""

    texts: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """LaTeX file, or one named as the report's, -> why it cannot be read."""
    missing: list[tuple[str, str]] = field(default_factory=list)
    """File, and the name of what it inputs and what was not found."""


class Wanted(NamedTuple):
    """A file that a text inputs."""

    name: str
    folder: str = ""
    r"""First argument of `\\import`: what the file inputs stands there too."""


def read_paper(path: Path, known: Collection[str]) -> Paper:
    """Read a paper; each file and folder once, however many links lead to it.

    Args:
        path: Folder of a paper, of which every file counts, or its main `.tex` file.
        known: Stems of the files that a report writes; Markdown and CSV by other names are no copies.

    Raises:
        HarnessError: There is no such file or folder, or it cannot be read.
    """
    if not path.is_dir() and (path.suffix != ".tex" or not path.is_file()):
        raise HarnessError(f"--check must be the folder of a paper or its .tex file, got {path}, which is not")
    root = path if path.is_dir() else path.parent
    paper, seen = Paper(), set[str]()
    queue = [(file, root) for file in _files(path)] if path.is_dir() else [(path, root)]
    for file, base in queue:
        is_tex = file.suffix.lower() == ".tex"
        real = os.path.realpath(file)
        if real in seen or not (is_tex or file.stem in known):
            continue
        seen.add(real)
        name = Path(os.path.relpath(file, root)).as_posix()
        try:
            text = paper.texts[name] = _text(file)
        except (OSError, UnicodeError) as error:
            if file == path:
                raise HarnessError(f"{path} must be a readable text: {error}") from None
            paper.unread[name] = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            continue
        for wanted in _inputs(text) if is_tex else ():
            found = _find(wanted, (base, root, *_above(file, root)))
            if found:
                queue.append((found[0], found[1] / wanted.folder if wanted.folder else base))
            else:
                paper.missing.append((name, wanted.folder + wanted.name))
    return paper


def without_comments(text: str) -> str:
    """LaTeX without comments; every line stays where it is."""
    return COMMENT.sub(r"\1", text)


def _files(folder: Path) -> Iterator[Path]:
    """Texts of a folder; links are followed, hidden files and folders are left out."""
    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = Path(place).resolve()
        folders[:] = [] if here in seen else sorted(name for name in folders if not name.startswith("."))
        if here not in seen:
            seen.add(here)
            texts = (name for name in sorted(names) if Path(name).suffix.lower() in KINDS)
            yield from (Path(place, name) for name in texts if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise HarnessError(f"{error.filename} must be a readable folder: {error.strerror}")


def _text(path: Path) -> str:
    data = path.read_bytes()
    for encoding in ("utf-16",) if data.startswith(UTF_16) else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise UnicodeError("it is no text in UTF-8 or Latin-1")


def _inputs(text: str) -> Iterator[Wanted]:
    plain = without_comments(text)
    found = [Wanted(_name(match[1] or match[2] or match[3] or "")) for match in INPUT.finditer(plain)]
    found += [Wanted(_name(match[2]), f"{_name(match[1]).rstrip('/')}/") for match in IMPORT.finditer(plain)]
    found += [Wanted(_name(match[1])) for match in FILE_NAME.finditer(plain)]
    return (wanted for wanted in found if 0 < len(wanted.name) < LONGEST and len(wanted.folder) < LONGEST)


def _name(argument: str) -> str:
    return argument.strip().strip('"').strip()


def _above(file: Path, root: Path) -> list[Path]:
    """The folder of a file and those above it, as far as the paper's: it may be compiled in any of these."""
    above = list(file.parents)
    return above[: above.index(root)] if root in above else above[:1]


def _find(wanted: Wanted, folders: Collection[Path]) -> tuple[Path, Path] | None:
    """A file as LaTeX finds it, first with `.tex` behind its name, and the folder it was looked for in."""
    for folder in folders:
        for end in ("", ".tex") if Path(wanted.name).suffix in KINDS else (".tex", ""):
            path = folder / wanted.folder / f"{wanted.name}{end}"
            with contextlib.suppress(OSError):  # a folder on the way may not be read
                if path.is_file():
                    return path, folder
    return None
