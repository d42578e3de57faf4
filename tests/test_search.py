"""Searches: what is drawn, what is counted, what is resumed, who wins, and what never happens to the test split."""

from __future__ import annotations

import math
import os
import re
import signal
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.claims import Claims
from harness.errors import HarnessError
from harness.local_executor import LocalContext
from harness.plan import expand, fingerprint_of
from harness.plan_search import search_seed
from harness.records import Plan, Trial, TrialResult
from harness.results import connect, find_runs, results_frame
from harness.search import SearchSource
from harness.search_phase import search_plan
from harness.search_store import default_url, read_outcomes
from harness.tracking import MlflowTracker
from harness.trial import run_trial
from harness.trial_folder import read_history, trial_folder
from harness.tuning import Dimension, Outcome, Spent
from tests.conftest import ROOT
from tests.search_driver import (
    ONE_VARIANT,
    Record,
    be_quick,
    drawn,
    failing,
    formula,
    plan_of,
    score_of,
    search,
    searched_study,
)
from tests.tiny import Context as TinyContext
from tests.tiny import write_study


@pytest.fixture(scope="module", autouse=True)
def quick() -> None:
    be_quick()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plan_of(searched_study(tmp_path), tmp_path / "runs")


def test_searched_variants_have_no_trials_before(plan: Plan) -> None:
    assert plan.trials == ()
    assert [(s.variant, s.trials, s.metric) for s in plan.searches] == [
        ("decoder = arc", 6, "oiou"),
        ("MAFN", 6, "oiou"),
    ]
    assert [row.trial_ids for row in plan.tables[0].rows] == [(), ()]
    assert plan.settled.tables == ()
    assert [s.reason for s in plan.settled.skipped] == ["still to be tuned, its search has not ended"] * 2


def test_winner_is_trained_as_ordinary_trials(tmp_path: Path, plan: Plan) -> None:
    study = searched_study(tmp_path, ("replicates: 1", "replicates: 3"))
    executor = search(plan, tmp_path / "runs")
    assert len(executor.ran) == len(set(executor.ran)) == 12
    after = plan_of(study, tmp_path / "runs")
    assert len(after.trials) == 6
    for search_, row in zip(after.searches, after.tables[0].rows, strict=True):
        trials = [after.trial(i) for i in row.trial_ids]
        assert [t.replicate for t in trials] == [0, 1, 2]
        assert {t.kind for t in trials} == {"trial"}
        assert {t.base_seed for t in trials} == {0}
        assert {t.train["lr"] for t in trials} == {search_.outcome.values["train.lr"]}
        tried = [search_.trial(v) for v in _tried(tmp_path / "runs", search_.variant)]
        assert score_of(trials[0]) == max(score_of(t) for t in tried) == pytest.approx(search_.outcome.score)
        assert row.changes.keys() <= {"model.decoder"}
        assert row.tuning.startswith("Tuned on the validation split in 6 trials (6 complete; 0 min): train.lr = ")
    assert not set(executor.ran) & {t.id for t in after.trials}
    # trials of the comparison are known by their values: written out, they are the same
    values = after.searches[0].outcome.values
    plain = expand(
        _written_out(tmp_path, values["train.lr"], values["model.kernels"]), fingerprint=fingerprint_of(study)[0]
    )
    assert plain.tables[0].rows[0].trial_ids == after.tables[0].rows[0].trial_ids[:1]


def _tried(storage: Path, variant: str) -> list[dict[str, object]]:
    import json

    rounded = Dimension(low=1e-4, high=1e-1, log=True)
    return [
        {"train.lr": rounded.typed(p["train.lr"]), "model.kernels": json.loads(p["model.kernels"])}
        for p in drawn(storage, variant)
    ]


