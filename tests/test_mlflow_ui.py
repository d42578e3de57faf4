"""What MLflow's own pages show of a study: its views, scores and variants, and no error on the browser's console."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from docs.mlflow_ui import BROWSERS, browse
from harness.results import results_frame, runs_page
from harness.run_views import VIEW, view_tags
from harness.tracking import MlflowTracker, default_uri
from tests.recorded_study import play
from tests.report_frame import make_plan
from tests.servers import MlflowServer
from tests.tiny import tiny_plan

BAD = re.compile(r"ERROR:CONSOLE|CONSOLE.*Uncaught")


def state_of(tags: dict[str, str], view: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.loads(tags[f"{VIEW}{view}"])["state"])
    return found


def test_views_begin_with_the_score_that_decides(tmp_path: Path) -> None:
    tags = view_tags(tiny_plan(tmp_path))
    assert tags["mlflow.experiment.primaryMetric.name"] == "val/miou"
    assert state_of(tags, "variants")["selectedColumns"][:2] == ["metrics.`val/miou`", "metrics.`val/oiou`"]
    best = state_of(tags, "trials")
    assert (best["orderByKey"], best["orderByAsc"]) == ("metrics.`val/miou`", False)
    assert state_of(tags, "means")["groupBy"]["groupByKeys"][0]["groupByData"] == "harness.variant"
    pictures = state_of(tags, "pictures")
    table, *own = pictures["compareRunCharts"]
    assert table["imageKeys"] == [f"predictions/val-{n}" for n in (1, 2, 3, 4)]
    assert [chart["imageKeys"] for chart in own if chart["deleted"]] == [[key] for key in table["imageKeys"]]
    assert {chart["metricSectionId"] for chart in (table, *own)} == {pictures["compareRunSections"][0]["uuid"]}
    assert max(map(len, view_tags(make_plan()).values())) < 5000, "MLflow keeps no longer tags"


def test_the_experiment_has_the_views_and_a_report_is_no_trial(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path)
    plan, uri = tiny_plan(tmp_path), default_uri(tmp_path)
    tracker = MlflowTracker(uri, tmp_path)
    tracker.open(plan, "name: tiny")
    play(plan, tracker, tmp_path)
    tracker.close()
    report = tmp_path / "report"
    (report / "figures").mkdir(parents=True)
    files = [report / "manifest.json", report / "decoder.tex", report / "figures" / "delta.png"]
    for path in files:
        path.write_bytes(b"x")
    MlflowTracker(uri, tmp_path).log_report(plan, files, report)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert experiment.tags.items() >= view_tags(plan).items()
    (run,) = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'report'")
    names = {file.path for at in ("", "figures") for file in client.list_artifacts(run.info.run_id, at)}
    assert names == {"manifest.json", "decoder.tex", "figures", "figures/delta.png"}
    frame = results_frame(uri, [trial.id for trial in plan.trials])
    assert run.info.run_id not in set(frame["run_id"])
    assert len(set(frame["run_id"])) == len(plan.trials)


@pytest.mark.cluster
def test_a_browser_sees_variants_with_their_scores(tmp_path: Path, empty_store: Path) -> None:
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("chromium is not on PATH")
    server = MlflowServer(tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path)}")
    server.start()
    try:
        server.wait()
        plan = tiny_plan(tmp_path, ("replicates: 1", "replicates: 2"))
        tracker = MlflowTracker(server.uri, tmp_path)
        tracker.open(plan, "name: tiny")
        play(plan, tracker, tmp_path)
        tracker.close()
        address = runs_page(server.uri, "tiny")
        seen = browse(address, "--dump-dom", "--enable-logging=stderr")
        charts = browse(
            address.replace("=variants", "=means") + "&compareRunsMode=CHART", "--dump-dom", "--enable-logging=stderr"
        )
        pictures = browse(
            address.replace("=variants", "=pictures") + "&compareRunsMode=CHART",
            "--dump-dom",
            "--enable-logging=stderr",
        )
    finally:
        server.kill()
    for part in ("harness: Variants", "Does the machinery work?", "val/miou", "decoder = arc", "MAFN"):
        assert part in seen.stdout, part
    means = {run.data.metrics["val/miou"] for run in runs_of(tmp_path) if "val/miou" in run.data.metrics}
    assert any(f"{mean:.5f}"[:6] in seen.stdout for mean in means)
    for part in ("harness: Trials by variant", "Group by: harness.variant", "val/miou"):
        assert part in charts.stdout, part
    for part in ("predictions/val-1", "decoder = arc / replicate 0", "MAFN / replicate 0"):
        assert part in pictures.stdout, part
    assert len(re.findall(r'<img[^>]+src="[^"]+predictions~val-1[^"]+compressed.webp', pictures.stdout)) == 2
    for page in (seen, charts, pictures):
        assert [line for line in page.stderr.splitlines() if BAD.search(line)] == []


def runs_of(folder: Path) -> list[object]:
    client = MlflowClient(tracking_uri=default_uri(folder))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'variant'"))
