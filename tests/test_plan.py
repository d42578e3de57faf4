"""Studies expanded: designs, sharing, identity, and the one line that says why a study cannot be planned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.data.base import DATASETS, DatasetInfo
from harness.errors import DataError, SpecError
from harness.plan import ABSENT, expand, fingerprint_of, study_sha
from harness.plan_view import plan_counts, plan_json, plan_lines, render_plan
from harness.records import Limits, Plan, Row, Trial
from harness.resolve import merged
from harness.spec import load_study
from tests.conftest import ROOT, Golden
from tests.toy_study import STUDY, toy_study, with_variants, write_study

pytestmark = pytest.mark.usefixtures("toy_models")

EXPLICIT = """\
  rivals:
    design: explicit
    levels:
      - {label: Other, model: {name: other}, train: {lr: 1e-4}, set: {model.width: 16}}
      - {label: Wide, model: {encoder: {width: 16}}, data: {image_size: 96}, resources: {workers: 2}}
"""
LADDER = """\
  ladder:
    design: cumulative
    start: {label: default, set: {model.fusion: sum, model.noise: false}}
    steps:
      - {label: + correlation, set: {model.fusion: correlation}}
      - {label: + noise, set: {model.noise: true}}
"""


def planned(folder: Path, *changes: tuple[str, str]) -> Plan:
    return expand(toy_study(folder, *changes), fingerprint=ABSENT)


def rows(plan: Plan, table: int = 0) -> dict[str, Row]:
    return {row.label: row for row in plan.tables[table].rows}


def fails(path: Path, message: str, *overrides: str) -> None:
    """Planning must fail with exactly `message`, in which FILE stands for the study's path."""
    study = load_study(path, overrides, {})
    with pytest.raises(SpecError, match=f"^{re.escape(message.replace('FILE', str(path)))}$"):
        expand(study, fingerprint=ABSENT)


def test_grid(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert list(rows(plan)) == ["kernels = [1]", "kernels = [1, 3]", "kernels = [1, 3, 5]"]
    assert [dict(r.changes) for r in rows(plan).values()] == [{"model.kernels": [1]}, {"model.kernels": [1, 3]}, {}]
    assert [r.is_reference for r in rows(plan).values()] == [False, False, True]
    assert [r.variant for r in rows(plan).values()] == ["kernels = [1]", "kernels = [1, 3]", "Toy"]
    assert [(t.variant, t.replicate) for t in plan.trials[:3]] == [
        ("kernels = [1]", 0),
        ("kernels = [1]", 1),
        ("kernels = [1, 3]", 0),
    ]
    assert len({t.id for t in plan.trials}) == 6


def test_trial_is_fully_resolved(tmp_path: Path) -> None:
    trial = expand(toy_study(tmp_path), fingerprint="f", data_root="d").trials[0]
    assert trial.model == {
        "name": "toy",
        "encoder": {"width": 8, "depths": [1, 1], "drop_path": 0.1},
        "fusion": "correlation",
        "noise": True,
        "kernels": [1],
        "scale": 1.0,
        "weights": None,
    }
    synthetic = {"train": 8, "val": 16, "test": 16, "size": 96, "seed": 0, "quirks": False}
    assert trial.data == {"name": "rrsis_d", "image_size": 64, "synthetic": synthetic}
    assert trial.train["loss"] == {
        "ce": 0.9,
        "dice": 0.1,
        "class_weights": [0.9, 1.1],
        "dice_reduction": "sum",
        "ce_reduction": "mean",
        "auxiliary": 0.0,
    }
    assert trial.evaluate["controls"] == ["shuffled_sentences"]
    assert (trial.data_fingerprint, trial.data_root) == ("f", "d")
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))).id == trial.id


