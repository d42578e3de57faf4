"""What trials left behind besides scores, read from MLflow: per-sample tables, masks, feature maps, curves."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.coco_mask import decode_rle
from harness.environment import VERSION
from harness.faults import TRACEBACK
from harness.records import Trial
from harness.results import ARTIFACTS, connect, default_environment, find_runs, local_folder, run_page, store_errors
from harness.results_sql import artifact_places, is_database

QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
EPOCH = "epoch/"
"""How the names of learning curves begin."""


@dataclass(frozen=True)
class RunRecord:
    """What the store keeps of a run beside its scores."""

    run_id: str
    page: str
    """Address in the MLflow UI."""
    tags: Mapping[str, str]


class MlflowArtifacts:
    """Reads the artifacts of runs; a file that is not on this machine is fetched once, into a temporary folder.

    Args:
        uri: Tracking server or store.
        storage: Folder of the study, where files of a local store are looked for if they are not where they were.

    Raises:
        TrackingError: The store cannot be read; any method may raise it.
    """

    def __init__(self, uri: str, storage: Path | None = None) -> None:
        self._uri, self._storage = uri, storage
        self._client = connect(uri)
        self._folder = TemporaryDirectory(prefix="harness-artifacts-")
        self.samples = functools.cache(self._samples)

    def _samples(self, run_id: str, split: str) -> pd.DataFrame | None:
        """One row per sample of a split; None where the run left none."""
        path = self.fetch(run_id, f"samples_{split}.parquet")
        return None if path is None else pd.read_parquet(path)

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> dict[str, NDArray[np.bool_]]:
        """Predicted masks `(H, W)` of some samples; those that the run did not leave are left out."""
        path = self.fetch(run_id, f"predictions_{split}.parquet")
        if path is None:
            return {}
        table = pd.read_parquet(path, filters=[("key", "in", list(keys))])
        rows = table[["key", "prediction", "height", "width"]].itertuples(index=False)
        return {key: decode_rle(runs, height=h, width=w).astype(bool) for key, runs, h, w in rows}

    def feature_maps(self, run_id: str) -> dict[str, NDArray[Any]]:
        """Arrays of `feature_maps.npz`: `keys (B,)` and a map `(B, H, W)` per point; empty where the run left none."""
        path = self.fetch(run_id, "feature_maps.npz")
        if path is None:
            return {}
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def curve(self, run_id: str, name: str) -> dict[int, float]:
        """Epoch -> value of a learning curve, for example `val/miou`."""
        with store_errors(self._uri):
            history = self._client.get_metric_history(run_id, EPOCH + name)
        return {int(m.step): float(m.value) for m in history}

    def traceback(self, run_id: str) -> str:
        """What Python printed when the run failed; empty where it left nothing."""
        path = self.fetch(run_id, TRACEBACK)
        return "" if path is None else path.read_text(encoding="utf-8", errors="replace")

    def versions(self, run_id: str) -> dict[str, str]:
        """Package -> version that the run was recorded with, Python among them."""
        with store_errors(self._uri):
            tags = self._client.get_run(run_id).data.tags
        return {key.removeprefix(VERSION): tags[key] for key in sorted(tags) if key.startswith(VERSION)}

    def record(self, run_id: str) -> RunRecord:
        """A run's tags and page."""
        with store_errors(self._uri):
            run = self._client.get_run(run_id)
        return RunRecord(run_id, run_page(self._uri, run.info.experiment_id, run_id), dict(run.data.tags))

    def document(self, run_id: str, name: str) -> dict[str, Any] | None:
        """A JSON artifact, for example `code.json`; None where the run left none."""
        path = self.fetch(run_id, name)
        return None if path is None else dict(json.loads(path.read_text(encoding="utf-8")))

    def last_of(self, study: str, trial: Trial) -> tuple[str, Trial] | None:
        """The last run of a study that stood for the same replicate of a variant, whatever its configuration was."""
        with store_errors(self._uri):
            experiment = self._client.get_experiment_by_name(study)
            runs = (
                find_runs(self._client, "tags.`harness.kind` = 'trial'", experiment.experiment_id) if experiment else []
            )
        wanted = {"harness.variant": trial.variant, "harness.replicate": str(trial.replicate)}
        for run in runs:
            if wanted.items() <= run.data.tags.items() and (kept := self.document(run.info.run_id, "trial.json")):
                return str(run.info.run_id), Trial.from_json(kept)
        return None

    def fetch(self, run_id: str, name: str) -> Path | None:
        """A file that the run left, until this object is gone; None where the run left none of that name."""
        here = self._places.get(run_id)
        if here is not None:
            return here / name if (here / name).exists() else None
        target = Path(self._folder.name, run_id)
        if not (target / name).exists():
            with store_errors(self._uri), default_environment(QUIET):
                if name not in self.names(run_id):
                    return None
                target.mkdir(exist_ok=True)
                self._client.download_artifacts(run_id, name, str(target))
        return target / name

    @functools.cache  # noqa: B019 -- lives as long as one report
    def names(self, run_id: str) -> frozenset[str]:
        """Names of the files and folders that the run left, as MLflow lists them at the top."""
        here = self._places.get(run_id)
        if here is not None:
            return frozenset(path.name for path in here.iterdir()) if here.is_dir() else frozenset()
        return frozenset(file.path for file in self._client.list_artifacts(run_id))

    @functools.cached_property
    def _places(self) -> dict[str, Path]:
        """Folders of runs that are on this machine: MLflow takes 5 ms a run to say where its files are, and copies."""
        if not is_database(self._uri):
            return {}
        with store_errors(self._uri):
            found = artifact_places(self._uri)
        places = {run: local_folder(place) for run, place in found.items()}
        return {run: self._moved(place) for run, place in places.items() if place is not None}

    def _moved(self, place: Path) -> Path:
        """Where a run's files are, also if the storage folder is not where it was when they were written."""
        if self._storage is None or place.is_dir():
            return place
        # <storage>/artifacts/<study>/<run>/artifacts
        here = self._storage.joinpath(ARTIFACTS, *place.parts[-3:])
        return here if here.is_dir() else place
