"""Studies that load, and the one line that says why one does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter, ValidationError

from harness.errors import SpecError
from harness.spec import load_study
from harness.spec_errors import problems
from harness.spec_protocol import EvaluateConfig
from harness.spec_recipe import ReferringTrainConfig
from harness.yaml_lines import DocPath, Document, Problem, parse_document
from tests import tiny_semantic
from tests.conftest import ROOT
from tests.toy_study import STUDY, toy_study, with_variants, write_study


def fails(path: Path, message: str, *overrides: str) -> None:
    """Loading must fail with exactly `message`, in which FILE stands for the study's path."""
    expected = message.replace("FILE", str(path))
    with pytest.raises(SpecError, match=f"^{re.escape(expected)}$"):
        load_study(path, overrides, {})


def test_defaults_are_the_published_recipe(tmp_path: Path) -> None:
    train = toy_study(tmp_path, ("  epochs: 2\n  lr: 3e-5\n", "  {}\n")).train
    assert (train.epochs, train.global_batch, train.lr, train.weight_decay, train.power) == (40, 8, 3e-5, 0.01, 0.9)
    assert train.loss.class_weights == (0.9, 1.1)
    assert (train.black_boxes.fraction, train.black_boxes.size) == (0.2, 32)
    assert train.select == "oiou"


def test_numbers_that_yaml_1_1_reads_as_text_are_numbers(tmp_path: Path) -> None:
    assert toy_study(tmp_path).train.lr == 3e-5


def test_resolved_recipe_loads_again(tmp_path: Path) -> None:
    train = toy_study(tmp_path).train
    assert ReferringTrainConfig.model_validate(train.model_dump(mode="json")) == train


def test_spec_loads_without_torch() -> None:
    code = "import sys, harness.spec, harness.seeding, harness.plan_view; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_anchors_merges_and_free_keys(tmp_path: Path) -> None:
    text = STUDY.replace("train:\n  epochs: 2\n", "x-recipe: &r {epochs: 7, power: 2}\ntrain:\n  <<: *r\n  power: 1\n")
    path = tmp_path / "study.yaml"
    path.write_text(text)
    train = load_study(path, environ={}).train
    assert (train.epochs, train.power, train.lr) == (7, 1.0, 3e-5)


