"""Pydantic's complaints in this project's words: what was found, and the nearest valid names of that very mapping."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from harness.errors import nearest
from harness.yaml_lines import DocPath, Problem, shown

_CUSTOM = "harness"
_WORDS = (
    ("an object", "a mapping"),
    ("a valid dictionary", "a mapping"),
    ("a valid array", "a list"),
    ("a valid list", "a list"),
    ("a valid tuple", "a list"),
    ("a valid string", "text"),
    ("a valid boolean", "true or false"),
    ("a valid integer", "a whole number"),
    ("a valid number", "a number"),
)
_SHOULD = re.compile(r"^\w+ should")
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def refuse(path: Sequence[str | int], text: str) -> PydanticCustomError:
    """What a validator raises about the value at `path` below the value it validates."""
    return PydanticCustomError(_CUSTOM, "{text}", {"text": text, "path": tuple(path)})


def problems(error: ValidationError, schema: Any, *, tagged: bool = False) -> list[Problem]:
    """What `error` complains about.

    Args:
        error: Raised when `schema` was validated.
        schema: A pydantic model or a dataclass.
        tagged: Whether the third element of a location below `variants` is a design, which is no key of the document.
    """
    found = error.errors(include_url=False)
    return [_problem(e, schema, tagged=tagged) for e in found if not _is_consequence(e)]


def _is_consequence(error: ErrorDetails) -> bool:
    """Whether a list is called too short only because its entries are wrong, which is told on its own."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _problem(error: ErrorDetails, schema: Any, *, tagged: bool) -> Problem:
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    path: DocPath = loc[:2] + loc[3:] if tagged and loc[:1] == ("variants",) else loc
    if kind == _CUSTOM:
        return Problem((*path, *context["path"]), context["text"])
    if kind in _UNKNOWN_KEY:
        return Problem(path, f"unknown key {str(loc[-1])!r}; {nearest(str(loc[-1]), _names(schema, loc[:-1]))}")
    if kind in _MISSING:
        return Problem(path[:-1], f"{str(loc[-1])!r} must be given, it is missing", is_missing=True)
    if kind == "union_tag_not_found":
        designs = [tag for option in get_args(_at(schema, loc)) for tag in _tags(option)]
        return Problem(path, f"'design' must be given, it is missing; {nearest('', designs)}", is_missing=True)
    if kind == "union_tag_invalid":
        return Problem((*path, "design"), _unknown_value(context["tag"], context["expected_tags"]))
    if kind == "literal_error":
        return Problem(path, _unknown_value(error["input"], context["expected"]))
    if kind == "too_short":
        return Problem(path, f"must have at least {context['min_length']} entry, received {shown(error['input'])}")
    if kind == "value_error":
        text = str(context["error"])
        return Problem((*path, *named_path(text, error["input"])), text)
    text = _SHOULD.sub("must", error["msg"])
    for theirs, ours in _WORDS:
        text = text.replace(theirs, ours)
    return Problem(path, f"{text}, received {shown(error['input'])}")


def _unknown_value(value: Any, expected: str) -> str:
    names = re.findall(r"'([^']*)'", expected)
    if isinstance(value, str) and names:
        return f"unknown value {value!r}; {nearest(value, names)}"
    return f"must be {expected}, received {shown(value)}"


def named_path(text: str, value: Any) -> DocPath:
    """The path into `value` that a message begins with: dataclasses that check themselves name the field first."""
    path: list[str] = []
    for key in text.partition(" ")[0].rstrip(":").split("."):
        if not isinstance(value, dict) or key not in value:
            break
        path.append(key)
        value = value[key]
    return tuple(path)


def _names(schema: Any, loc: Sequence[str | int]) -> tuple[str, ...]:
    """The keys of the mapping at `loc`."""
    return tuple(name for name in _fields(_at(schema, loc)) if not name.startswith("_"))


def _at(schema: Any, loc: Sequence[str | int]) -> Any:
    """The part of `schema` at `loc`."""
    for key in loc:
        schema = _step(_bare(schema), key)
    return _bare(schema)


def _bare(schema: Any) -> Any:
    """`schema` without `Annotated` and `None`; a union of several parts stays a union."""
    if get_origin(schema) is Annotated:
        return _bare(get_args(schema)[0])
    if get_origin(schema) in (Union, types.UnionType):
        options = [a for a in get_args(schema) if a is not type(None)]
        return _bare(options[0]) if len(options) == 1 else schema
    return schema


def _step(schema: Any, key: str | int) -> Any:
    origin = get_origin(schema)
    if origin in (Union, types.UnionType):
        return next((o for o in get_args(schema) if key in _tags(o)), None)
    if origin is not None:
        arguments = [a for a in get_args(schema) if a is not Ellipsis]
        return arguments[key] if isinstance(key, int) and key < len(arguments) else arguments[-1]
    return _fields(schema).get(str(key))


def _tags(option: Any) -> tuple[Any, ...]:
    """The designs a part of `variants` answers to."""
    design = _fields(_bare(option)).get("design")
    return get_args(design) if get_origin(design) is Literal else ()


def _fields(schema: Any) -> dict[str, Any]:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {name: f.annotation for name, f in schema.model_fields.items()}
    if isinstance(schema, type) and dataclasses.is_dataclass(schema):
        hints = get_type_hints(schema)
        return {f.name: hints[f.name] for f in dataclasses.fields(schema)}
    return {}
