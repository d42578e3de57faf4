"""Reading 10,000 runs with 20 scores each: `results_frame` against `mlflow.search_runs`, on sqlite and PostgreSQL.

Both read the same store, one after the other, in this process. The frame of the harness is long (a row per score), that
of MLflow wide (a row per run); their scores are compared before anything is printed.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import sqlalchemy as sa

from harness.results import complete_trials, connect, results_frame

TARGET = 0.1
NUM_SCORES = 20
NUM_CURVES = 3
"""Learning curves per run, which MLflow reads and a table does not need."""
NUM_PARAMS = 30


def rows_of(num_runs: int, experiment: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of MLflow's tables, as its own store would write them."""
    names = [f"{split}/p{n}" for split in ("val", "test") for n in range(NUM_SCORES // 2)]
    for index in range(num_runs):
        run = uuid.UUID(int=index + 1).hex
        yield (
            "runs",
            {
                **{"run_uuid": run, "name": f"v{index // 5}", "status": "FINISHED", "lifecycle_stage": "active"},
                **{"start_time": 1_700_000_000_000 + index, "end_time": 1_700_000_100_000 + index},
                **{"experiment_id": experiment, "artifact_uri": f"file:///x/{run}", "user_id": "u"},
                **{"source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": ""},
            },
        )
        tags = {
            **{"harness.kind": "trial", "harness.study": "bench", "harness.trial_id": f"{index:012x}"},
            **{"harness.variant": f"v{index // 5}", "harness.replicate": str(index % 5), "harness.git_commit": "c0"},
        }
        for key, value in tags.items():
            yield "tags", {"run_uuid": run, "key": key, "value": value}
        for n in range(NUM_PARAMS):
            yield "params", {"run_uuid": run, "key": f"model.p{n}", "value": str(n)}
        metrics = {name: (index + n) % 97 / 97 for n, name in enumerate(names)}
        metrics |= {f"epoch/val/m{n}": 0.5 for n in range(NUM_CURVES)}
        for key, number in metrics.items():
            row = {"run_uuid": run, "key": key, "value": number, "timestamp": 1_700_000_000_000, "step": 1}
            yield "latest_metrics", {**row, "is_nan": False}


def fill(uri: str, num_runs: int) -> list[str]:
    """Write the runs; their trials' ids."""
    experiment = int(connect(uri).create_experiment("bench"))
    engine = sa.create_engine(uri)
    tables = sa.MetaData()
    names = ("runs", "tags", "params", "latest_metrics")
    tables.reflect(engine, only=names)
    batches: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for table, row in rows_of(num_runs, experiment):
        batches[table].append(row)
    with engine.begin() as connection:
        for name in names:
            connection.execute(sa.insert(tables.tables[name]), batches[name])
    engine.dispose()
    return [f"{index:012x}" for index in range(num_runs)]


class Taken(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float
    """Of this process; PostgreSQL's own share is in the wall time only."""


def timed(act: Callable[[], Any]) -> tuple[Any, Taken]:
    """What a function returns, and what it took."""
    started, used = time.perf_counter(), time.process_time()
    found = act()
    return found, Taken(time.perf_counter() - started, time.process_time() - used)


def search_all(uri: str) -> pd.DataFrame:
    """What one writes without the harness."""
    mlflow.set_tracking_uri(uri)
    return mlflow.search_runs(experiment_names=["bench"], max_results=1_000_000)


def compare(label: str, uri: str, num_runs: int) -> bool:
    """Print one line; whether the target is reached."""
    ids = fill(uri, num_runs)
    results_frame(uri, ids[:1])
    ours, taken = timed(lambda: results_frame(uri, ids))
    done, asked = timed(lambda: complete_trials(uri, ids))
    theirs, search = timed(lambda: search_all(uri))
    wide = ours.assign(key=ours["split"] + "/" + ours["metric"]).pivot(index="run_id", columns="key", values="value")
    columns = [f"metrics.{name}" for name in wide.columns]
    np.testing.assert_array_equal(wide.to_numpy(), theirs.set_index("run_id").loc[wide.index, columns].to_numpy())
    assert len(done) == len(ids)
    ratio = taken.wall / search.wall
    print(
        f"{label:10s} {num_runs} runs x {NUM_SCORES}: search_runs {search.wall:.2f} s ({search.cpu:.2f} CPU s), "
        f"results_frame {taken.wall:.2f} s ({taken.cpu:.2f} CPU s), ratio {ratio:.3f}, of CPU time "
        f"{taken.cpu / search.cpu:.3f} (target {TARGET}: {'reached' if ratio <= TARGET else 'MISSED'}); "
        f"which are complete: {asked.wall:.2f} s"
    )
    return ratio <= TARGET


def main() -> None:
    """Measure both kinds of store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    num_runs = parser.parse_args().runs
    with TemporaryDirectory() as folder:
        compare("sqlite", f"sqlite:///{Path(folder, 'mlflow.db')}", num_runs)
    if any(Path("/usr/lib/postgresql").glob("*/bin")):
        from tests.servers import postgresql

        with ExitStack() as stack:
            compare("PostgreSQL", stack.enter_context(postgresql()), num_runs)


if __name__ == "__main__":
    main()