def test_grid_of_two_axes_with_an_exclusion(tmp_path: Path) -> None:
    text = """\
  both:
    design: grid
    axes: {model.noise: [true, false], model.fusion: [sum, correlation]}
    exclude:
      - {set: {model.noise: true, model.fusion: sum}, reason: diverges}
"""
    plan = planned(tmp_path, *with_variants(text, "both"))
    assert list(rows(plan)) == [
        "noise = true, fusion = correlation",
        "noise = false, fusion = sum",
        "noise = false, fusion = correlation",
    ]
    assert [(s.variant, s.table, s.reason) for s in plan.skipped] == [
        ("noise = true, fusion = sum", "both", "diverges")
    ]


def test_axes_that_end_alike_are_named_in_full(tmp_path: Path) -> None:
    text = "  both: {design: grid, axes: {model.encoder.width: [4], model.scale: [2], train.loss.ce: [1]}}\n"
    assert list(rows(planned(tmp_path, *with_variants(text, "both")))) == ["width = 4, scale = 2, ce = 1"]
    text = "  both: {design: grid, axes: {train.power: [1], train.epochs: [3], train.black_boxes.size: [2]}}\n"
    assert list(rows(planned(tmp_path, *with_variants(text, "both")))) == ["power = 1, epochs = 3, size = 2"]


def test_explicit(tmp_path: Path) -> None:
    plan = planned(tmp_path, *with_variants(EXPLICIT, "rivals"))
    found = rows(plan)
    assert list(found) == ["Toy", "Other", "Wide"]
    assert found["Toy"].is_reference
    assert found["Other"].changes == {
        "model.name": "other", "model.fusion": "sum", "model.width": 16, "train.lr": 1e-4
    }  # fmt: skip
    assert found["Wide"].changes == {"model.encoder.width": 16, "data.image_size": 96}
    wide = plan.trial(found["Wide"].trial_ids[0])
    assert wide.resources.workers == 2
    assert wide.model["kernels"] == [1, 3, 5]
    assert wide.model["encoder"]["depths"] == [1, 1]


def test_explicit_without_the_reference(tmp_path: Path) -> None:
    text = EXPLICIT.replace("design: explicit", "design: explicit\n    include_reference: false")
    assert list(rows(planned(tmp_path, *with_variants(text, "rivals")))) == ["Other", "Wide"]


def test_one_factor(tmp_path: Path) -> None:
    text = "  one: {design: one_factor, axes: {model.noise: [true, false], train.lr: [1e-4, 1e-5]}}\n"
    plan = planned(tmp_path, *with_variants(text, "one"))
    assert list(rows(plan)) == ["Toy", "noise = false", "lr = 0.0001", "lr = 1e-05"]
    assert [(s.variant, s.reason) for s in plan.skipped] == [
        ("noise = true", "equals the reference, which is a row already")
    ]


def test_leave_one_out_of_what_the_model_declares(tmp_path: Path) -> None:
    text = "  parts: {design: leave_one_out, components: [noise, kernels]}\n"
    found = rows(planned(tmp_path, *with_variants(text, "parts")))
    assert {label: row.changes for label, row in found.items()} == {
        "Toy": {},
        "w/o noise": {"model.noise": False},
        "w/o kernels": {"model.kernels": [1]},
    }


def test_leave_one_out_of_groups(tmp_path: Path) -> None:
    text = "  parts: {design: leave_one_out, components: {neither: {model.noise: false, model.fusion: sum}}}\n"
    found = rows(planned(tmp_path, *with_variants(text, "parts")))
    assert found["neither"].changes == {"model.noise": False, "model.fusion": "sum"}


def test_cumulative_ends_at_the_reference_and_shares_it(tmp_path: Path) -> None:
    kernels = STUDY[STUDY.index("  kernels:\n") : STUDY.index("report:")]
    plan = planned(tmp_path, *with_variants(LADDER + kernels, "ladder", "kernels"))
    assert [dict(r.changes) for r in rows(plan).values()] == [
        {"model.fusion": "sum", "model.noise": False},
        {"model.noise": False},
        {},
    ]
    assert rows(plan)["+ noise"].trial_ids == rows(plan, 1)["kernels = [1, 3, 5]"].trial_ids
    counts = plan_counts(plan, {plan.trials[0].id})
    assert (counts.variants, counts.trials, counts.shared, counts.done, counts.missing) == (5, 10, 2, 1, 9)