def test_error_in_a_merged_value_names_the_line_of_the_anchor(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("train:\n  epochs: 2", "x-r: &r\n  epoch: 2\ntrain:\n  <<: *r"))
    fails(path, "FILE:6: train.epoch: unknown key 'epoch'; did you mean 'epochs'?")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("question: W", "questoin: W", "2: questoin: unknown key 'questoin'; did you mean 'question'? (and 1 more)"),
        ("question: Which part matters?\n", "", "1: 'question' must be given, it is missing"),
        ("name: toy\n", "name: Toy!\n", "1: name: must be lower case letters, digits, - and _, received 'Toy!'"),
        ("task: referring", "task: refering", "3: task: unknown value 'refering'; did you mean 'referring'?"),
        (
            "task: referring",
            "task: semantic",
            "8: evaluate.controls: unknown key 'controls'; "
            "valid: average, overlap, predictions, protocol, stress, test",
        ),
        (
            "name: rrsis_d,",
            "name: gid,",
            "4: data.name: must be a dataset for the task 'referring', 'gid' is for 'semantic'",
        ),
        ("task: referring", "task: 3", "3: task: must be 'referring' or 'semantic', received 3"),
        (
            "{train: 8}",
            "{trian: 8}",
            "4: data.synthetic.trian: unknown key 'trian'; did you mean 'train'?",
        ),
        ("{train: 8}", "{train: 0}", "4: data.synthetic.train: must be at least 1, received 0"),
        ("{train: 8}", "{train: yes}", '4: data.synthetic.train: must be a whole number, received "yes"'),
        (
            "synthetic: {train: 8}",
            "root: null",
            "4: data: exactly one of root and synthetic must be given, received neither; add one",
        ),
        (
            "synthetic: {",
            "root: d, synthetic: {",
            "4: data.root: exactly one of root and synthetic must be given, received both; set one to null",
        ),
        ("name: rrsis_d", "name: rrsisd", "4: data.name: unknown dataset 'rrsisd'; did you mean 'rrsis_d'?"),
        ("epochs: 2", "epochs: 0", "6: train.epochs: must be greater than or equal to 1, received 0"),
        ("epochs: 2", "epochs: 2.5", "6: train.epochs: must be a whole number, received 2.5"),
        ("epochs: 2", "loss: {ce: 0, dice: 0}", "6: train.loss: ce or dice must be above 0, received 0 for both"),
        ("epochs: 2", "loss: {class_weights: [1]}", "6: train.loss.class_weights: '1' must be given, it is missing"),
        ("epochs: 2", "end_lr: 1", "6: train.end_lr: must be at most lr = 3e-05, received 1.0"),
        ("epochs: 2", "select: iou", "6: train.select: unknown metric 'iou'; did you mean 'oiou' or 'miou'?"),
        (
            "epochs: 2",
            "black_boxes: {max_count: 3}",
            "6: train.black_boxes.max_count: must be at least min_count = 20, received 3",
        ),
        ("  lr: 3e-5", "  lr: .inf", "7: train.lr: a number must be finite, received .inf"),
        ("  lr: 3e-5", "  epochs: 3", "7: train: key 'epochs' must be given once, it is given twice; remove one"),
        (
            "[shuffled_s",
            "[shufled_s",
            "8: evaluate.controls.0: unknown value 'shufled_sentences'; did you mean 'shuffled_sentences'?",
        ),
        ("{name: toy, ker", "{ker", "11: reference.model: must name a model, no name is given; add `name: ...`"),
        ("replicates: 2", "resources: {workers: 0}", "12: resources.workers: workers must be at least 1, got 0"),
        (
            "replicates: 2",
            "resources: {cpus_per_worker: 0}",
            "12: resources.cpus_per_worker: cpus_per_worker must be above 0, got 0.0",
        ),
        (
            "replicates: 2",
            "resources: {worker: 1}",
            "12: resources.worker: unknown key 'worker'; did you mean 'workers' or 'data_workers' or 'reuse_workers'?",
        ),
        ("design: grid", "design: gird", "15: variants.kernels.design: unknown value 'gird'; did you mean 'grid'?"),
        (
            "    design: grid\n",
            "",
            "14: variants.kernels: 'design' must be given, it is missing; "
            "valid: cumulative, explicit, grid, leave_one_out, one_factor",
        ),
        ("axes: {", "axis: {", "16: variants.kernels.axis: unknown key 'axis'; did you mean 'axes'? (and 1 more)"),
        (
            "axes: {m",
            "steps: 1\n    axes: {m",
            "16: variants.kernels.steps: unknown key 'steps'; valid: axes, design, exclude",
        ),
        (
            "axes: {model.kernels: [[1], [1, 3], [1, 3, 5]]}",
            "axes: 3",
            "16: variants.kernels.axes: must be a mapping, received 3",
        ),
        ("metric: miou", "metric: miuo", "18: report.primary.metric: unknown metric 'miuo'; did you mean 'miou'?"),
        ("[oiou, miou]", "[oiou, p55]", "23: report.tables.0.metrics.1: unknown metric 'p55'; did you mean 'p50'?"),
        (
            "of: kernels",
            "of: kernel",
            "21: report.tables.0.of: unknown entry of variants 'kernel'; did you mean 'kernels'?",
        ),
        (
            "test_shuffled",
            "train",
            "24: report.tables.0.splits.1: unknown split 'train'; valid: test, test_shuffled, val, val_shuffled",
        ),
        (
            "kind: ablation",
            "kinds: ablation",
            "22: report.tables.0.kinds: unknown key 'kinds'; did you mean 'kind'? (and 1 more)",
        ),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    fails(write_study(tmp_path, (old, new)), f"FILE:{message}")


