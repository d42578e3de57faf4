"""From what a study writes about a variant to its full configuration, checked against the model it names."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from harness.canonical import canonical_json, flatten
from harness.errors import HarnessError, SpecError, UnknownNameError, nearest
from harness.records import Resources
from harness.spec import StudySpec
from harness.spec_errors import named_path, problems
from harness.spec_part import Json, Part
from harness.spec_search import OwnSearchConfig
from harness.yaml_lines import DocPath, shown
from models.base import MODELS, SegmentationModel


class DataOptions(Part):
    """What a variant may change about the data; the samples themselves belong to the study."""

    image_size: Annotated[int, Field(ge=32)]
    """Height and width in pixels, at least 32."""


@dataclass(frozen=True)
class Edit:
    """One value of an axis, or one entry of a `set`."""

    path: str
    """Dotted path into the resolved configuration."""
    value: Any
    where: DocPath
    """Where the study says it."""


@dataclass(frozen=True)
class Point:
    """A row before it is resolved."""

    label: str
    where: DocPath
    """Where the study says it; its sections stand below."""
    sections: Mapping[str, Json] = field(default_factory=dict)
    """Partial `model`, `train`, `data`, `resources`."""
    edits: tuple[Edit, ...] = ()
    search: OwnSearchConfig = field(default_factory=OwnSearchConfig)
    """What it says about its search."""


@dataclass(frozen=True)
class Resolved:
    """Everything a variant is."""

    config: Json
    """Full `model`, `train`, `data`, `evaluate`, as plain JSON values."""
    resources: Resources

    @property
    def key(self) -> str:
        """Equal for equal configurations; resources do not count."""
        return canonical_json(self.config)

    @property
    def flat(self) -> Json:
        """Dotted path -> value of the configuration; a list is one value."""
        return flatten(self.config)


def reference_point(study: StudySpec) -> Point:
    """The reference as a row."""
    return Point(study.reference.label, ("reference",), search=study.reference.search)


def model_class(study: StudySpec, name: Any, *, where: DocPath) -> type[SegmentationModel]:
    """The model of that name.

    Raises:
        SpecError: No such model, or one for another task.
    """
    try:
        found = MODELS.get(name) if isinstance(name, str) else None
    except UnknownNameError as error:
        raise study.error(where, str(error)) from None
    if found is None:
        raise study.error(where, f"must be a model's name, received {shown(name)}; valid: {', '.join(MODELS.names())}")
    if found.info.task != study.task:
        raise study.error(
            where, f"the model must be for the study's task {study.task!r}, {name!r} is for {found.info.task!r}"
        )
    return found


def resolve(study: StudySpec, point: Point) -> Resolved:
    """The full configuration of a row.

    Raises:
        SpecError: An unknown model, field or path, or a value the field refuses.
    """
    raw: Json = {
        "model": _model_section(study, point),
        "train": merged(study.train.model_dump(mode="json"), point.sections.get("train", {})),
        "data": merged({"image_size": study.data.image_size}, point.sections.get("data", {})),
        "evaluate": study.evaluate.model_dump(mode="json"),
    }
    config = _checked(study, replace(point, edits=()), raw)
    for edit in point.edits:
        _apply(study, config, edit)
    if point.edits:
        config = _checked(study, point, config)
    resources = merged(asdict(study.resources), point.sections.get("resources", {}))
    found = Resources(**_validated(study, point, "resources", Resources, resources))
    if config["train"]["global_batch"] % found.workers:
        text = f"must be a multiple of resources.workers = {found.workers}, received {config['train']['global_batch']}"
        path: DocPath = ("resources",) if "resources" in point.sections else ("train", "global_batch")
        raise study.error(_locate(point, path), f"train.global_batch {text}")
    return Resolved(config, found)


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> Json:
    """`base` with `change` put over it, mappings key by key, everything else as a whole."""
    found = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def _model_section(study: StudySpec, point: Point) -> Json:
    own, reference = point.sections.get("model", {}), study.reference.model
    if own.get("name", reference["name"]) != reference["name"]:
        return dict(own)
    return merged(reference, own)


def _checked(study: StudySpec, point: Point, config: Json) -> Json:
    model = dict(config["model"])
    name = model.pop("name")
    found = model_class(study, name, where=_locate(point, ("model", "name")))
    plain = _validated(study, point, "model", found.Config, model)
    return {
        "model": {"name": name, **_validated(study, point, "model", found.Config, plain)},
        "train": _validated(study, point, "train", type(study.train), config["train"]),
        "data": _validated(study, point, "data", DataOptions, config["data"]),
        "evaluate": _validated(study, point, "evaluate", type(study.evaluate), config["evaluate"]),
    }


def _validated(study: StudySpec, point: Point, section: str, schema: Any, value: Json) -> Json:
    adapter = _adapter(schema)
    try:
        found = adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        located = [p._replace(path=_locate(point, (section, *_inside(p.path, value)))) for p in problems(error, schema)]
        raise study.first_error(located) from None
    except HarnessError as error:
        path = (section, *named_path(str(error), value))
        raise study.error(_locate(point, path), str(error)) from None
    plain: Json = adapter.dump_python(found, mode="json")
    return plain


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _inside(path: DocPath, value: Any) -> DocPath:
    """`path` up to the first key that `value` does not have: pydantic appends the names of a union's options."""
    for i, key in enumerate(path):
        has = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not has:
            return path[:i]
        value = value[key]
    return path


def _apply(study: StudySpec, config: Json, edit: Edit) -> None:
    """Set one value; its path must exist."""
    keys = edit.path.split(".")
    if edit.path == "model.name":
        raise study.error(edit.where, "must not be model.name; write each model as a level of an explicit design")
    here: Any = config
    for i, key in enumerate(keys):
        if not isinstance(here, dict) or key not in here:
            raise _unknown_path(study, config, edit, depth=i)
        if i < len(keys) - 1:
            here = here[key]
    here[keys[-1]] = deepcopy(edit.value)


def _unknown_path(study: StudySpec, config: Json, edit: Edit, *, depth: int) -> SpecError:
    """The error for a path whose first `depth` keys exist."""
    keys = edit.path.split(".")
    text = f"{edit.path!r} must be a path into the configuration of {config['model']['name']}"
    if depth == 0:
        return study.error(edit.where, f"{text}; {nearest(edit.path, flatten(config))}")
    here: Any = config
    for key in keys[:depth]:
        here = here[key]
    parent = ".".join(keys[:depth])
    if not isinstance(here, dict):
        return study.error(edit.where, f"{text}; {parent!r} is one value, set it as a whole")
    return study.error(edit.where, f"{text}, {parent!r} has no {keys[depth]!r}; {nearest(keys[depth], here)}")


def _locate(point: Point, path: DocPath) -> DocPath:
    """Where the study says what is at `path` of the configuration, or what made it invalid."""
    for edit in reversed(point.edits):
        keys = tuple(edit.path.split("."))
        if path[: len(keys)] == keys:
            return edit.where + path[len(keys) :]
    for edit in reversed(point.edits):
        if edit.path.startswith(f"{path[0]}."):
            return edit.where
    if path[0] in point.sections:
        inside = _inside(path[1:], point.sections[str(path[0])])
        return (*point.where, path[0], *inside)
    return ("reference", *path) if path[0] == "model" else path