def test_equal_labels_of_different_configurations_get_the_entry_added(tmp_path: Path) -> None:
    other = LADDER.replace("ladder", "other").replace("noise: false", "noise: false, model.kernels: [1]")
    plan = planned(tmp_path, *with_variants(LADDER + other, "ladder", "other"))
    assert rows(plan)["default"].variant == "default"
    assert rows(plan, 1)["default"].variant == "default (other)"


def test_equal_configurations_of_two_tables_are_one_variant_under_the_first_label(tmp_path: Path) -> None:
    text = "  a: {design: grid, axes: {model.noise: [false]}}\n  b: {design: leave_one_out, components: [noise]}\n"
    plan = planned(tmp_path, *with_variants(text, "a", "b"))
    assert rows(plan, 1)["w/o noise"].variant == "noise = false"
    assert len(plan.trials) == 4


def test_entries_that_no_table_shows_are_skipped_with_a_reason(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, *with_variants(LADDER + "  spare: {design: leave_one_out, components: [noise]}\n", "ladder")
    )
    assert [(s.variant, s.table, s.reason) for s in plan.skipped] == [
        ("spare", "", "no table of the report shows this entry of variants")
    ]


def test_two_tables_may_show_one_entry(tmp_path: Path) -> None:
    table = "    - {name: again, of: kernels, kind: comparison, metrics: [p50], published: rrsis_d, caption: Again.}\n"
    plan = planned(tmp_path, ("    - name: kernels", f"{table}    - name: kernels"))
    assert plan.tables[0].rows == plan.tables[1].rows
    assert (plan.tables[0].published, plan.tables[0].caption) == ("rrsis_d", "Again.")


