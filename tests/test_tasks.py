"""What a referring task measures, under each protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import default_collate

from harness.data.coco_mask import decode_rle
from harness.data.synthetic import data_root
from harness.metrics import referring_scores
from harness.records import Trial
from harness.tasks import MASK, Task, build_task
from models.base import MODELS, ModelOutput, resolve_config
from tests.tiny import tiny_plan, tiny_trial


def task_of(trial: Trial, folder: Path, **evaluate: Any) -> Task:
    trial = replace(trial, evaluate={**trial.evaluate, **evaluate})
    config = resolve_config(MODELS.get(trial.model["name"]), trial.model)
    return build_task(trial, data_root(trial, folder), config, storage=folder)


def measured(task: Task, logits: Tensor) -> pd.DataFrame:
    samples = task.evaluation("val")
    batch = default_collate([samples[i] for i in range(len(logits))])
    return pd.DataFrame(task.measurer("val")(ModelOutput(logits), batch))


def large_scenes(folder: Path) -> Trial:
    """Images and masks of 64 pixels, shown to the model at 32."""
    return tiny_plan(folder, ("test: 4, size: 32}", "test: 4, size: 64}")).trials[0]


def test_native_compares_with_the_mask_on_disk(tmp_path: Path) -> None:
    trial = large_scenes(tmp_path)
    left = torch.full((4, 2, 32, 32), -1.0)
    left[:, 1, :, :16] = 1.0
    left[:, 0] = -left[:, 1]
    for protocol, size in (("rrsis480", 32), ("native", 64)):
        task = task_of(trial, tmp_path, protocol=protocol)
        table = measured(task, left)
        for row in table.itertuples():
            truth = task.evaluation("val").native_mask(row.index)[:: 64 // size, :: 64 // size]  # type: ignore[attr-defined]
            drawn = decode_rle(row.prediction, height=row.height, width=row.width)
            assert drawn.shape == (size, size)
            assert drawn[:, : size // 2].all()
            assert not drawn[:, size // 2 :].any(), "logits of 1 and -1 meet half way"
            if protocol == "native":
                counts = (int((drawn & truth).sum()), int((drawn | truth).sum()), int(truth.sum()))
                assert (row.intersection, row.union, row.area) == counts
        assert MASK in table.columns


def test_ties_go_to_the_background(tmp_path: Path) -> None:
    table = measured(task_of(tiny_trial(tmp_path), tmp_path), torch.zeros(3, 2, 32, 32))
    assert table["intersection"].tolist() == [0, 0, 0]
    assert table["union"].tolist() == table["area"].tolist()


def test_empty_masks_follow_the_protocol(tmp_path: Path) -> None:
    table = pd.DataFrame({"intersection": [6, 0, 0], "union": [10, 0, 4], "area": [6, 0, 0]})
    trial = tiny_trial(tmp_path)
    expected = {
        ("zero", False): referring_scores([6, 0, 0], [10, 0, 4]),
        ("one", False): referring_scores([6, 0, 0], [10, 0, 4], empty="one"),
        ("skip", False): referring_scores([6, 0, 0], [10, 0, 4], empty="skip"),
        ("zero", True): referring_scores([6], [10]),
    }
    for (empty, drop), scores in expected.items():
        assert task_of(trial, tmp_path, empty=empty, drop_empty_refs=drop).scores(table) == scores
    assert len({scores["miou"] for scores in expected.values()}) == 4
