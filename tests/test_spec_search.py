"""What a study may say about its searches, and the one line that says why it may not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SpecError
from harness.plan import ABSENT, expand
from harness.plan_view import plan_json
from harness.records import Plan
from harness.spec import load_study
from harness.spec_search import DimensionConfig
from harness.tuning import Dimension, Outcome, Search, Spent, num_points, points
from tests.toy_study import toy_study, with_variants, write_study

pytestmark = pytest.mark.usefixtures("toy_models")

NEWLINE = "\n"
LR = "train.lr: {low: 1e-5, high: 1e-3, log: true}"
LEVELS = """\
  v:
    design: explicit
    levels:
      - {label: Other, model: {name: other}%s}
"""


def searched(space: str, trials: str = "trials: 4") -> tuple[str, str]:
    return ("replicates: 2", f"replicates: 2\nsearch: {{space: {{{space}}}, {trials}}}")


def fails(path: Path, message: str) -> None:
    """Loading or expanding must fail with exactly `message`, in which FILE stands for the study's path."""
    with pytest.raises(SpecError, match=f"^{re.escape(message.replace('FILE', str(path)))}$"):
        expand(load_study(path, environ={}), fingerprint=ABSENT)


@pytest.mark.parametrize(
    ("space", "trials", "message"),
    [
        (LR, "trials: 0", "search.trials: must be greater than or equal to 1, received 0"),
        (LR, "seed: 1", "search: 'trials' must be given, it is missing"),
        (LR, "trials: 4, samplr: tpe", "search.samplr: unknown key 'samplr'; did you mean 'sampler'?"),
        (LR, "trials: 4, sampler: tpa", "search.sampler: unknown value 'tpa'; did you mean 'tpe'?"),
        (LR, "trials: 4, metric: miuo", "search.metric: unknown metric 'miuo'; did you mean 'miou'?"),
        (
            LR,
            "sampler: grid",
            "search.space.train.lr: must have choices or a step for a grid; add `step` or choose another sampler",
        ),
        (
            "model.scale: {low: 1, high: 2, step: 0.5}",
            "sampler: grid, trials: 3",
            "search.trials: must be left out for a grid, which has 3 points",
        ),
        (
            "model.scale: {low: 1, high: 2, step: 0.5}",
            "trials: 4",
            "search.trials: must be at most the 3 configurations of the space, received 4; "
            "`sampler: grid` tries each once",
        ),
        ("", "trials: 4", "search.space: must have at least 1 entry, received {}"),
        (
            "train.lrr: {low: 1, high: 2}",
            "trials: 4",
            "search.space.train.lrr: 'train.lrr' must be a path into the configuration of toy, 'train' has no 'lrr'; "
            "did you mean 'lr'? (row 'Toy'; `search` of a row gives it a space of its own)",
        ),
        (
            "train.lr: {low: 0, high: 1}",
            "trials: 4",
            "search.space.train.lr: must be greater than 0, received 0.0 "
            "(row 'Toy'; `search` of a row gives it a space of its own)",
        ),
        (
            "train.warmup_steps: {low: 0, high: 9}",
            "trials: 4",
            "search.space.train.warmup_steps: must be a whole number, received 0.0 "
            "(row 'Toy'; `int: true` draws whole numbers)",
        ),
        (
            f"{LR}, train.end_lr: {{choices: [0.0, 1e-4]}}",
            "trials: 4",
            "search.space.train.end_lr: must be at most lr = 1e-05, received 0.0001 "
            "(row 'Toy'; `search` of a row gives it a space of its own)",
        ),
        (
            "evaluate.empty: {choices: [zero, one]}",
            "trials: 2",
            "search.space.evaluate.empty: must not be tuned: it is what variants are judged by; choose another path",
        ),
        (
            "train.epochs: {low: 1, high: 9, int: true}",
            "trials: 4, pruner: asha",
            "search.space.train.epochs: must not be tuned with a pruner, which compares equal epochs",
        ),
        (
            "train.lr: {low: 1}",
            "trials: 4",
            "search.space.train.lr: must have choices, or low and high; add what is missing",
        ),
        ("train.lr: {low: 2, high: 1}", "trials: 4", "search.space.train.lr.high: must be above low = 2, received 1"),
        (
            "train.lr: {low: 0, high: 1, log: true}",
            "trials: 4",
            "search.space.train.lr.low: must be above 0 on a logarithmic scale, received 0",
        ),
        (
            "train.lr: {low: 1, high: 2, log: true, step: 1}",
            "trials: 4",
            "search.space.train.lr.step: must not be given with log; remove one of them",
        ),
        (
            "train.lr: {low: 1, high: 2, step: 0.3}",
            "trials: 4",
            "search.space.train.lr.high: must be low plus a multiple of step = 0.3, received 2",
        ),
        (
            "train.epochs: {low: 1.5, high: 3, int: true}",
            "trials: 4",
            "search.space.train.epochs.low: must be a whole number where int is true, received 1.5",
        ),
        (
            "train.lr: {choices: [1, 2], low: 1}",
            "trials: 4",
            "search.space.train.lr.low: must not be given with choices; remove one of them",
        ),
        (
            "train.lr: {choices: [1, 1]}",
            "trials: 4",
            "search.space.train.lr.choices: must differ, one is given twice; remove one",
        ),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, space: str, trials: str, message: str) -> None:
    fails(write_study(tmp_path, searched(space, trials)), f"FILE:13: {message}")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("search: null", "search: must be a mapping, received null; to exempt the row write {trials: 0, reason: ...}"),
        (
            "search: {trials: 0}",
            "search: must give a reason where the budget differs, 0 trials instead of 4; add `reason: ...`",
        ),
        (
            "search: {trials: 5}",
            "search: must give a reason where the budget differs, 5 trials instead of 4; add `reason: ...`",
        ),
        ("search: {metric: x}", "search.metric: unknown metric 'x'; valid: miou, oiou, p50, p60, p70, p80, p90"),
        (
            "search: {sampler: grid, reason: x}",
            "search.space.train.lr: must have choices or a step for a grid; add `step` or choose another sampler",
        ),
        (
            "set: {train.lr: 1e-4}",
            "set.train.lr: 'train.lr' must not be set where `search` tunes 'train.lr'; leave one of them out",
        ),
    ],
)
def test_one_line_says_what_is_wrong_with_a_row(tmp_path: Path, own: str, message: str) -> None:
    changes = with_variants(LEVELS % f", {own}", "v")
    fails(write_study(tmp_path, *changes, searched(LR)), f"FILE:18: variants.v.levels.0.{message}")