def variants(text: str, *names: str) -> tuple[tuple[str, str], ...]:
    return with_variants(f"  v: {text}\n", *(names or ("v",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{design: grid, axes: {model.kernel: [[1]]}}",
            "14: variants.v.axes.model.kernel.0: 'model.kernel' must be a path into the configuration of toy, "
            "'model' has no 'kernel'; did you mean 'kernels'?",
        ),
        (
            "{design: grid, axes: {kernels: [[1]]}}",
            "14: variants.v.axes.kernels.0: 'kernels' must be a path into the configuration of toy; "
            "did you mean 'model.kernels'?",
        ),
        (
            "{design: grid, axes: {model.kernels.0: [1]}}",
            "14: variants.v.axes.model.kernels.0.0: 'model.kernels.0' must be a path into the configuration of toy; "
            "'model.kernels' is one value, set it as a whole",
        ),
        (
            "{design: grid, axes: {model.kernels: [[a]]}}",
            '14: variants.v.axes.model.kernels.0.0: must be a whole number, received "a"',
        ),
        (
            "{design: grid, axes: {model.fusion: [sums]}}",
            "14: variants.v.axes.model.fusion.0: unknown value 'sums'; did you mean 'sum'?",
        ),
        (
            "{design: grid, axes: {model.encoder.depths: [[1, 1, 1, 1, 1]]}}",
            "14: variants.v.axes.model.encoder.depths.0: encoder must have at most 4 stages, got 5",
        ),
        (
            "{design: grid, axes: {model.name: [other]}}",
            "14: variants.v.axes.model.name.0: must not be model.name; "
            "write each model as a level of an explicit design",
        ),
        (
            "{design: grid, axes: {train.lr: [-1]}}",
            "14: variants.v.axes.train.lr.0: must be greater than 0, received -1",
        ),
        (
            "{design: grid, axes: {model.noise: [false, false]}}",
            "14: variants.v.axes.model.noise.1: rows of a table must differ, "
            "'noise = false' and 'noise = false' are the same; change or remove one",
        ),
        (
            "{design: grid, axes: {model.noise: [false]}, exclude: [{set: {model.nois: false}, reason: x}]}",
            "14: variants.v.exclude.0.set.model.nois: unknown axis 'model.nois'; did you mean 'model.noise'?",
        ),
        (
            "{design: grid, axes: {model.noise: [false]}, exclude: [{set: {model.noise: true}, reason: x}]}",
            "14: variants.v.exclude.0.set.model.noise: must be a value of that axis, received true; valid: false",
        ),
        (
            "{design: grid, axes: {model.noise: [false]}, exclude: [{set: {model.noise: false}, reason: x}]}",
            "14: variants.v.exclude: must leave at least one point of the grid, it excludes all; remove one",
        ),
        (
            "{design: explicit, levels: [{label: A, model: {name: othr}}]}",
            "14: variants.v.levels.0.model.name: unknown model 'othr'; did you mean 'other'?",
        ),
        (
            "{design: explicit, levels: [{label: A, model: {name: other, noise: true}}]}",
            "14: variants.v.levels.0.model.noise: unknown key 'noise'; valid: fusion, width",
        ),
        (
            "{design: explicit, levels: [{label: A, model: {name: other}, set: {model.noise: true}}]}",
            "14: variants.v.levels.0.set.model.noise: 'model.noise' must be a path into the configuration of other, "
            "'model' has no 'noise'; valid: fusion, name, width",
        ),
        (
            "{design: explicit, levels: [{label: A, model: {name: landcover}}]}",
            "14: variants.v.levels.0.model.name: the model must be for the study's task 'referring', "
            "'landcover' is for 'semantic'",
        ),
        (
            "{design: explicit, levels: [{label: A, model: {encoder: {widht: 3}}}]}",
            "14: variants.v.levels.0.model.encoder.widht: unknown key 'widht'; did you mean 'width'?",
        ),
        (
            "{design: explicit, levels: [{label: A, train: {end_lr: 1}}]}",
            "14: variants.v.levels.0.train.end_lr: must be at most lr = 3e-05, received 1.0",
        ),
        (
            "{design: explicit, levels: [{label: A, data: {root: d}}]}",
            "14: variants.v.levels.0.data.root: unknown key 'root'; valid: image_size",
        ),
        (
            "{design: explicit, levels: [{label: A, resources: {workers: 3}}]}",
            "14: variants.v.levels.0.resources: train.global_batch must be a multiple of resources.workers = 3, "
            "received 8",
        ),
        (
            "{design: explicit, levels: [{label: A}]}",
            "14: variants.v.levels.0: rows of a table must differ, 'Toy' and 'A' are the same; change or remove one",
        ),
        (
            "{design: explicit, levels: [{label: Toy, set: {model.noise: false}}]}",
            "14: variants.v.levels.0.set.model.noise: labels of a table must differ, 'Toy' is given twice",
        ),
        (
            "{design: leave_one_out, components: [noises]}",
            "14: variants.v.components.noises: unknown component 'noises'; did you mean 'noise'?",
        ),
        (
            "{design: cumulative, start: {label: a, set: {model.noise: false}}, "
            "steps: [{label: b, set: {model.nose: true}}]}",
            "14: variants.v.steps.0.set.model.nose: 'model.nose' must be a path into the configuration of toy, "
            "'model' has no 'nose'; did you mean 'noise'?",
        ),
    ],
)
def test_one_line_says_why_it_cannot_be_planned(tmp_path: Path, text: str, message: str) -> None:
    fails(write_study(tmp_path, *variants(text)), f"FILE:{message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: toy,", "name: toi,", "11: reference.model.name: unknown model 'toi'; did you mean 'toy'?"),
        (
            "kernels: [1, 3, 5]}",
            "kernel: [1]}",
            "11: reference.model.kernel: unknown key 'kernel'; did you mean 'kernels'?",
        ),
        (
            "kernels: [1, 3, 5]}",
            "encoder: {depths: [1, 1, 1, 1, 1]}}",
            "11: reference.model.encoder: encoder must have at most 4 stages, got 5",
        ),
    ],
)
def test_reference_that_cannot_be_planned(tmp_path: Path, old: str, new: str, message: str) -> None:
    fails(write_study(tmp_path, (old, new)), f"FILE:{message}")


