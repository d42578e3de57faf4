"""What trials left behind besides scores, read from MLflow: per-sample tables, masks, feature maps, curves."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.coco_mask import decode_rle
from harness.results import connect, default_environment, store_errors

QUIET = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
TRACEBACK = "traceback.txt"
VERSION = "harness.version."
"""How the tags of versions begin."""
EPOCH = "epoch/"
"""How the names of learning curves begin."""


class MlflowArtifacts:
    """Reads the artifacts of runs; each file is fetched once, into a temporary folder.

    Args:
        uri: Tracking server or store.

    Raises:
        TrackingError: The store cannot be read; any method may raise it.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client = connect(uri)
        self._folder = TemporaryDirectory(prefix="harness-artifacts-")
        self.samples = functools.cache(self._samples)

    def _samples(self, run_id: str, split: str) -> pd.DataFrame | None:
        """One row per sample of a split; None where the run left none."""
        path = self._fetch(run_id, f"samples_{split}.parquet")
        return None if path is None else pd.read_parquet(path)

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> dict[str, NDArray[np.bool_]]:
        """Predicted masks `(H, W)` of some samples; those that the run did not leave are left out."""
        path = self._fetch(run_id, f"predictions_{split}.parquet")
        if path is None:
            return {}
        table = pd.read_parquet(path, filters=[("key", "in", list(keys))])
        rows = table[["key", "prediction", "height", "width"]].itertuples(index=False)
        return {key: decode_rle(runs, height=h, width=w).astype(bool) for key, runs, h, w in rows}

    def feature_maps(self, run_id: str) -> dict[str, NDArray[Any]]:
        """Arrays of `feature_maps.npz`: `keys (B,)` and a map `(B, H, W)` per point; empty where the run left none."""
        path = self._fetch(run_id, "feature_maps.npz")
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
        path = self._fetch(run_id, TRACEBACK)
        return "" if path is None else path.read_text(encoding="utf-8", errors="replace")

    def versions(self, run_id: str) -> dict[str, str]:
        """Package -> version that the run was recorded with, Python among them."""
        with store_errors(self._uri):
            tags = self._client.get_run(run_id).data.tags
        return {key.removeprefix(VERSION): tags[key] for key in sorted(tags) if key.startswith(VERSION)}

    def _fetch(self, run_id: str, name: str) -> Path | None:
        target = Path(self._folder.name, run_id)
        if not (target / name).exists():
            with store_errors(self._uri), default_environment(QUIET):
                if name not in self._names(run_id):
                    return None
                target.mkdir(exist_ok=True)
                self._client.download_artifacts(run_id, name, str(target))
        return target / name

    @functools.cache  # noqa: B019 -- lives as long as one report
    def _names(self, run_id: str) -> frozenset[str]:
        return frozenset(file.path for file in self._client.list_artifacts(run_id))
