"""YAML that remembers where everything was written, so that every complaint can name a file and a line.

Plain scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `no` and `2024-01-01`
are text, `3e-5` is a number. Anchors, aliases and `<<` merges work; a key written twice is an error. `${VAR}` and
`${VAR:-default}` are replaced from the environment; unquoted text is typed after that, so `${EPOCHS:-3}` is a number.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.errors import SpecError, nearest

DocPath = tuple[str | int, ...]
"""Keys and list indices from the top of a document to a value."""

_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\{[^{}\n]*\}?")
_VARIABLE_PARTS = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:-)(.*))?\}", re.DOTALL)
_SYNTAX = "{}[],:#"
_HIDDEN = {ord(c): chr(0xE000 + i) for i, c in enumerate(_SYNTAX)}
_SHOWN = {0xE000 + i: c for i, c in enumerate(_SYNTAX)}


class Problem(NamedTuple):
    """Something wrong in a document."""

    path: DocPath
    text: str
    """What must hold, what was received, what to do."""
    is_missing: bool = False
    """Whether a key is absent: often the consequence of a misspelt one, which is then shown instead."""


@dataclass
class Document:
    """A value, and where each part of it was written."""

    file: str = "study"
    value: Any = field(default_factory=dict)
    places: dict[DocPath, int | str] = field(default_factory=dict)
    """Line, from 1, or the command-line option that gave the value."""
    outside: set[DocPath] = field(default_factory=set)
    """Texts that begin with an environment variable's value or come from the command line."""

    def error(self, path: DocPath, text: str) -> SpecError:
        """A `SpecError` of one line: place, path, text."""
        return self.first_error([Problem(path, text)])

    def first_error(self, problems: Iterable[Problem]) -> SpecError:
        """The error for the problem that comes first in the file; the others are counted."""
        first, *more = sorted(problems, key=lambda p: (p.is_missing, self._order(p.path)))
        head = f"{self.place(first.path)}: {dotted(first.path)}: " if first.path else f"{self.place(())}: "
        count = f" (and {len(more)} more)" if more else ""
        return SpecError(" ".join(f"{head}{first.text}{count}".split()))

    def place(self, path: DocPath) -> str:
        """`file:line` or the option that gave the value at `path`, or the nearest mapping around it."""
        found = self._nearest_place(path)
        if isinstance(found, str):
            return found
        return self.file if found is None else f"{self.file}:{found}"

    def replace(self, path: DocPath, other: Document) -> None:
        """Put `other` at `path`, whose parent must exist."""
        target: Any = self.value
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = other.value
        self.places = {p: line for p, line in self.places.items() if p[: len(path)] != path}
        self.outside = {p for p in self.outside if p[: len(path)] != path}
        self.places.update({path + p: place for p, place in other.places.items()})
        self.outside.update(path + p for p in other.outside)

    def _nearest_place(self, path: DocPath) -> int | str | None:
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return None

    def _order(self, path: DocPath) -> tuple[int, int]:
        found = self._nearest_place(path)
        return (0, found) if isinstance(found, int) else (1, 0)


def dotted(path: DocPath) -> str:
    """A path as users write it after `--set`."""
    return ".".join(str(p) for p in path)


def shown(value: Any) -> str:
    """A value as it appears in messages: JSON, cut after 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def read_document(path: Path, environ: Mapping[str, str], *, what: str = "a study") -> Document:
    """Read a YAML file that is `what`.

    Raises:
        SpecError: No such file, no valid YAML, a key given twice, an unset variable, a number that is not finite.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: {what} must be UTF-8 text, received byte {error.start} that is not") from None
    except OSError as error:
        raise SpecError(
            f"{path}: the file of {what} must be readable, received: {error.strerror}{_siblings(path)}"
        ) from None
    document = parse_document(text, str(path), environ)
    if not isinstance(document.value, dict):
        raise SpecError(f"{path}:1: {what} must be a mapping of keys to values, received {shown(document.value)}")
    return document


def parse_document(text: str, file: str, environ: Mapping[str, str], *, place: str | None = None) -> Document:
    """Parse YAML text.

    Args:
        text: One YAML document.
        file: Name for messages.
        environ: Environment variables.
        place: Named instead of file and line, for values that come from the command line.

    Raises:
        SpecError: As `read_document`.
    """
    hidden = _VARIABLE.sub(lambda m: m[0].translate(_HIDDEN), text)
    try:
        node = yaml.compose(hidden, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, file, place) from None
    builder = _Builder(Document(file), environ, place)
    if node is None:
        builder.document.value = None
        return builder.document
    builder.document.value = builder.build(node, ())
    return builder.document


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}

for _kind, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^{_pattern}$"), _first)