def test_batch_that_does_not_split(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("epochs: 2", "global_batch: 9"), ("replicates: 2", "resources: {workers: 2}"))
    text = "train.global_batch must be a multiple of resources.workers = 2, received 9"
    fails(path, f"FILE:6: train.global_batch: {text}")


def test_model_name_that_is_no_text(tmp_path: Path) -> None:
    study = toy_study(tmp_path, ("name: toy,", "name: 3,"))
    with pytest.raises(
        SpecError, match=r"study.yaml:11: reference.model.name: must be a model's name, received 3; valid: "
    ):
        expand(study, fingerprint=ABSENT)


def test_error_in_an_override_names_the_option(tmp_path: Path) -> None:
    message = "--set reference.model.nose=1: reference.model.nose: unknown key 'nose'; did you mean 'noise'?"
    fails(write_study(tmp_path), message, "reference.model.nose=1")


def test_model_that_checks_itself_names_the_field(tmp_path: Path) -> None:
    path = write_study(tmp_path, ("kernels: [1, 3, 5]}", "\n    encoder: {width: 0}}"))
    fails(path, "FILE:12: reference.model.encoder.width: encoder.width must be at least 1, got 0")


def test_label_that_is_taken_twice(tmp_path: Path) -> None:
    levels = "{label: x, set: {model.noise: false}}, {label: x (b), set: {model.scale: 2}}"
    first = f"  a: {{design: explicit, levels: [{levels}]}}\n"
    second = "  b: {design: explicit, levels: [{label: x, set: {model.scale: 3}}]}\n"
    path = write_study(tmp_path, *with_variants(first + second, "a", "b"))
    fails(path, "FILE:15: variants.b.levels.0: label 'x' must name one configuration, another has it too; change one")


def ids(plan: Plan) -> list[str]:
    return [t.id for t in plan.trials]


def test_ids_stay_when_replicates_are_added(tmp_path: Path) -> None:
    few, many = planned(tmp_path), planned(tmp_path, ("replicates: 2", "replicates: 5"))
    assert set(ids(few)) < set(ids(many))
    assert [r.trial_ids[:2] for r in many.tables[0].rows] == [r.trial_ids for r in few.tables[0].rows]


def test_ids_do_not_depend_on_names_resources_or_defaults_written_out(tmp_path: Path) -> None:
    changes = (
        ("name: toy\n", "name: renamed\n"),
        ("label: Toy", "label: Full"),
        ("replicates: 2", "replicates: 2\nresources: {workers: 4, eval_batch: 2}"),
        ("epochs: 2", "weight_decay: 0.01\n  epochs: 2"),
        ("kernels: [1, 3, 5]}", "kernels: [1, 3, 5], scale: 1, encoder: {}}"),
    )
    assert ids(planned(tmp_path, *changes)) == ids(planned(tmp_path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs: 2", "epochs: 3"),
        ("image_size: 64", "image_size: 96"),
        ("{train: 8}", "{train: 9}"),
        ("replicates: 2", "replicates: 2\nbase_seed: 1"),
        ("{name: toy,", "{name: toy, noise: false,"),
        ("{controls:", "{empty: one, controls:"),
    ],
)
def test_ids_depend_on_what_can_change_the_result(tmp_path: Path, old: str, new: str) -> None:
    assert not set(ids(planned(tmp_path))) & set(ids(planned(tmp_path, (old, new))))


