"""What every registered model keeps, checked on its tiny configuration."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.base import MODELS, SegmentationModel
from models.layers.stochastic import seed_model_noise
from tests.tiny_models import TINY, batch_of, build, inputs_of, make_batch, target_of, training_loss

NAMES = MODELS.names()
REFERRING = [name for name in NAMES if MODELS.get(name).info.task == "referring"]
COMPONENTS = [(name, part) for name in NAMES for part in MODELS.get(name).info.components]
OVERFIT_STEPS = 40
MAX_DRAWS = 5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    seed_model_noise(0)


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> SegmentationModel:
    """In evaluation mode; a test must leave it as it was."""
    return build(request.param).eval()


def name_of(model: SegmentationModel) -> str:
    return type(model).__module__.rpartition(".")[2]


def predict(model: SegmentationModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(batch).logits
    return logits


def shake(model: SegmentationModel, *, seed: int) -> SegmentationModel:
    """Move all weights away from their start, where some parts hardly act yet."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draws), alpha=0.1)
    return model


def test_every_model_has_a_tiny_configuration() -> None:
    missing = sorted(set(NAMES) - TINY.keys())
    assert not missing, f"add a tiny configuration of {', '.join(missing)} to TINY in tests/tiny_models.py"
    assert set(TINY) <= set(NAMES)


def test_it_says_where_it_comes_from(model: SegmentationModel) -> None:
    assert all((model.info.title, model.info.paper, model.info.task, model.info.components))
    assert "https://" in model.info.paper
    assert "https://" in str(sys.modules[type(model).__module__].__doc__)


def test_every_setting_has_the_papers_value_as_default(model: SegmentationModel) -> None:
    config = model.Config()
    settings = {field.name for field in dataclasses.fields(config)}
    for component, off in model.info.components.items():
        assert component in settings
        assert getattr(config, component) != off


def test_logits_have_the_size_of_the_image(model: SegmentationModel) -> None:
    inputs = inputs_of(name_of(model))
    output = model(batch_of(name_of(model)))
    assert output.logits.shape == (3, inputs.num_classes, inputs.image_size, inputs.image_size)
    assert output.auxiliary == ()


def test_evaluation_is_deterministic_and_samples_are_independent(model: SegmentationModel) -> None:
    batch = batch_of(name_of(model))
    together = predict(model, batch)
    assert torch.equal(together, predict(model, batch))
    for i in range(3):
        alone = predict(model, {key: value[i : i + 1] for key, value in batch.items()})
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", REFERRING)
def test_image_and_sentence_both_matter(name: str) -> None:
    model, batch = build(name).eval(), make_batch()
    words = torch.where(batch["token_mask"] == 1, (batch["tokens"] + 7) % 100 + 5, 0)
    logits = predict(model, batch)
    for change in ({"tokens": words}, {"image": batch["image"].flip(3)}):
        assert not torch.allclose(predict(model, {**batch, **change}), logits, atol=1e-5)


def test_parameter_groups_hold_each_trained_parameter_once(model: SegmentationModel) -> None:
    groups = model.parameter_groups()
    assert all(group.parameters for group in groups)
    grouped = [id(p) for group in groups for p in group.parameters]
    assert len(grouped) == len(set(grouped))
    dead = model.dead_parameters()
    trained = {id(p) for name, p in model.named_parameters() if p.requires_grad and name not in dead}
    assert trained <= set(grouped)
    assert all(p.requires_grad for group in groups for p in group.parameters)


def test_state_dict_round_trip(model: SegmentationModel, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = type(model)(model.config, model.inputs).eval()
    batch = batch_of(name_of(model), 2)
    assert not torch.equal(predict(again, batch), predict(model, batch))
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert torch.equal(predict(again, batch), predict(model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_that_is_not_dead(name: str) -> None:
    model = build(name).train()
    dead = model.dead_parameters()
    without = {n for n, _ in model.named_parameters()}
    assert dead <= without
    # With other weights, the few channels of a tiny model that no ReLU lets through are others.
    for draw in range(MAX_DRAWS):
        if draw:
            shake(model, seed=draw)
        model.zero_grad()
        training_loss(model, batch_of(name), target_of(name, 3)).backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        without &= {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        if without == dead:
            break
    assert without == dead


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_component_can_be_switched_off_and_changes_the_output(name: str, component: str) -> None:
    full = shake(build(name), seed=0).eval()
    without = build(name, {component: full.info.components[component]}).eval()
    # what both have gets the same weights, so that only the component differs
    shapes = {key: value.shape for key, value in without.state_dict().items()}
    same = {key: value for key, value in full.state_dict().items() if shapes.get(key) == value.shape}
    without.load_state_dict(same, strict=False)
    batch = batch_of(name, 2)
    assert not torch.allclose(predict(full, batch), predict(without, batch), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_overfits(name: str) -> None:
    model, batch, target = build(name).train(), batch_of(name, 2), target_of(name, 2)
    groups = [{"params": group.parameters} for group in model.parameter_groups()]
    optimiser = torch.optim.Adam(groups, lr=5e-3)
    losses = []
    for step in range(OVERFIT_STEPS):
        seed_model_noise(step)
        loss = training_loss(model, batch, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0], [round(loss, 3) for loss in losses]