def test_row_that_is_tuned_in_a_study_that_is_not(tmp_path: Path) -> None:
    space = "space: {train.lr: {choices: [1e-4, 1e-3]}}"
    without = write_study(tmp_path, *with_variants(LEVELS % ", search: {trials: 2}", "v"))
    text = "search: 'space' must be given, it is missing, and the study has no search to take it from"
    fails(without, f"FILE:17: variants.v.levels.0.{text}")
    own = f", search: {{{space}, sampler: grid, reason: it has no published recipe}}"
    plan = expand(toy_study(tmp_path, *with_variants(LEVELS % own, "v")), fingerprint=ABSENT)
    assert [(s.variant, s.trials, s.reason) for s in plan.searches] == [("Other", 2, "it has no published recipe")]
    assert [row.tuning for row in plan.tables[0].rows] == ["", ""]


def planned(folder: Path, *changes: tuple[str, str], outcome: Outcome | None = None) -> Plan:
    study = toy_study(folder, *changes)
    plan = expand(study, fingerprint=ABSENT)
    found = {} if outcome is None else {search.key: outcome for search in plan.searches}
    return expand(study, fingerprint=ABSENT, outcomes=found)


def test_every_row_has_a_search_of_its_own_and_the_reference_one(tmp_path: Path) -> None:
    plan = planned(tmp_path, searched(LR))
    assert [s.variant for s in plan.searches] == ["kernels = [1]", "kernels = [1, 3]", "Toy"]
    assert len({s.key for s in plan.searches}) == 3
    values = {"train.lr": 1e-4}
    done = planned(tmp_path, searched(LR), outcome=Outcome(Spent(complete=4), values, 0.5))
    assert len(done.trials) == 6
    assert [set(row.changes) for row in done.tables[0].rows] == [{"model.kernels"}, {"model.kernels"}, set()]
    few = planned(tmp_path, searched(LR), outcome=Outcome(Spent(complete=3), values, 0.5))
    assert few.trials == ()  # the budget is not spent


def test_row_that_equals_the_reference_is_tuned_like_it(tmp_path: Path) -> None:
    exempt = ("label: Toy\n", "label: Toy\n  search: {trials: 0, reason: as published}\n")
    plan = planned(tmp_path, exempt, searched(LR))
    assert [s.variant for s in plan.searches] == ["kernels = [1]", "kernels = [1, 3]"]
    assert plan.tables[0].rows[2].is_reference
    assert len(plan.trials) == 2