def test_ids_depend_on_the_samples(tmp_path: Path) -> None:
    study = toy_study(tmp_path)
    assert not set(ids(expand(study, fingerprint="a"))) & set(ids(expand(study, fingerprint="b")))


def test_study_sha_leaves_the_folder_out(tmp_path: Path) -> None:
    change = "synthetic: {train: 8}"
    one, two = (study_sha(toy_study(tmp_path, (change, f"root: {d}"))) for d in "ab")
    assert one == two != study_sha(toy_study(tmp_path))


values = st.recursive(st.integers() | st.text(), lambda v: st.dictionaries(st.sampled_from("abc"), v, max_size=3))
sections = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(base=sections, change=sections)
def test_merging_twice_is_merging_once(base: dict[str, object], change: dict[str, object]) -> None:
    once = merged(base, change)
    assert merged(once, change) == once
    assert merged(base, {}) == base


def test_fingerprint_of_synthetic_data_needs_no_folder(tmp_path: Path) -> None:
    one, root = fingerprint_of(toy_study(tmp_path))
    assert root == ""
    assert fingerprint_of(toy_study(tmp_path, ("{train: 8}", "{train: 9}")))[0] != one


def test_fingerprint_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder:
        info: ClassVar[DatasetInfo] = DatasetInfo("Folder", "nobody", "referring", {})

        def __init__(self, root: Path) -> None:
            self.root = root

        def fingerprint(self) -> str:
            return self.root.name

    monkeypatch.setitem(DATASETS._entries, "rrsis_d", Folder)  # type: ignore[arg-type]
    (tmp_path / "sample").mkdir()
    study = toy_study(tmp_path, ("synthetic: {train: 8}", "root: sample"))
    assert fingerprint_of(study) == ("sample", str(tmp_path / "sample"))


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    near = toy_study(tmp_path, ("synthetic: {train: 8}", "root: smaple"))
    with pytest.raises(
        DataError,
        match=r"study.yaml:4: data.root: must be a folder, .*smaple is not; did you mean 'sample'\?; give another",
    ):
        fingerprint_of(near)
    far = toy_study(tmp_path, ("synthetic: {train: 8}", "root: x/y"))
    with pytest.raises(DataError, match=r"/x/y is not; .*/x is not there either; give another"):
        fingerprint_of(far)
    lonely = toy_study(tmp_path, ("synthetic: {train: 8}", "root: sample/y"))
    with pytest.raises(DataError, match=r"y is not; .*/sample is empty; give another"):
        fingerprint_of(lonely)


def test_plan_as_json(tmp_path: Path) -> None:
    plan = planned(tmp_path, *with_variants(EXPLICIT + LADDER, "rivals", "ladder"))
    found = json.loads(json.dumps(plan_json(plan, {plan.trials[0].id})))
    assert found["trials"][0] == {
        "id": plan.trials[0].id,
        "variant": "Toy",
        "tables": ["rivals", "ladder"],
        "labels": ["Toy", "+ noise"],
        "replicate": 0,
        "changes": {},
        "state": "done",
    }
    assert [t["state"] for t in found["trials"][1:]] == ["missing"] * 9
    assert found["skipped"] == []
    assert found["counts"]["missing"] == 9


def test_plan_as_text(tmp_path: Path, golden: Golden) -> None:
    text = EXPLICIT + LADDER + "  spare: {design: leave_one_out, components: [noise]}\n"
    text += "  one: {design: one_factor, axes: {model.noise: [true, false]}}\n"
    plan = planned(tmp_path, *with_variants(text, "rivals", "ladder", "one"))
    golden.check("plan_toy.txt", "\n".join(plan_lines(plan, {plan.trials[0].id, plan.trials[1].id})) + "\n")
    console = Console(width=110, force_terminal=False)
    with console.capture() as capture:
        console.print(render_plan(plan, {plan.trials[0].id, plan.trials[1].id}))
    shown = "\n".join(line.rstrip() for line in capture.get().splitlines())
    golden.check("plan_toy_terminal.txt", shown + "\n")