class _Builder:
    """Turns YAML nodes into plain values and notes their places."""

    def __init__(self, document: Document, environ: Mapping[str, str], place: str | None) -> None:
        self.document = document
        self._environ = environ
        self._place = place
        self._open: list[int] = []

    def build(self, node: yaml.Node, path: DocPath) -> Any:
        """The value of `node`, which stands at `path`."""
        self.document.places.setdefault(path, self._place_of(node))
        if id(node) in self._open:
            raise self.document.error(path, "an alias must not refer to what contains it; write the value out")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _place_of(self, node: yaml.Node) -> int | str:
        return self._place if self._place is not None else int(node.start_mark.line) + 1

    def _mapping(self, node: yaml.MappingNode, path: DocPath) -> dict[str, Any]:
        value: dict[str, Any] = {}
        own: dict[str, yaml.Node] = {}
        for key, item in node.value:
            if key.tag == _TAG + "merge":
                value = {**self._merged(item, path), **value}
                continue
            name = self._key(key, path)
            if name in own:
                raise self._at(key, path, f"key {name!r} must be given once, it is given twice; remove one")
            own[name] = key
        for key, item in node.value:
            if key.tag == _TAG + "merge":
                continue
            inner = (*path, self._key(key, path))
            self._forget(inner)
            self.document.places[inner] = self._place_of(key)
            value[str(inner[-1])] = self.build(item, inner)
        return value

    def _merged(self, node: yaml.Node, path: DocPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if not isinstance(source, yaml.MappingNode):
                raise self._at(source, path, "`<<` must be followed by an alias of a mapping, or a list of such")
            found.update(self.build(source, path))
        return found

    def _key(self, node: yaml.Node, path: DocPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._at(node, path, "a key must be text, received a list or mapping; quote `{` and `[` in text")
        return str(node.value).translate(_SHOWN)

    def _at(self, node: yaml.Node, path: DocPath, text: str) -> SpecError:
        self.document.places[path] = self._place_of(node)
        return self.document.error(path, text)

    def _forget(self, path: DocPath) -> None:
        for known in [p for p in self.document.places if p[: len(path)] == path]:
            del self.document.places[known]
        self.document.outside = {p for p in self.document.outside if p[: len(path)] != path}

    def _scalar(self, node: yaml.Node, path: DocPath) -> Any:
        raw = str(node.value).translate(_SHOWN)
        text = _VARIABLE.sub(lambda m: self._variable(m[0], path), raw)
        if self._place is not None or (text != raw and self._starts_outside(raw)):
            self.document.outside.add(path)
        tag = str(node.tag)
        if text != raw and isinstance(node, yaml.ScalarNode) and node.style is None:
            tag = _plain_tag(text)
        try:
            return self._typed(tag, text, path)
        except ValueError:
            raise self.document.error(path, f"the value must fit its tag {tag!r}, received {text!r}") from None

    def _starts_outside(self, raw: str) -> bool:
        found = _VARIABLE_PARTS.match(raw)
        return bool(found and self._environ.get(found[1]))

    def _variable(self, text: str, path: DocPath) -> str:
        found = _VARIABLE_PARTS.fullmatch(text)
        if found is None:
            raise self.document.error(path, f"a variable must be ${{VAR}} or ${{VAR:-default}}, received {text!r}")
        name, has_default, default = found.groups()
        if has_default:
            return self._environ.get(name) or str(default)
        if name not in self._environ:
            raise self.document.error(
                path, f"environment variable {name!r} must be set, it is not; export it or write ${{{name}:-default}}"
            )
        return self._environ[name]

    def _typed(self, tag: str, text: str, path: DocPath) -> Any:
        kind = tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if kind == "float":
            value = float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1] in "fFnN" else float(text)
            if not math.isfinite(value):
                raise self.document.error(path, f"a number must be finite, received {text}")
            return value
        if kind in ("str", "merge"):
            return text
        raise self.document.error(
            path, f"a value must be null, true, false, a number or text, received the tag {tag!r}"
        )


def _plain_tag(text: str) -> str:
    for tag, pattern in _Loader.yaml_implicit_resolvers.get(text[:1], []):
        if pattern.match(text):
            return str(tag)
    return _TAG + "str"


def _syntax_error(error: yaml.YAMLError, file: str, place: str | None) -> SpecError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = place or (f"{file}:{mark.line + 1}" if mark else f"{file}:1")
    words = [getattr(error, "context", None), getattr(error, "problem", None) or getattr(error, "reason", None)]
    text = ", ".join(str(w) for w in words if w).translate(_SHOWN)
    return SpecError(" ".join(f"{where}: must be valid YAML, received text that is not: {text}".split()))


def _siblings(path: Path) -> str:
    found = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"; {nearest(path.name, found)}" if found else "; check the path"
