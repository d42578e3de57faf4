"""The study: what a YAML file may say, checked before anything runs.

`load_study` reads a file; the classes are its parts, and every field says its unit and range. `docs/study.md` is the
same for users. Model sections are checked against the models themselves when the study is expanded (`harness.plan`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from harness.data.base import DATASETS, SyntheticConfig, options_schema, read_options
from harness.errors import SpecError, nearest
from harness.metrics import task_metrics
from harness.overrides import apply_override
from harness.records import BREAKDOWN, RESERVED, Checkpointing, Limits, Resources
from harness.spec_errors import problems, refuse
from harness.spec_part import Count, Json, Part, Slug, Text
from harness.spec_protocol import EvaluateConfig, ReferringEvaluateConfig, SemanticEvaluateConfig
from harness.spec_recipe import ReferringTrainConfig, SemanticTrainConfig, TrainConfig
from harness.spec_report import BREAKDOWNS, FIGURES, ReportConfig
from harness.spec_search import OwnSearchConfig, SearchConfig, check_searches
from harness.yaml_lines import DocPath, Document, Problem, read_document, shown


class DataConfig(Part):
    """Which samples are trained on and scored: a folder on disk, or a generated miniature."""

    name: str
    """Dataset, a file name of `harness/data/`."""
    root: str | None = None
    """Folder of the dataset; see `load_study` for what a relative one is relative to."""
    image_size: Annotated[int, Field(ge=32)] = 480
    """Height and width in pixels that images are resized to, at least 32."""
    options: Json = Field(default_factory=dict)
    """Choices that the dataset offers, such as its division into splits; only datasets of rasters have some."""
    synthetic: SyntheticConfig | None = None
    """What to generate instead of reading `root`."""

    @property
    def chosen(self) -> Any:
        """The dataset's options with defaults filled in; None for a dataset without."""
        return read_options(self.name, self.options)

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in DATASETS.names():
            raise refuse((), f"unknown dataset {name!r}; {nearest(name, DATASETS.names())}")
        return name

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if self.root is not None and self.synthetic is not None:
            raise refuse(("root",), "exactly one of root and synthetic must be given, received both; set one to null")
        if self.root is None and self.synthetic is None:
            raise refuse((), "exactly one of root and synthetic must be given, received neither; add one")
        for name, least in (("train", 1), ("val", 1), ("test", 1), ("size", 32)):
            value = getattr(self.synthetic, name, least)
            if value < least:
                raise refuse(("synthetic", name), f"must be at least {least}, received {value}")
        return self

    @model_validator(mode="after")
    def _options_fit(self) -> DataConfig:
        try:
            chosen = self.chosen
        except ValidationError as error:
            first = problems(error, options_schema(self.name))[0]
            raise refuse(("options", *first.path), first.text) from None
        if chosen is None and self.options:
            raise refuse(("options",), f"must be left out, {self.name} has no options")
        return self


class ReferenceConfig(Part):
    """The full method that differences are measured against."""

    label: Text
    model: Json
    """`name` and the fields that differ from the model's defaults."""
    search: OwnSearchConfig = OwnSearchConfig()


class LevelConfig(Part):
    """A row of an `explicit` design."""

    label: Text
    model: Json = Field(default_factory=dict)
    """Merged into the reference's model section; with another `name`, that model's defaults with these changes."""
    train: Json = Field(default_factory=dict)
    """Merged into the study's recipe."""
    data: Json = Field(default_factory=dict)
    """Merged into the study's data section; `image_size` only."""
    set: Json = Field(default_factory=dict)
    """Dotted config path -> value."""
    resources: Json = Field(default_factory=dict)
    """Merged into the study's resources."""
    search: OwnSearchConfig = OwnSearchConfig()
    """Merged into the study's search."""


class StepConfig(Part):
    """A row of a `cumulative` design."""

    label: Text
    set: Json
    """Dotted config path -> value."""


class ExcludeConfig(Part):
    """Points of a grid that are left out."""

    set: Annotated[Json, Field(min_length=1)]
    """Axis -> value; points that have all of them are left out."""
    reason: Text
    """Shown wherever the point would have been."""


Axes = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]