def test_plan_with_nothing_skipped_does_not_speak_of_it(tmp_path: Path) -> None:
    console = Console(width=110, force_terminal=False)
    with console.capture() as capture:
        console.print(render_plan(planned(tmp_path), ()))
    assert not any(line.startswith("skipped") for line in capture.get().splitlines())


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_plan_of_every_shipped_study(path: Path, golden: Golden) -> None:
    plan = expand(load_study(path, environ={}), fingerprint=ABSENT)
    golden.check(f"plan_{path.stem}.txt", "\n".join(plan_lines(plan, ())) + "\n")


def test_rows_carry_what_must_be_known_of_their_model() -> None:
    study = load_study(ROOT / "experiments" / "mafn_rrsisd.yaml", environ={})
    comparison = expand(study, fingerprint=ABSENT).tables[0]
    assert all("e-implementation" in row.note for row in comparison.rows)
    assert "the authors published no network" in next(row.note for row in comparison.rows if row.label == "LGCE")


@pytest.mark.parametrize(
    ("name", "tables", "variants", "shared"),
    [
        ("demo", ("components", "kernels"), 7, 1),
        ("mafn_rrsisd", ("components", "kernels"), 7, 1),
        ("mafn_rrsisd", ("comparison", "components", "kernels"), 13, 1),
    ],
)
def test_full_mafn_is_trained_once(name: str, tables: tuple[str, ...], variants: int, shared: int) -> None:
    study = load_study(ROOT / "experiments" / f"{name}.yaml", environ={})
    plan = expand(study, fingerprint=ABSENT)
    shown = [{row.variant for row in table.rows} for table in plan.tables if table.name in tables]
    assert len(set().union(*shown)) == variants
    assert len(set.intersection(*shown)) == shared


def test_the_ladder_of_mafn_is_part_of_its_factorial() -> None:
    studies = [load_study(ROOT / "experiments" / f"mafn_{name}.yaml", environ={}) for name in ("rrsisd", "factorial")]
    ladder, factorial = (expand(study, fingerprint=ABSENT) for study in studies)
    parts = {t for row in factorial.tables[0].rows for t in row.trial_ids}
    assert len(parts) == 24
    assert {t for row in ladder.tables[1].rows for t in row.trial_ids} <= parts


def test_trials_of_a_table_with_priority_come_first(tmp_path: Path) -> None:
    both = with_variants(EXPLICIT + LADDER, "rivals", "ladder")
    usual = [t.variant for t in expand(toy_study(tmp_path, *both), fingerprint="f").trials]
    first = ("name: ladder, of: ladder,", "name: ladder, of: ladder, priority: 1,")
    (old, new), (shown, text) = both
    changed = ((old, new), (shown, text.replace(*first)))
    plan = expand(toy_study(tmp_path, *changed), fingerprint="f")
    found = [t.variant for t in plan.trials]
    assert sorted(found) == sorted(usual)
    assert [table.design for table in plan.tables] == ["explicit", "cumulative"]
    ladder = {row.variant for row in plan.tables[1].rows}
    assert set(found[: 2 * len(ladder)]) == ladder
    assert set(usual[: 2 * len(ladder)]) != ladder


def test_limits_of_a_study_are_part_of_its_plan(tmp_path: Path) -> None:
    limits = ("replicates: 2", "replicates: 2\nschedule: {max_running: 3, hours: 1.5}")
    plan = expand(toy_study(tmp_path, limits), fingerprint="f")
    assert plan.limits == Limits(max_running=3, hours=1.5)
    wrong = ("replicates: 2", "replicates: 2\nschedule: {max_runing: 3}")
    with pytest.raises(SpecError, match=r"schedule.max_runing: unknown key 'max_runing'; did you mean 'max_running'\?"):
        toy_study(tmp_path, wrong)
