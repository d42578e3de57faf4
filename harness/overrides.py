"""`--set a.b=c`: values given on the command line replace what the study file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import SpecError, nearest
from harness.yaml_lines import DocPath, Document, dotted, parse_document, shown

_DOTTED_KEYS = ("set", "axes", "space")
"""Mappings whose keys are themselves dotted paths."""
_NAMED_BY_USER = ("variants",)
"""Mappings whose keys the user chooses: an entry of them is never created half."""


def apply_override(document: Document, text: str, environ: Mapping[str, str]) -> None:
    """Change `document` as the option `--set text` asks.

    Args:
        document: Changed in place.
        text: `path=value`; the path is dotted, a number is a list index, the value is YAML.
        environ: For `${VAR}` in the value.

    Raises:
        SpecError: The message starts with the option.
    """
    place = f"--set {text}"
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise SpecError(f"{place}: must be path=value, received {text!r}; write for example --set train.epochs=1")
    given = parse_document(value, place, environ, place=place)
    given.places.setdefault((), place)
    document.replace(_walk(document, path.strip().split("."), place), given)


def _walk(document: Document, segments: list[str], place: str) -> DocPath:
    """The path of the value to set; mappings on the way that are absent are created."""
    path: DocPath = ()
    here: Any = document.value
    while True:
        if isinstance(here, list):
            key: str | int = _index(here, segments[0], path, place)
            segments = segments[1:]
        else:
            key, segments = _split(here, segments, path)
        if not segments:
            return (*path, key)
        if isinstance(here, dict) and here.get(str(key)) is None:
            if path == _NAMED_BY_USER:
                raise SpecError(f"{place}: {dotted((*path, key))}: no such entry; {nearest(str(key), here)}")
            here[str(key)] = {}
            document.places[(*path, key)] = place
        path = (*path, key)
        here = here[key]
        if not isinstance(here, dict | list):
            wanted = ".".join(segments)
            raise SpecError(
                f"{place}: {dotted(path)}: must be a mapping or list to hold {wanted!r}, it is {shown(here)}"
            )


def _split(here: Mapping[str, Any], segments: list[str], path: DocPath) -> tuple[str, list[str]]:
    """The key the next segments name, and the segments after it; the longest key that exists wins."""
    for end in range(len(segments), 0, -1):
        if ".".join(segments[:end]) in here:
            return ".".join(segments[:end]), segments[end:]
    if path and path[-1] in _DOTTED_KEYS:
        return ".".join(segments), []
    return segments[0], segments[1:]


def _index(here: list[Any], segment: str, path: DocPath, place: str) -> int:
    if segment.isdecimal() and int(segment) < len(here):
        return int(segment)
    raise SpecError(
        f"{place}: {dotted(path)}: an index must be 0 to {len(here) - 1}, received {segment!r}"
        if here
        else f"{place}: {dotted(path)}: the list is empty, received index {segment!r}"
    )