class ExplicitDesign(Part):
    """Rows written one by one."""

    design: Literal["explicit"]
    include_reference: bool = True
    """Whether the reference is the first row."""
    levels: Annotated[tuple[LevelConfig, ...], Field(min_length=1)]


class GridDesign(Part):
    """Every combination of the values of the axes; the last axis varies fastest."""

    design: Literal["grid"]
    axes: Axes
    exclude: tuple[ExcludeConfig, ...] = ()


class OneFactorDesign(Part):
    """The reference, then each value of each axis alone."""

    design: Literal["one_factor"]
    axes: Axes


class LeaveOneOutDesign(Part):
    """The reference, then the reference without each component."""

    design: Literal["leave_one_out"]
    components: Annotated[dict[str, Json | None], Field(min_length=1)]
    """Label -> what switches it off; or a list of components that the reference's model declares."""

    @field_validator("components", mode="before")
    @classmethod
    def _names_to_mapping(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return dict.fromkeys(value)
        return value


class CumulativeDesign(Part):
    """A ladder: every step keeps what the steps before it set."""

    design: Literal["cumulative"]
    start: StepConfig
    steps: Annotated[tuple[StepConfig, ...], Field(min_length=1)]


Design = Annotated[
    ExplicitDesign | GridDesign | OneFactorDesign | LeaveOneOutDesign | CumulativeDesign,
    Field(discriminator="design"),
]


class StudySpec(Part):
    """One YAML file, one question; `ReferringStudy` and `SemanticStudy` say what the sections of a task hold."""

    name: Slug
    """Name of the study; lower case letters, digits, `-` and `_`."""
    question: Text
    task: str
    data: DataConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    reference: ReferenceConfig
    base_seed: Annotated[int, Field(ge=0)] = 0
    """Seed that all random streams derive from."""
    replicates: Count = 1
    """Repetitions of every variant, each with random streams of its own."""
    resources: Resources = Resources()
    checkpoints: Checkpointing = Checkpointing()
    schedule: Limits = Limits()
    search: SearchConfig | None = None
    """How every variant is tuned before it is trained for the comparison; null compares them as they are written."""
    variants: Annotated[dict[str, Design], Field(min_length=1)]
    report: ReportConfig
    _document: Document = PrivateAttr(default_factory=Document)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are scored."""
        return self.evaluate.splits

    @property
    def has_search(self) -> bool:
        """Whether a variant may be tuned."""
        return self.search is not None or any(not own.is_silent for own in self._own_searches().values())

    def error(self, path: DocPath, text: str) -> SpecError:
        """The error that names the file and line of `path`."""
        return self._document.error(path, text)

    def first_error(self, found: Sequence[Problem]) -> SpecError:
        """The error for the first of several problems."""
        return self._document.first_error(found)

    @model_validator(mode="after")
    def _names_exist(self) -> StudySpec:
        for path, kind, name, known in self._names():
            if name not in known:
                raise refuse(path, f"unknown {kind} {name!r}; {nearest(name, known)}")
        for path, names in self._lists():
            for i, name in enumerate(names):
                if name in names[:i]:
                    raise refuse((*path, i), f"must be given once, {name!r} is given twice")
        names = tuple(table.name for table in self.report.tables)
        for i, name in enumerate(names):
            place = ("report", "tables", i, "name")
            if name in names[:i]:
                raise refuse(place, f"table names must differ, {name!r} is given twice")
            if name in RESERVED or name.startswith(f"{BREAKDOWN}_"):
                raise refuse(place, f"must be no name of the report's own files, received {name!r}; rename the table")
        if DATASETS.get(self.data.name).info.task != self.task:
            found = DATASETS.get(self.data.name).info.task
            raise refuse(
                ("data", "name"), f"must be a dataset for the task {self.task!r}, {self.data.name!r} is for {found!r}"
            )
        if "name" not in self.reference.model:
            raise refuse(("reference", "model"), "must name a model, no name is given; add `name: ...`")
        check_searches(self.search, self._own_searches())
        return self

    def _own_searches(self) -> dict[DocPath, OwnSearchConfig]:
        """Path -> what a row says about its search."""
        found: dict[DocPath, OwnSearchConfig] = {("reference", "search"): self.reference.search}
        for name, design in self.variants.items():
            for i, level in enumerate(design.levels if isinstance(design, ExplicitDesign) else ()):
                found["variants", name, "levels", i, "search"] = level.search
        return found

    def _lists(self) -> Iterator[tuple[DocPath, tuple[str, ...]]]:
        """Path and names of every list of the report that names nothing twice."""
        yield ("report", "figures"), self.report.figures
        yield ("report", "breakdowns"), self.report.breakdowns
        for i, table in enumerate(self.report.tables):
            yield ("report", "tables", i, "metrics"), table.metrics
            yield ("report", "tables", i, "splits"), table.splits

    def _names(self) -> Iterator[tuple[DocPath, str, str, tuple[str, ...]]]:
        """Path, kind, name used and valid names, for every name that must exist elsewhere."""
        metrics = task_metrics(self.task)
        yield ("train", "select"), "metric", self.train.select, metrics
        for place, search in {("search",): self.search, **self._own_searches()}.items():
            if search is not None and search.metric is not None:
                yield (*place, "metric"), "metric", search.metric, metrics
        yield ("report", "primary", "metric"), "metric", self.report.primary.metric, metrics
        yield ("report", "primary", "split"), "split", self.report.primary.split, self.splits
        for i, table in enumerate(self.report.tables):
            path: DocPath = ("report", "tables", i)
            yield (*path, "of"), "entry of variants", table.of, tuple(self.variants)
            yield from (((*path, "metrics", j), "metric", m, metrics) for j, m in enumerate(table.metrics))
            yield from (((*path, "splits", j), "split", s, self.splits) for j, s in enumerate(table.splits))
        for section, names, known in (
            ("figures", self.report.figures, FIGURES[self.task]),
            ("breakdowns", self.report.breakdowns, BREAKDOWNS[self.task]),
        ):
            kind = f"{section[:-1]} of a {self.task} study"
            yield from ((("report", section, i), kind, name, known) for i, name in enumerate(names))


class ReferringStudy(StudySpec):
    """A study of referring segmentation."""

    task: Literal["referring"]
    train: ReferringTrainConfig = ReferringTrainConfig()
    evaluate: ReferringEvaluateConfig = ReferringEvaluateConfig()


class SemanticStudy(StudySpec):
    """A study of semantic segmentation."""

    task: Literal["semantic"]
    train: SemanticTrainConfig = SemanticTrainConfig()
    evaluate: SemanticEvaluateConfig = SemanticEvaluateConfig()


STUDIES: Mapping[str, type[StudySpec]] = {"referring": ReferringStudy, "semantic": SemanticStudy}
"""Task -> what its studies may say."""


def load_study(path: str | Path, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> StudySpec:
    """Read a study.

    A relative `data.root` is relative to the study file's folder where the file says it, and to the current folder
    where it comes from outside the file: from `--set`, or from an environment variable that the text begins with.

    Args:
        path: The YAML file.
        overrides: `path=value` of every `--set`, applied in order.
        environ: For `${VAR}`; the process's environment by default.

    Raises:
        SpecError: One line that names the place, the path, what was found and the nearest valid names.
    """
    file = Path(path)
    variables = os.environ if environ is None else environ
    document = read_document(file, variables)
    for text in overrides:
        apply_override(document, text, variables)
    return study_of(document, folder=file.parent)


def study_of(document: Document, *, folder: Path) -> StudySpec:
    """Check a document; `folder` is what a relative `data.root` inside it is relative to."""
    document.value = {k: v for k, v in document.value.items() if not k.startswith("x-")}
    data = document.value.get("data")
    if isinstance(data, dict) and isinstance(data.get("root"), str):
        base = Path() if ("data", "root") in document.outside else folder
        data["root"] = os.path.normpath(base.absolute() / Path(data["root"]).expanduser())
    task = document.value.get("task", "referring")
    if not isinstance(task, str):
        raise document.error(("task",), f"must be {' or '.join(map(repr, STUDIES))}, received {shown(task)}")
    if task not in STUDIES:
        raise document.error(("task",), f"unknown value {task!r}; {nearest(task, STUDIES)}")
    schema = STUDIES[task]
    try:
        study = schema.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        raise document.first_error(problems(error, schema, tagged=True)) from None
    study._document = document
    return study