def test_table_names_must_differ(tmp_path: Path) -> None:
    table = "    - {name: kernels, of: kernels, kind: ablation, metrics: [miou]}\n"
    path = write_study(tmp_path, ("  tables:\n", f"  tables:\n{table}"))
    fails(path, "FILE:21: report.tables.1.name: table names must differ, 'kernels' is given twice")


@pytest.mark.parametrize("name", ["tables", "numbers", "breakdown_size"])
def test_tables_are_not_named_like_other_files_of_the_report(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=r"tables\.0\.name: must be no name of the report's own files, received '"):
        load_study(write_study(tmp_path, ("- name: kernels", f"- name: {name}")), environ={})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("metrics: [", "metrics: [miou, ", "report.tables.0.metrics.2: must be given once, 'miou' is given twice"),
        ("test_shuffled", "val", "report.tables.0.splits.1: must be given once, 'val' is given twice"),
        ("  tables:", "  figures: [cost, delta, cost]\n  tables:", "report.figures.2: must be given once, 'cost' is"),
        ("  tables:", "  breakdowns: [size, size]\n  tables:", "report.breakdowns.1: must be given once, 'size' is"),
    ],
)
def test_the_report_names_nothing_twice(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        load_study(write_study(tmp_path, (old, new)), environ={})


def test_components_must_be_names_or_a_mapping(tmp_path: Path) -> None:
    text = "  parts: {design: leave_one_out, components: [1]}\n"
    path = write_study(tmp_path, *with_variants(text, "parts"))
    fails(path, "FILE:14: variants.parts.components: must be a mapping, received [1]")


def test_lists_must_not_be_empty(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("[oiou, miou]", "[]"))
    fails(path, "FILE:23: report.tables.0.metrics: must have at least 1 entry, received []")


def test_splits_without_controls(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("evaluate: {controls: [shuffled_sentences]}\n", ""))
    fails(path, "FILE:23: report.tables.0.splits.1: unknown split 'test_shuffled'; valid: test, val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "1: must be valid YAML, received text that is not: while parsing a flow sequence, expected"),
        ("a: 1\n\tb: 2", "2: must be valid YAML"),
        ("a: \x01", "1: must be valid YAML, received text that is not: special characters are not allowed"),
        ("a: *b", "1: must be valid YAML, received text that is not: found undefined alias 'b'"),
        ("--- 1\n--- 2", "2: must be valid YAML"),
        ("- 1", "1: a study must be a mapping of keys to values, received [1]"),
        ("", "1: a study must be a mapping of keys to values, received null"),
        ("a: &x [*x]", "1: a.0: an alias must not refer to what contains it; write the value out"),
        ("a: !!python/name:os.system", "1: a: a value must be null, true, false, a number or text"),
        ("a: !!int x", "1: a: the value must fit its tag 'tag:yaml.org,2002:int', received 'x'"),
        ("a:\n  [1]: 2", "2: a: a key must be text, received a list or mapping; quote"),
        ("a: {<<: 3}", "1: a: `<<` must be followed by an alias of a mapping, or a list of such"),
        ("a: ${Q}", "1: a: environment variable 'Q' must be set, it is not; export it or write ${Q:-default}"),
        ("a: x${1}", "1: a: a variable must be ${VAR} or ${VAR:-default}, received '${1}'"),
        ("a: '${Q'", "1: a: a variable must be ${VAR} or ${VAR:-default}, received '${Q'"),
    ],
)
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=f"^{re.escape(f'{path}:{message}')}"):
        load_study(path, environ={})


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nowhere.x\.yaml: the file of a study must be readable.*; check the path$"):
        load_study(tmp_path / "nowhere" / "x.yaml")
    write_study(tmp_path)
    with pytest.raises(SpecError, match=r"No such file or directory; did you mean 'study\.yaml'\?$"):
        load_study(tmp_path / "studdy.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"question: \xe9")
    with pytest.raises(SpecError, match=r"must be UTF-8 text, received byte 10 that is not$"):
        load_study(tmp_path / "latin.yaml")


def test_scalars_of_yaml_1_2() -> None:
    text = "{a: no, b: 2024-01-01, c: 1_000, d: 0x1F, e: 0o17, f: ~, g: TRUE, h: 1., i: -.5e1, j: !!str 3, k: <<, l: }"
    found = parse_document(text, "f", {}).value
    expected = {"a": "no", "b": "2024-01-01", "c": "1_000", "d": 31, "e": 15, "f": None, "g": True, "h": 1.0}
    assert found == {**expected, "i": -5.0, "j": "3", "k": "<<", "l": None}


def test_variables() -> None:
    environ = {"DIR": "here", "N": "3", "EMPTY": ""}
    text = "{a: ${DIR}/x, b: ${N}, c: '${N}', d: ${NONE:-4}, e: ${EMPTY:-a b}, f: ${EMPTY}, "
    text += "g: '${M:-[1, 2]: #}', h: ${E:-}}"
    document = parse_document(text, "f", environ)
    expected = {"a": "here/x", "b": 3, "c": "3", "d": 4, "e": "a b", "f": None, "g": "[1, 2]: #", "h": None}
    assert document.value == expected
    assert document.outside == {("a",), ("b",), ("c",)}


def test_merge_of_several_mappings_prefers_the_first() -> None:
    text = "x: &x {a: 1, b: {c: 1}}\ny: &y {a: 2, d: 2}\nz:\n  <<: [*x, *y]\n  b: 3"
    document = parse_document(text, "f", {})
    assert document.value["z"] == {"a": 1, "d": 2, "b": 3}
    assert document.place(("z", "a")) == "f:1"
    assert document.place(("z", "b")) == "f:5"
    assert document.place(("z", "b", "c")) == "f:5"
    assert Document().place(("a",)) == "study"


def test_folder_in_the_file_is_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    path = write_study(tmp_path, ("synthetic: {train: 8}", "root: ${DATA:-../data}"))
    assert load_study(path, environ={}).data.root == str(tmp_path.parent / "data")
    assert load_study(path, environ={"DATA": "d"}).data.root == str(tmp_path / "cwd" / "d")
    assert load_study(path, ["data.root=../e"], {}).data.root == str(tmp_path / "e")
    assert load_study(path, ["data={name: rrsis_d, root: e}"], {}).data.root == str(tmp_path / "cwd" / "e")
    assert load_study(path, ["data.root=~/e"], {}).data.root == str(Path("~/e").expanduser())


def test_overrides(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = load_study(
        path,
        [
            "train.lr=1e-3",
            "train.loss.dice=0",
            "report.tables.0.splits=[val]",
            "variants.kernels.axes.model.kernels.1=[7]",
            "variants.kernels.axes.train.epochs=[1, 2]",
            "reference.model.encoder.width=4",
        ],
        {},
    )
    assert (study.train.lr, study.train.loss.dice, study.train.epochs) == (1e-3, 0, 2)
    assert study.report.tables[0].splits == ("val",)
    assert study.variants["kernels"].model_dump()["axes"] == {
        "model.kernels": [[1], [7], [1, 3, 5]],
        "train.epochs": [1, 2],
    }
    assert study.reference.model["encoder"] == {"width": 4}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "must be path=value, received 'train.epochs'; write for example --set train.epochs=1"),
        ("=3", "must be path=value, received '=3'; write for example --set train.epochs=1"),
        ("train.epoch=3", "train.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ("trian.epochs=3", "trian: unknown key 'trian'; did you mean 'train' or 'variants'?"),
        ("train.epochs=x", 'train.epochs: must be a whole number, received "x"'),
        ("train.lr=${Q}", "environment variable 'Q' must be set, it is not; export it or write ${Q:-default}"),
        ("train.lr.x=1", "train.lr: must be a mapping or list to hold 'x', it is 3e-05"),
        ("report.tables.1.of=x", "report.tables: an index must be 0 to 0, received '1'"),
        ("report.tables.x.of=x", "report.tables: an index must be 0 to 0, received 'x'"),
        ("variants.kernel.design=x", "variants.kernel: no such entry; did you mean 'kernels'?"),
        ("data.root=d", "data.root: exactly one of root and synthetic must be given, received both; set one to null"),
        ("task=refer", "task: unknown value 'refer'; did you mean 'referring'?"),
    ],
)
def test_override_that_cannot_be_applied(tmp_path: Path, override: str, message: str) -> None:
    fails(write_study(tmp_path), f"--set {override}: {message}", override)


