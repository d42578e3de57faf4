"""Records refuse inconsistent states, survive JSON, and a trial's id is what can change its result."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.canonical import canonical_json
from harness.records import Checkpointing, Fault, Limits, Plan, Resources, Score, Stress, Trial, TrialResult, TrialState

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
plain = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=9
)
sections = st.dictionaries(st.text(), plain, max_size=4)

TRIAL = Trial(
    task="referring",
    data={"name": "rrsis_d", "image_size": 64},
    data_fingerprint="f",
    model={"name": "toy", "kernels": [1, 3]},
    train={"lr": 1e-3},
    evaluate={"empty": "zero"},
    replicate=0,
)


def backwards(value: Any) -> Any:
    """The same value with every mapping in reverse order."""
    if isinstance(value, dict):
        return {k: backwards(v) for k, v in reversed(value.items())}
    return [backwards(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("stress", "split"),
    [
        (Stress("shift", "sar", 4), "test-shift-sar-4"),
        (Stress("noise", "sar", 0.5), "test-noise-sar-0.5"),
        (Stress("drop", "optical"), "test-drop-optical"),
    ],
)
def test_a_stress_and_its_split_say_the_same(stress: Stress, split: str) -> None:
    assert (stress.split, Stress.of_split(split)) == (split, stress)


@pytest.mark.parametrize("split", ["test", "val", "val_shuffled"])
def test_other_splits_are_no_stress(split: str) -> None:
    assert Stress.of_split(split) is None


@given(model=sections, train=sections, replicate=st.integers(0, 99))
def test_trial_survives_json(model: dict[str, Any], train: dict[str, Any], replicate: int) -> None:
    trial = replace(TRIAL, model=model, train=train, replicate=replicate, resources=Resources(workers=2))
    again = Trial.from_json(json.loads(json.dumps(trial.to_json())))
    assert again == trial
    assert again.id == trial.id


@given(model=sections)
def test_id_does_not_depend_on_key_order(model: dict[str, Any]) -> None:
    assert replace(TRIAL, model=model).id == replace(TRIAL, model=backwards(model)).id


def test_id_does_not_depend_on_names_folders_or_resources() -> None:
    other = replace(TRIAL, variant="x", data_root="d", resources=Resources(workers=4, data_workers=2, eval_batch=1))
    assert other.id == TRIAL.id
    assert len(TRIAL.id) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"task": "semantic"},
        {"data": {"name": "rrsis_d", "image_size": 96}},
        {"data_fingerprint": "g"},
        {"model": {"name": "toy", "kernels": [3, 1]}},
        {"train": {"lr": 1e-4}},
        {"evaluate": {"empty": "one"}},
        {"replicate": 1},
        {"base_seed": 1},
    ],
)
def test_id_depends_on_what_can_change_the_result(change: dict[str, Any]) -> None:
    assert replace(TRIAL, **change).id != TRIAL.id


def test_id_is_what_it_has_always_been() -> None:
    assert TRIAL.id == "796181ce1295"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_canonical_json_refuses_what_json_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": value})


def test_plan_finds_its_trials() -> None:
    plan = Plan(study="s", question="q", trials=(TRIAL,), tables=())
    assert plan.trial(TRIAL.id) is TRIAL
    with pytest.raises(KeyError, match="nowhere"):
        plan.trial("nowhere")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 0}, "^workers must be at least 1, got 0$"),
        ({"gpus_per_worker": -0.5}, "^gpus_per_worker must be at least 0, got -0.5$"),
        ({"data_workers": -1}, "^data_workers must be at least 0, got -1$"),
        ({"eval_batch": 0}, "^eval_batch must be at least 1, got 0$"),
        ({"cpus_per_worker": 0}, "^cpus_per_worker must be above 0, got 0$"),
        ({"cache_gib": -1}, "^cache_gib must be a number of GiB, at least 0, got -1; 0 is no cache$"),
        ({"cache_gib": math.nan}, "^cache_gib must be a number of GiB, at least 0, got nan"),
        ({"gpus_per_worker": 1.5}, "^gpus_per_worker above 1 must be a whole number, got 1.5$"),
        ({"micro_batch": 0}, "^micro_batch must be null or at least 1, got 0$"),
        ({"timeout_min": 0}, "^timeout_min must be null or above 0, got 0$"),
        ({"accelerator": "A100", "gpus_per_worker": 0}, "^accelerator must be null without GPUs, got 'A100'; set"),
    ],
)
def test_resources_that_no_trial_can_run_on(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resources(**values)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Checkpointing, {"every_steps": 0}, "^every_steps must be null or at least 1, got 0$"),
        (Checkpointing, {"keep": 0}, "^keep must be at least 1, got 0$"),
        (Limits, {"max_running": 0}, "^max_running must be null or at least 1, got 0$"),
        (Limits, {"hours": -1}, "^hours must be null or a number of at least 0, got -1$"),
        (Limits, {"gpu_hours": math.nan}, "^gpu_hours must be null or a number of at least 0, got nan$"),
    ],
)
def test_states_and_limits_that_mean_nothing(part: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part(**values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="score val/miou must be finite"):
        Score("val", "miou", value)


scores = st.builds(Score, st.sampled_from(["val", "test"]), st.text(), st.floats(0, 1))
results = st.one_of(
    st.builds(
        TrialResult, st.text(), st.just(TrialState.COMPLETE), st.lists(scores, min_size=1, max_size=3).map(tuple)
    ),
    st.builds(
        TrialResult, st.text(), st.just(TrialState.FAILED), error=st.text(min_size=1), fault=st.sampled_from(Fault)
    ),
    st.builds(TrialResult, st.text(), st.just(TrialState.PRUNED), best_epoch=st.integers(1, 9)),
)


@given(result=results)
def test_result_survives_json(result: TrialResult) -> None:
    assert TrialResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize(
    ("state", "values", "message"),
    [
        (TrialState.RUNNING, {}, "^a result's state must be COMPLETE, PRUNED or FAILED, got RUNNING$"),
        (TrialState.COMPLETE, {}, "^a COMPLETE result must have scores and no error$"),
        (TrialState.COMPLETE, {"scores": (Score("val", "miou", 1.0),), "error": "x"}, "and no error$"),
        (TrialState.FAILED, {}, "^a FAILED result must say its error and its fault$"),
    ],
)
def test_results_refuse_inconsistent_states(state: TrialState, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrialResult("id", state, **values)