def key(plan: Plan) -> str:
    return plan.searches[0].key


def test_key_depends_on_what_is_drawn_and_not_on_budget_or_names(tmp_path: Path) -> None:
    plain = key(planned(tmp_path, searched(LR)))
    same = (
        (("name: toy\n", "name: renamed\n"), searched(LR)),
        (("label: Toy", "label: Full"), searched(LR)),
        (searched(LR, "trials: 9, parallel: 2"),),
        (("lr: 3e-5", "lr: 5e-4"), searched(LR)),  # is tuned anyway
        (
            ("replicates: 2", "replicates: 3"),
            ("replicates: 3", searched(LR)[1].replace("replicates: 2", "replicates: 3")),
        ),
    )
    assert {key(planned(tmp_path, *changes)) for changes in same} == {plain}
    other = (
        searched(LR, "trials: 4, seed: 1"),
        searched(LR, "trials: 4, replicate: 1"),
        searched(LR, "trials: 4, pruner: median"),
        searched(LR, "trials: 4, metric: miou"),
        searched(LR.replace("1e-3", "1e-2")),
    )
    assert plain not in {key(planned(tmp_path, change)) for change in other}
    assert key(planned(tmp_path, ("epochs: 2", "epochs: 3"), searched(LR))) != plain


def test_plan_as_json_says_what_is_tuned(tmp_path: Path) -> None:
    outcome = Outcome(Spent(complete=2, pruned=1), {"train.lr": 1e-4}, 0.5)
    found = json.loads(json.dumps(plan_json(planned(tmp_path, searched(LR), outcome=outcome), ())))
    assert found["searches"][0] == {
        "variant": "kernels = [1]",
        "key": found["searches"][0]["key"],
        "trials": 4,
        "metric": "oiou",
        "done": False,
        "spent": {"trials": 3, "complete": 2, "pruned": 1, "failed": 0, "repeated": 0, "hours": 0.0, "gpu_hours": 0.0},
        "best": {"values": {"train.lr": 1e-4}, "score": 0.5},
        "reason": "",
    }


def test_space_can_be_changed_from_the_command_line(tmp_path: Path) -> None:
    path = write_study(tmp_path, searched(LR))
    study = load_study(path, ["search.space.train.weight_decay={choices: [0.0, 0.1]}"], environ={})
    assert study.search is not None
    assert list(study.search.space) == ["train.lr", "train.weight_decay"]


@given(st.floats(1e-6, 1e6), st.floats(1.001, 1e3), st.floats(0, 1))
def test_numbers_are_rounded_inside_their_range(low: float, factor: float, share: float) -> None:
    dimension = Dimension(low=low, high=low * factor)
    value = dimension.typed(low + share * (dimension.high - low))
    assert low <= value <= dimension.high
    assert value == pytest.approx(low + share * (dimension.high - low), rel=1e-3)
    assert dimension.typed(value) == value


def test_values_of_a_dimension() -> None:
    assert Dimension(low=0, high=0.3, step=0.1).each() == (0.0, 0.1, 0.2, 0.3)
    assert Dimension(low=1, high=4, is_whole=True).each() == (1, 2, 3, 4)
    assert Dimension(low=0, high=1).each() is None
    assert DimensionConfig(choices=[[1], [1, 3]]).dimension.each() == ([1], [1, 3])
    space = {"a": Dimension(choices=(1, 2)), "b": Dimension(low=0, high=2, step=2, is_whole=True)}
    assert num_points(space) == 4
    assert points(space) == [{"a": 1, "b": 0}, {"a": 1, "b": 2}, {"a": 2, "b": 0}, {"a": 2, "b": 2}]


def test_note_says_budget_and_winner(tmp_path: Path) -> None:
    outcome = Outcome(Spent(complete=3, pruned=1, gpu_hours=3.25), {"train.lr": 1e-4}, 0.5)
    search: Search = planned(tmp_path, searched(LR), outcome=outcome).searches[0]
    assert search.note() == (
        "Tuned on the validation split in 4 trials (3 complete, 1 pruned; 3.2 GPU-hours): train.lr = 0.0001."
    )


def test_protocol_without_the_test_split(tmp_path: Path) -> None:
    study = toy_study(tmp_path, ("{controls:", "{test: false, controls:"), ("test_shuffled", "val_shuffled"))
    assert study.splits == ("val", "val_shuffled")
    path = write_study(tmp_path, ("{controls:", "{test: false, controls:"))
    fails(path, "FILE:24: report.tables.0.splits.1: unknown split 'test_shuffled'; did you mean 'val_shuffled'?")