def test_override_that_is_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^--set question=\[1: must be valid YAML"):
        load_study(write_study(tmp_path), ["question=[1"], {})


def test_override_into_an_empty_list(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("[oiou, miou]", "[]"))
    fails(
        path,
        "--set report.tables.0.metrics.0=x: report.tables.0.metrics: the list is empty, received index '0'",
        "report.tables.0.metrics.0=x",
    )


def test_errors_in_the_file_come_before_errors_in_overrides(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("epochs: 2", "epochs: 0"))
    message = "FILE:6: train.epochs: must be greater than or equal to 1, received 0 (and 1 more)"
    fails(path, message, "name=X")


def test_long_values_are_cut(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("epochs: 2", f"epochs: {'x' * 99}"))
    fails(path, f'FILE:6: train.epochs: must be a whole number, received "{"x" * 56}...')


@dataclass(frozen=True)
class Left:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    left: int = 0


@dataclass(frozen=True)
class Right:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    right: int = 0


@dataclass(frozen=True)
class Either:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    side: Left | Right
    pair: tuple[Left, Right] | None = None
    count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("a count must not be negative")


@pytest.mark.parametrize(
    ("value", "path", "text"),
    [
        ({"side": {"up": 1}}, ("side", "Left", "up"), "unknown key 'up'; valid: (none)"),
        ({"side": {}, "pair": [{}, {"rihgt": 1}]}, ("pair", 1, "rihgt"), "unknown key 'rihgt'; did you mean 'right'?"),
        ({"side": {}, "count": -1}, (), "a count must not be negative"),
        ({"side": {}, "count": True}, ("count",), "must be a whole number, received true"),
    ],
)
def test_complaints_of_a_models_own_config(value: Any, path: DocPath, text: str) -> None:
    with pytest.raises(ValidationError, match="validation error") as caught:
        TypeAdapter(Either).validate_json(json.dumps(value), strict=True)
    assert problems(caught.value, Either)[0] == Problem(path, text)


def test_a_study_made_in_code_has_no_lines(tmp_path: Path) -> None:
    made = toy_study(tmp_path)
    study = type(made).model_validate(made.model_dump())
    error = study.first_error([Problem(("train",), "b", is_missing=True), Problem((), "a")])
    assert str(error) == "study: a (and 1 more)"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "size: 48}}",
            "size: 48}, options: {splt: x}}",
            "4: data.options.splt: unknown key 'splt'; did you mean 'split'?",
        ),
        (
            "modality: sar, levels: [4]",
            "modality: sar",
            "13: evaluate.stress.0.levels: must be given for shift, it is missing",
        ),
        ("{kind: drop,", "{kind: drop, levels: [1],", "13: evaluate.stress.1.levels: must not be given for drop"),
        (
            "levels: [4]",
            "levels: [1.5]",
            "13: evaluate.stress.0.levels: must be whole numbers of pixels, received [1.5]",
        ),
        (
            "[0.5, 1.5]",
            "[2, 1]",
            "11: train.crops.scale: must be the least, then the largest factor, received [2.0, 1.0]",
        ),
        (
            "evaluate:\n",
            "evaluate:\n  test: false\n",
            "14: evaluate.stress: must be left out where test is false: it disturbs the test split",
        ),
    ],
)
def test_one_line_says_what_is_wrong_with_a_semantic_study(tmp_path: Path, old: str, new: str, message: str) -> None:
    fails(tiny_semantic.write_study(tmp_path, (old, new)), f"FILE:{message}")


def test_options_of_a_dataset_without(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("image_size: 64,", "image_size: 64, options: {split: x},"))
    fails(path, "FILE:4: data.options: must be left out, rrsis_d has no options")


def test_every_protocol_scores_validation_and_test() -> None:
    assert EvaluateConfig().splits == ("val", "test")
