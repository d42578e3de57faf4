"""The whole of MAFN against a plain statement of it that computes everything as the specification says it.

`benchmarks/plain_mafn.py` was written from the specification and shares only the text encoder with our model.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_mafn import PlainMafn, check_size, copy_weights
from harness.errors import HarnessError
from models.base import resolve_config
from models.layers.stochastic import DropPath
from models.mafn import MAFN
from tests.tiny import double_precision
from tests.tiny_models import INPUTS, SWIN_BERT, make_batch

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""
EXACT = 1e-7
"""The same in 64 bits."""


def randomise(model: nn.Module) -> None:
    """Give biases, norms and their statistics values that show when they are left out."""
    draws = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=draws)
        elif tensor.dim() == 1:
            tensor.add_(torch.empty_like(tensor).normal_(0.0, 0.2, generator=draws))


def make_pair(image_size: int, **settings: object) -> tuple[MAFN, PlainMafn]:
    torch.manual_seed(0)
    config = resolve_config(MAFN, {**SWIN_BERT, **settings})
    inputs = replace(INPUTS, image_size=image_size)
    ours, plain = MAFN(config, inputs), PlainMafn(config, inputs)
    randomise(ours)
    copy_weights(plain, ours)
    return ours.eval(), plain.eval()


def difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())


def test_plain_model_has_the_published_size() -> None:
    assert check_size() == 350_056_899


@pytest.mark.parametrize(
    ("image_size", "settings"),
    [(64, {}), (96, {}), (96, {"kernels": [1, 3]}), (64, {"kernels": [1, 3, 5, 7]})],
    ids=["64", "96", "kernels-13", "kernels-1357"],
)
def test_outputs_and_gradients_are_those_of_the_plain_model(image_size: int, settings: dict[str, object]) -> None:
    ours, plain = make_pair(image_size, **settings)
    batch = make_batch(images=2, size=image_size)
    image = batch.pop("image")
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    actual, expected = ours({"image": inputs[0], **batch}).logits, plain({"image": inputs[1], **batch})
    assert difference(actual, expected) <= TOLERANCE
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (actual * seed).sum().backward()
    (expected * seed).sum().backward()
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert difference(inputs[0].grad, inputs[1].grad) <= TOLERANCE


@pytest.mark.parametrize("sparing", [False, True], ids=["as-it-is", "memory-sparing"])
def test_one_training_step_without_drops_is_that_of_the_plain_model(
    sparing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode batch norms use the batch; drops are off, as the two draw them differently.

    In 64 bits: with two images, the batch norms of the smallest maps amplify rounding beyond any useful tolerance.
    What training on a CPU does with large maps and windows to spare memory is switched on for small ones.
    """
    if sparing:
        monkeypatch.setattr("models.layers.recompute._LEAST_NUMBERS", 0)
        monkeypatch.setattr("models.layers.swin._LEAST_FUSED_WINDOW", 2)
        monkeypatch.setattr("models.layers.decoder._LEAST_NUMBERS", 0)
    with double_precision():
        check_one_step()


def check_one_step() -> None:
    ours, plain = make_pair(96)
    for model in (ours, plain):
        model.train()
        for module in model.modules():
            if isinstance(module, DropPath) or hasattr(module, "probability"):
                module.probability = 0.0
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
    batch = {k: v.double() if v.is_floating_point() else v for k, v in make_batch(images=2, size=96).items()}
    actual, expected = ours(batch).logits, plain(batch)
    assert difference(actual, expected) <= EXACT
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    (actual * seed).sum().backward()
    (expected * seed).sum().backward()
    for name in ("backbone.patch_embed.proj.weight", "backbone.stages.1.fusion.correlation.conv.weight"):
        mine, theirs = ours.get_parameter(name).grad, plain.get_parameter(name).grad
        assert mine is not None
        assert theirs is not None
        assert difference(mine, theirs) <= EXACT


def test_only_what_has_no_influence_is_not_built() -> None:
    ours, plain = make_pair(64)
    unfilled = copy_weights(plain, ours)
    assert unfilled
    assert all(name.startswith("backbone.stages.3.fusion.") for name in unfilled)
    batch = make_batch(images=2)
    plain(batch).sum().backward()
    named = dict(plain.named_parameters())
    assert {name for name, p in named.items() if p.grad is None} == {name for name in unfilled if name in named}


def test_plain_model_has_no_switches() -> None:
    with pytest.raises(HarnessError, match="the plain reference is MAFN as released"):
        PlainMafn(resolve_config(MAFN, {**SWIN_BERT, "cim": False}), INPUTS)
