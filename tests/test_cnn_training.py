"""The LSTM models in a real trial: words reach the model, auxiliary heads and the published optimiser are used."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records import Trial
from harness.spec_recipe import ReferringTrainConfig
from harness.train import build_optimizer
from models.base import MODELS, ModelOutput, resolve_config
from tests.tiny import Context, build, fit, tiny_trial

RESNET = {"pretrained": None, "depths": [1, 1, 1, 1], "width": 8}
TEXT = {"dim": 12}
MODEL = {
    "cmpc": {"backbone": RESNET, "text": TEXT, "width": 16, "hidden": 8},
    "brinet": {"backbone": RESNET, "text": TEXT, "width": 16, "attention_width": 8, "aspp_width": 8},
}
RECIPE = {"ce": 0.7, "dice": 0.0, "class_weights": [1.0, 1.0], "ce_reduction": "pixel_sum", "auxiliary": 0.1}


def cnn_trial(folder: Path, name: str, *, text: dict[str, Any] = TEXT, **loss: Any) -> Trial:
    config = resolve_config(MODELS.get(name), {**MODEL[name], "text": text})
    recipe = {"optimizer": "adam", "weight_decay": 5e-4, "epochs": 1, "loss": {**RECIPE, **loss}}
    return replace(tiny_trial(folder, **recipe), model={"name": name, **asdict(config)})


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(MODEL))
def test_trains_by_the_published_recipe(name: str, tmp_path: Path) -> None:
    trial = cnn_trial(tmp_path, name)
    context = Context(tmp_path, trial)
    start = build(trial, tmp_path)[0].state_dict()
    model, progress = fit(trial, context)
    assert (progress.epoch, progress.step) == (1, 2)
    trained = {key for key, value in model.named_parameters() if not torch.equal(value, start[key])}
    assert {"score.weight", "level_scores.2.weight", "encode.text.embedding.weight"} <= trained


def test_auxiliary_heads_add_their_weighted_cross_entropy(tmp_path: Path) -> None:
    logits = torch.randn(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = {"target": (logits[:, 1] > 1).long()}
    task, plain = (build(cnn_trial(tmp_path, "cmpc", auxiliary=a), tmp_path)[1] for a in (0.1, 0.0))
    alone = task.loss(ModelOutput(logits), batch)
    twice = task.loss(ModelOutput(logits, (logits, logits)), batch)
    torch.testing.assert_close(twice, alone * (0.7 + 2 * 0.1) / 0.7)
    torch.testing.assert_close(plain.loss(ModelOutput(logits, (logits,)), batch), alone)


def test_head_of_weight_zero_has_a_gradient_of_zero_for_ddp_to_wait_for(tmp_path: Path) -> None:
    task = build(cnn_trial(tmp_path, "cmpc", auxiliary=0.0), tmp_path)[1]
    logits, head = (torch.randn(1, 2, 32, 32, requires_grad=True) for _ in range(2))
    task.loss(ModelOutput(logits, (head,)), {"target": torch.ones(1, 32, 32, dtype=torch.long)}).backward()
    assert head.grad is not None
    assert not head.grad.any()


def test_adam_adds_the_decay_to_the_gradient_of_weights_only(tmp_path: Path) -> None:
    trial = cnn_trial(tmp_path, "cmpc")
    model, _ = build(trial, tmp_path)
    optimizer = build_optimizer(model, ReferringTrainConfig.model_validate(trial.train))
    assert type(optimizer) is torch.optim.Adam
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]
    usual = ReferringTrainConfig.model_validate({**trial.train, "optimizer": "adamw"})
    assert type(build_optimizer(model, usual)) is torch.optim.AdamW


def test_words_of_the_training_sentences_find_their_glove_vectors(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("the " + " ".join(["0.5"] * 12) + "\n", encoding="utf-8")
    trial = cnn_trial(tmp_path, "cmpc", text={**TEXT, "glove": str(tmp_path / "glove.txt")})
    model, task = build(trial, tmp_path)
    row = task.inputs.vocabulary.index("the")
    assert task.inputs.vocab_size == len(task.inputs.vocabulary)
    embedding = model.get_parameter("encode.text.embedding.weight")
    assert embedding[row].tolist() == [0.5] * 12
    assert embedding[row + 1].abs().max() <= 0.08