def _written_out(folder: Path, lr: float, kernels: list[int]) -> object:
    from harness.spec import load_study

    changes = (("lr: 2.0e-3", f"lr: {lr!r}"), ("kernels: [1, 3]", f"kernels: {kernels}"))
    return load_study(write_study(folder, *changes), environ={})


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_same_study_draws_the_same_trials_also_in_two_parts(tmp_path: Path, sampler: str) -> None:
    lr = ("{low: 1e-4, high: 1e-1, log: true}", "{choices: [0.1, 0.01, 0.001]}")
    budget = ("trials: 6", f"trials: 12\n  sampler: {sampler}")
    changes = (("trials: 6", "sampler: grid"), lr) if sampler == "grid" else (budget,)
    study = searched_study(tmp_path, ONE_VARIANT, *changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    search(plan_of(study, whole), whole)
    search(plan_of(study, parts), parts, stop_after=4)
    search(plan_of(study, parts), parts)
    assert drawn(whole, "MAFN") == drawn(parts, "MAFN")
    assert plan_of(study, whole).trials == plan_of(study, parts).trials
    if sampler == "grid":
        assert len({str(p) for p in drawn(whole, "MAFN")}) == 6
    other = searched_study(tmp_path, ONE_VARIANT, *changes, ("search:\n", "search:\n  seed: 1\n"))
    search(plan_of(other, tmp_path / "other"), tmp_path / "other", stop_after=2)
    assert drawn(tmp_path / "other", "MAFN") != drawn(whole, "MAFN")[:2]


def test_tpe_learns(tmp_path: Path) -> None:
    def distances(sampler: str) -> list[float]:
        study = searched_study(tmp_path, ONE_VARIANT, ("trials: 6", f"trials: 20\n  sampler: {sampler}"))
        search(plan_of(study, tmp_path / sampler), tmp_path / sampler)
        return [abs(math.log10(p["train.lr"]) + 2) for p in drawn(tmp_path / sampler, "MAFN")]

    assert statistics.fmean(distances("tpe")[10:]) < 0.7 * statistics.fmean(distances("random")[10:])


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_pruned_trials_count_and_never_win(tmp_path: Path, pruner: str) -> None:
    budget = ("trials: 6", f"trials: 12\n  pruner: {pruner}")
    study = searched_study(tmp_path, ONE_VARIANT, budget, ("epochs: 3", "epochs: 9"))
    record = Record()
    executor = search(plan_of(study, tmp_path), tmp_path, record=record)
    assert len(executor.ran) == 12
    plan = plan_of(study, tmp_path)
    spent = plan.searches[0].outcome.spent
    assert (spent.trials, spent.failed) == (12, 0)
    assert spent.pruned >= 3
    assert f"{spent.complete} complete, {spent.pruned} pruned" in plan.searches[0].note()
    cut = {trial_id for event, trial_id in record.events if event == "PRUNED"}
    assert len(cut) == spent.pruned
    assert not any(event == "epoch 9" and trial_id in cut for event, trial_id in record.events)
    whole = [record.trials[i] for i in record.trials if i not in cut]
    assert score_of(plan.trials[0]) == max(score_of(t) for t in whole)


def test_budget_can_be_raised(tmp_path: Path) -> None:
    few = searched_study(tmp_path, ONE_VARIANT)
    many = searched_study(tmp_path, ONE_VARIANT, ("trials: 6", "trials: 8"))
    first = search(plan_of(few, tmp_path), tmp_path)
    assert plan_of(many, tmp_path).trials == ()
    second = search(plan_of(many, tmp_path), tmp_path)
    assert (len(first.ran), len(second.ran)) == (6, 2)
    assert not set(first.ran) & set(second.ran)
    assert plan_of(few, tmp_path).trials  # what is spent beyond the budget does no harm


def test_failed_trials_count_and_do_not_stop_the_search(tmp_path: Path, plan: Plan) -> None:
    calls: list[str] = []

    def sometimes(trial: Trial, context: LocalContext) -> TrialResult:
        calls.append(trial.id)
        return failing(trial, context) if len(calls) % 3 == 0 else formula(trial, context)

    search(plan, tmp_path / "runs", sometimes)
    spent = [s.outcome.spent for s in plan_of(searched_study(tmp_path), tmp_path / "runs").searches]
    assert [s.trials for s in spent] == [6, 6]
    assert sum(s.failed for s in spent) == 4


def test_search_of_failures_alone_says_so(tmp_path: Path, plan: Plan) -> None:
    def arc_fails(trial: Trial, context: LocalContext) -> TrialResult:
        return failing(trial, context) if trial.model["decoder"] == "arc" else formula(trial, context)

    message = (
        "the search of 'decoder = arc' must end with a complete trial, it has 0 complete, 6 failed; 0 min; "
        "the last failed with: diverged: harness.errors.DivergedError: the loss must stay finite, got nan; "
        "change its space, or raise its trials"
    )
    for _ in range(2):  # again, from what is recorded
        with pytest.raises(HarnessError, match=f"^{re.escape(message)}$"):
            search(plan, tmp_path / "runs", arc_fails)
    found = plan_of(searched_study(tmp_path), tmp_path / "runs")
    assert [row.trial_ids != () for row in found.tables[0].rows] == [False, True]


def test_values_drawn_again_are_not_trained_again(tmp_path: Path) -> None:
    study = searched_study(tmp_path, ("{low: 1e-4, high: 1e-1, log: true}", "{choices: [0.1, 0.01, 0.001]}"))
    executor = search(plan_of(study, tmp_path), tmp_path)
    spent = [s.outcome.spent for s in plan_of(study, tmp_path).searches]
    assert [s.trials for s in spent] == [6, 6]
    assert len(executor.ran) + sum(s.repeated for s in spent) == 12
    assert sum(s.repeated for s in spent) > 0


def test_killed_search_goes_on(tmp_path: Path) -> None:
    study = searched_study(tmp_path, ONE_VARIANT, ("epochs: 3", "epochs: 6"))
    storage = tmp_path / "runs"
    words = [sys.executable, "-m", "tests.search_driver", str(tmp_path / "tiny.yaml"), str(storage)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert driver.stdout is not None
    said = [driver.stdout.readline() for _ in range(6 * 3 + 2)]  # into the fourth trial
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    interrupted = said[-1].split()[0]
    before = {line.split()[0] for line in said} - {interrupted}
    seen: dict[str, int] = {}

    def watched(trial: Trial, context: LocalContext) -> TrialResult:
        seen[trial.id] = len(read_history(context.folder)) + 1
        return formula(trial, context)

    executor = search(plan_of(study, storage), storage, watched)
    assert executor.ran[0] == interrupted
    assert seen.pop(interrupted) in (3, 4)  # from its history, not from the first epoch
    assert set(seen.values()) == {1}
    assert not before & set(executor.ran)
    assert len(before) + len(executor.ran) == 6
    undisturbed = tmp_path / "undisturbed"
    search(plan_of(study, undisturbed), undisturbed)
    assert plan_of(study, storage).trials == plan_of(study, undisturbed).trials
    assert drawn(storage, "MAFN") == drawn(undisturbed, "MAFN")


def test_what_ended_while_nobody_listened_is_recorded(tmp_path: Path, plan: Plan) -> None:
    storage = tmp_path / "runs"

    class Deaf(Record):
        def finished(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        search(plan, storage, record=Deaf())
    record = Record()
    executor = search(plan, storage, record=record)
    assert len(executor.ran) == 11
    assert sum(event == "COMPLETE" for event, _ in record.events) == 12


def test_two_drivers_share_the_searches(tmp_path: Path, plan: Plan) -> None:
    searches, url = search_plan(plan).searches, default_url(tmp_path)
    time = [0.0]

    def source(claims: Claims) -> SearchSource:
        return SearchSource(searches, url=url, storage=tmp_path, claims=claims, record=Record(), clock=lambda: time[0])

    with Claims(tmp_path, "a") as one, Claims(tmp_path, "b") as two:
        first, second = source(one), source(two)
        mine = first.next(0)
        assert mine is not None
        assert second.next(0) is None
        assert not second.is_done()
        for steered in first.steered:  # the first driver says goodbye
            one.release(tmp_path / "searches" / steered.search.key)
        time[0] += 10
        again = second.next(0)
        assert again is not None
        assert again.id == mine.id


def test_parallel_limits_the_trials_of_a_variant(tmp_path: Path) -> None:
    plan = plan_of(searched_study(tmp_path, ("trials: 6", "trials: 6\n  parallel: 2")), tmp_path)
    with Claims(tmp_path, "a") as claims:
        source = SearchSource(
            plan.searches, url=default_url(tmp_path), storage=tmp_path, claims=claims, record=Record()
        )
        found = [source.next(n) for n in range(6)]
    given = [trial.variant for trial in found if trial is not None]
    assert sorted(given) == ["MAFN (search)"] * 2 + ["decoder = arc (search)"] * 2


def test_stopped_trial_is_the_first_to_go_on(tmp_path: Path, plan: Plan) -> None:
    with Claims(tmp_path, "a") as claims:
        source = SearchSource(
            plan.searches, url=default_url(tmp_path), storage=tmp_path, claims=claims, record=Record()
        )
        trial = source.next(0)
        assert trial is not None
        source.started(trial)
        source.stopped(trial)
        assert source.next(0) == trial


def test_search_never_scores_the_test_split(tmp_path: Path, plan: Plan) -> None:
    found = plan.searches[0]
    trial = found.trial({"train.lr": 1e-3, "model.kernels": [1]})
    trial = replace(trial, train={**trial.train, "epochs": 1})
    assert trial.evaluate["controls"] == []
    assert trial.evaluate["test"] is False
    assert trial.base_seed == search_seed(0) != 0
    result = run_trial(trial, TinyContext(tmp_path, trial))
    assert {s.split for s in result.scores} == {"val"}
    folder = trial_folder(tmp_path, trial)
    assert [p.name for p in sorted(folder.glob("samples_*"))] == ["samples_val.parquet"]
    assert not list(folder.glob("*test*"))


def test_search_trials_are_recorded_apart(tmp_path: Path, empty_store: Path) -> None:
    storage = tmp_path / "runs"
    plan = plan_of(searched_study(tmp_path, ("trials: 6", "trials: 2")), storage)
    storage.mkdir()
    (storage / "mlflow.db").write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    tracker = MlflowTracker(uri, storage)
    tracker.open(search_plan(plan), "name: tiny")
    executor = search(plan, storage, record=tracker)
    tracker.close()
    client = connect(uri)
    runs = find_runs(client, "tags.`harness.kind` = 'search'")
    assert {run.data.tags["harness.trial_id"] for run in runs} == set(executor.ran)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all("val/oiou" in run.data.metrics for run in runs)
    parents = find_runs(client, "tags.`harness.kind` = 'variant'")
    assert sorted(run.info.run_name for run in parents) == ["MAFN (search)", "decoder = arc (search)"]
    assert {run.info.status for run in parents} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {run.info.run_id for run in parents}
    assert results_frame(uri, executor.ran).empty
    assert tracker.complete(executor.ran) == frozenset()


def test_database_that_cannot_be(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "optuna.db").write_text("no database")
    with pytest.raises(HarnessError, match=r"^the Optuna database sqlite:///.*optuna.db must be reachable"):
        read_outcomes(plan.searches, default_url(tmp_path))
    with pytest.raises(
        HarnessError, match=r"the Optuna database postgresql://me:\*\*\*@127.0.0.1:1/x must be"
    ) as caught:
        read_outcomes(plan.searches, "postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_outcome_of_nothing_makes_no_file(tmp_path: Path, plan: Plan) -> None:
    assert read_outcomes(plan.searches, default_url(tmp_path / "nowhere")) == {}
    assert not (tmp_path / "nowhere").exists()


def test_winner_that_equals_another_variant_is_trained_with_it(tmp_path: Path) -> None:
    changes = (
        "    design: grid\n    axes: {model.decoder: [arc, msrc]}",
        "    design: explicit\n    levels: [{label: tuned, search: {trials: 5, reason: fewer are enough}}]",
    )
    study = searched_study(
        tmp_path, changes, ("  label: MAFN\n", "  label: MAFN\n  search: {trials: 0, reason: as published}\n")
    )
    plan = expand(study, fingerprint="x")
    (found,) = plan.searches
    values = {"train.lr": 2e-3, "model.kernels": [1, 3]}
    after = expand(study, fingerprint="x", outcomes={found.key: Outcome(Spent(complete=5), values, 0.5)})
    assert len(after.trials) == 1
    assert [(r.label, r.variant, r.is_reference) for r in after.tables[0].rows] == [
        ("MAFN", "MAFN", True),
        ("tuned", "MAFN", False),
    ]
    assert [r.tuning for r in after.tables[0].rows] == [
        "Not tuned (model.kernels = [1,3], train.lr = 0.002): as published.",
        "Tuned on the validation split in 5 trials (5 complete; 0 min): train.lr = 0.002, model.kernels = [1,3]. "
        "Budget: fewer are enough.",
    ]
