"""Footnotes on rows that were not given what others were: said where it is, and only there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from harness.records import Plan, Row, Table, Trial
from harness.tuning import Dimension, Outcome, Search, Spent
from reports.fairness import unfairness, unmet
from reports.published import Published, load_published
from reports.results import Results
from reports.table_model import TableModel
from reports.tables import build_table
from tests.report_frame import make_frame, make_plan, make_trial
from tests.test_published import FOLDER
from tests.test_tables import row_of

RECIPE = {"epochs": 40, "global_batch": 8, "lr": 3e-5, "crops": {"flip": 0.5}}


@dataclass(frozen=True)
class Method:
    """A row: its model, and what it was given apart from the recipe of all."""

    model: Mapping[str, Any]
    train: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    tuning: str = ""


def study(methods: Mapping[str, Method], *, kind: str = "comparison", reference: str = "") -> tuple[Plan, Table]:
    rows, trials = [], []
    for label, method in methods.items():
        trial = make_trial(label, 0, **method.model)
        data = {**trial.data, **(method.data or {})}
        trials.append(replace(trial, train={**RECIPE, **(method.train or {})}, data=data))
        rows.append(Row(label, label, {}, (trials[-1].id,), label == reference, tuning=method.tuning))
    table = Table("t", kind, "t", ("miou",), ("val",), tuple(rows), costs=False)
    return Plan("s", "?", tuple(trials), (table,)), table


def test_rows_that_were_given_something_else_say_what_and_what_the_others_had() -> None:
    plan, table = study(
        {
            "LAVT": Method({"name": "lavt"}, {"epochs": 60}, {"image_size": 448}),
            "RMSIN": Method({"name": "rmsin"}),
            "CMPC": Method({"name": "cmpc"}, {"crops": {"flip": 0.0}, "loss": {"ce": 1}, "new_option": True}),
            "MAFN": Method({}),
        }
    )
    assert unfairness(plan, table) == {
        "LAVT": "Trained with input size 448 (others 480); 60 epochs (others 40).",
        "CMPC": "Trained with crops flip 0 (others 0.5); a loss of its own; train.new_option on (others none).",
    }


def test_others_that_differ_among_themselves_are_listed() -> None:
    sizes = dict(zip("abcdef", (8, 8, 16, 32, 64, 128), strict=True))
    plan, table = study({name: Method({"name": name}, {"global_batch": size}) for name, size in sizes.items()})
    found = unfairness(plan, table)
    assert found["c"] == "Trained with global batch 16 (others 4 other values)."
    few = replace(table, rows=table.rows[:4])
    assert unfairness(plan, few)["c"] == "Trained with global batch 16 (others 8 or 32)."
    assert "a" not in found


def test_of_two_rows_the_reference_is_the_usual_one() -> None:
    methods = {"LAVT": Method({"name": "lavt"}, {"epochs": 60}), "MAFN": Method({})}
    assert unfairness(*study(methods, reference="MAFN")) == {"LAVT": "Trained with 60 epochs (others 40)."}
    assert unfairness(*study(methods)) == {"MAFN": "Trained with 40 epochs (others 60)."}


def test_what_an_ablation_varies_is_no_unfairness_and_what_comes_with_it_is() -> None:
    alone = {"40 epochs": Method({}), "60 epochs": Method({}, {"epochs": 60})}
    assert unfairness(*study(alone, kind="ablation")) == {}
    assert unfairness(*study(alone)) == {}, "a comparison of one model with itself varies what its rows differ in"
    along = {"msrc": Method({}), "arc": Method({"decoder": "arc"}, {"epochs": 60}), "sum": Method({"fusion": "sum"})}
    assert unfairness(*study(along, kind="ablation")) == {"arc": "Trained with 60 epochs (others 40)."}


def test_initial_weights_are_compared_by_their_names() -> None:
    plan, table = study(
        {
            "a": Method({"name": "a", "text": {"pretrained": "bert"}, "backbone": {"pretrained": "far/away/swin.pth"}}),
            "b": Method({"name": "b", "weights": "swin.pth", "text": {"pretrained": "bert"}}),
            "c": Method({"name": "c", "weights": "region", "trunk": {"pretrained": None}}),
        }
    )
    assert unfairness(plan, table) == {"c": "Trained with initial weights none (others bert and swin.pth)."}
    start = {"ours": Method({"pretrained": "vit"}), "random start": Method({"pretrained": None})}
    assert unfairness(*study(start, kind="ablation")) == {}


def searched(spent: int, path: str) -> Search:
    trial = make_trial("x", 0)
    outcome = Outcome(Spent(complete=spent), {path: 1e-4})
    return Search("x", trial, {path: Dimension(low=1e-5, high=1e-3)}, spent, "tpe", "none", "oiou", 0, outcome=outcome)


def test_budgets_of_searches_are_compared_and_what_they_set_is_not() -> None:
    large, small = searched(50, "train.lr"), searched(20, "train.lr")
    plan, table = study(
        {
            "a": Method({"name": "a"}, {"lr": 1e-3}, tuning=small.note()),
            "b": Method({"name": "b"}, {"lr": 1e-4}, tuning=large.note()),
            "c": Method({"name": "c"}, {"lr": 1e-5}, tuning=small.note()),
            "d": Method({"name": "d"}, tuning="Not tuned: its paper gives the values."),
        }
    )
    assert unfairness(replace(plan, searches=(small, large)), table) == {
        "b": "Trained with a search of 50 trials (others 20 or 0).",
        "d": "Trained with a search of 0 trials (others 20 or 50).",
    }


def conditioned(**conditions: Any) -> Published:
    known = load_published("rrsis_d", folder=FOLDER)
    return known.model_copy(update={"conditions": {"data.image_size": 480, **conditions}})


def comparison(published: Published, *, image_size: int) -> TableModel:
    plan = make_plan()
    data = {"name": "rrsis_d", "image_size": image_size}
    moved: dict[str, Trial] = {t.id: replace(t, data=data) for t in plan.trials}
    of = {t.id: moved[t.id].id for t in plan.trials}
    rows = tuple(replace(r, trial_ids=tuple(of[t] for t in r.trial_ids)) for r in plan.tables[0].rows)
    frame = make_frame(plan).assign(trial_id=lambda x: x["trial_id"].map(of))
    table = replace(plan.tables[0], rows=rows)
    return build_table(Results(replace(plan, trials=tuple(moved.values()), tables=(table,)), frame), table, published)


@pytest.mark.parametrize("image_size", [480, 512])
def test_published_rows_say_what_they_were_given_and_ours_were_not(image_size: int) -> None:
    model = comparison(conditioned(), image_size=image_size)
    texts = {note.text: note.mark for note in model.footnotes}
    said = "Obtained with input size 480 (ours 512)."
    assert (said in texts) is (image_size != 480)
    if said in texts:
        quoted = [block for block in model.blocks if any(row.is_published for row in block.rows)]
        marked = [(*block.marks, *row.marks) for block in quoted for row in block.rows]
        assert all(texts[said] in marks for marks in marked)


def test_conditions_that_one_of_ours_meets_are_no_difference() -> None:
    ours = [make_trial("a", 0), replace(make_trial("b", 0), data={"image_size": 512})]
    assert unmet({"data.image_size": 512, "evaluate.protocol": "rrsis480"}, ours) == ""
    assert unmet({"data.image_size": 448, "train.lr": 3e-5}, ours) == "Obtained with input size 448 (ours 480 or 512)."
    assert unmet({"data.image_size": 448}, []) == ""


def test_a_table_marks_the_row() -> None:
    plan = make_plan()
    lavt = plan.tables[0].rows[0]
    others = {t: replace(plan.trial(t), train={"lr": 1e-4}) for t in lavt.trial_ids}
    row = replace(lavt, trial_ids=tuple(t.id for t in others.values()))
    table = replace(plan.tables[0], rows=(row, *plan.tables[0].rows[1:]), published=None)
    trials = (*(t for t in plan.trials if t.id not in others), *others.values())
    model = build_table(Results(replace(plan, trials=trials), make_frame(plan)), table)
    (mark,) = row_of(model, "LAVT").marks
    notes = {note.mark: note.text for note in model.footnotes}
    assert notes[mark] == "Trained with learning rate 0.0001 (others 3e-05)."
    assert mark not in row_of(model, "MAFN").marks
