"""How MLflow's UI shows a study: its views, which stand in the menu *Views*, and the metric that its charts begin with.

MLflow keeps a saved view as a tag of the experiment, `mlflow.sharedViewState.<id>`; its address is that of the runs and
`viewStateShareKey=<id>`. Without a view, the UI shows names and dates, no score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.metrics import metric
from harness.pictures import NUM_PICTURES, picture_key
from harness.records import Plan
from harness.results import VARIANTS_VIEW

VIEW = "mlflow.sharedViewState."
MAX_SCORES = 8
"""Columns of scores, so that a view fits on a screen."""
COSTS = ("cost/gmacs", "cost/train_s")
MADE = 1_700_000_000_000
"""Milliseconds: equal studies give equal views."""
TRIALS = "tags.`harness.kind` = 'trial'"


def view_tags(plan: Plan) -> dict[str, str]:
    """Tags of a study's experiment that set up its pages."""
    first = f"{plan.primary_split}/{plan.primary_metric}"
    upwards = metric(plan.primary_metric).higher_is_better
    scores = list(dict.fromkeys([first, *(f"{s}/{m}" for t in plan.tables for s in t.splits for m in t.metrics)]))
    numbers = [f"metrics.`{name}`" for name in (*scores[:MAX_SCORES], *COSTS)]
    marks = [f"tags.`harness.{name}`" for name in ("replicates_done", "fault", "error", "rows")]
    grouped = {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "harness.variant"}],
    }
    charts = {"chartsSearchFilter": f"^{plan.primary_split}/"}
    best = {"searchFilter": TRIALS, "orderByKey": f"metrics.`{first}`", "orderByAsc": not upwards}
    views: dict[str, tuple[str, Mapping[str, Any]]] = {
        VARIANTS_VIEW: ("Variants", {"selectedColumns": [*numbers, *marks]}),
        "trials": ("Trials, best first", {**best, "selectedColumns": [*numbers, *marks[1:3]]}),
        "means": ("Trials by variant", {**best, "selectedColumns": numbers, "groupBy": grouped, **charts}),
        "pictures": ("Predictions", {**best, **_predictions(plan.primary_split), "selectedColumns": numbers[:1]}),
    }
    return {
        "mlflow.experiment.primaryMetric.name": first,
        "mlflow.experiment.primaryMetric.greaterIsBetter": json.dumps(upwards),
        **{f"{VIEW}{key}": _view(name, state) for key, (name, state) in views.items()},
    }


def _predictions(split: str) -> dict[str, Any]:
    """Charts with one table in place of all that the UI makes by itself: a row per sample, a column per variant."""
    keys = [picture_key(split, number) for number in range(1, NUM_PICTURES + 1)]
    section = keys[0].partition("/")[0]
    chart = {"type": "IMAGE", "metricSectionId": section, "step": 0, "showRunParams": False}
    table = {**chart, "uuid": "table", "imageKeys": keys, "isGenerated": False, "deleted": False}
    # one that is deleted is not made again
    own = [{**chart, "uuid": key, "imageKeys": [key], "isGenerated": True, "deleted": True} for key in keys]
    place = {"uuid": section, "name": section, "display": True, "columns": 1, "cardHeight": 760, "isReordered": False}
    return {
        "searchFilter": f"{TRIALS} and tags.`harness.replicate` = '0'",
        "compareRunCharts": [table, *own],
        "compareRunSections": [place],
        "chartsSearchFilter": f"^{section}/",
        "runListHidden": True,
    }


def _view(name: str, state: Mapping[str, Any]) -> str:
    made = {"createdAt": MADE, "updatedAt": MADE}
    return json.dumps({"name": f"harness: {name}", **made, "state": json.dumps(state, sort_keys=True)})
