"""What MLflow's pages show beside a run: the dataset it was trained on, the model that came out, what that predicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from harness.pictures import FOLDER, picture_key
from harness.records import Trial, TrialResult

MAX_DIGEST = 36
FORBIDDEN = str.maketrans(dict.fromkeys("/:.%\"'", "-"))
"""Characters that MLflow refuses in the name of a model."""


def dataset_of(trial: Trial) -> Dataset:
    """The trial's dataset; its digest is the fingerprint of samples and splits."""
    options = {key: value for key, value in trial.data.items() if key != "name"}
    return Dataset(
        name=str(trial.data["name"]),
        digest=trial.data_fingerprint[:MAX_DIGEST],
        source_type="local" if trial.data_root else "generated",
        source=json.dumps({"uri": trial.data_root}),
        profile=json.dumps(options),
    )


def log_dataset(client: MlflowClient, run_id: str, trial: Trial) -> None:
    """Link the trial's dataset with its run."""
    entry = DatasetInput(dataset_of(trial), [InputTag("mlflow.data.context", "training")])
    client.log_inputs(run_id, [entry])


def log_model(
    client: MlflowClient, run_id: str, trial: Trial, result: TrialResult, params: Mapping[str, str]
) -> str | None:
    """Enter the trial's weights as a model that came out of its run; they themselves stay where they are.

    Args:
        client: Of the store.
        run_id: The trial's run.
        trial: What was run.
        result: How it ended.
        params: Of the model.

    Returns:
        The model's id; None for a trial that kept no weights.
    """
    if not result.checkpoint:
        return None
    run = client.get_run(run_id)
    if run.outputs is not None and run.outputs.model_outputs:
        return str(run.outputs.model_outputs[0].model_id)
    experiment = run.info.experiment_id
    left = client.search_logged_models([experiment], f"source_run_id = '{run_id}'", max_results=1)
    tags = {"harness.trial_id": trial.id, "harness.checkpoint": result.checkpoint}
    model = (
        left[0]
        if left
        else client.create_logged_model(
            experiment,
            name=f"{trial.variant} replicate {trial.replicate}".translate(FORBIDDEN),
            source_run_id=run_id,
            tags=tags,
            params=dict(params),
            model_type=str(trial.task),
        )
    )
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, result.best_epoch or 0)])
    return str(model.model_id)


def log_pictures(client: MlflowClient, run_id: str, folder: Path, splits: Sequence[str]) -> None:
    """Log the pictures of the first of some splits of which a trial has left any, as images of step 0.

    They get the names that the UI reads, as `MlflowClient.log_image` forms them, but always the same for a run: logged
    again they replace what is there. The smaller files, which pages of many load, are not reduced to 256 pixels as its
    are.

    Args:
        client: Of the store.
        run_id: The trial's run.
        folder: The trial's.
        splits: In the order of preference.
    """
    split = next((s for s in splits if (folder / FOLDER / s).is_dir()), None)
    if split is None:
        return
    start = client.get_run(run_id).info.start_time
    with TemporaryDirectory() as draft:
        for path in sorted((folder / FOLDER / split).iterdir()):
            key = picture_key(split, int(path.stem)).replace("/", "~")
            kind = "" if path.suffix == ".png" else "+compressed"
            shutil.copyfile(path, Path(draft, f"{key}+step+0+timestamp+{start}+{run_id}{kind}{path.suffix}"))
        client.log_artifacts(run_id, draft, "images")
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, "True")
