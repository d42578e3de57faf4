"""LAVT, RMSIN and LGCE as settings of one family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import HarnessError
from models.base import MODELS, resolve_config
from models.layers.lavt_family import LavtFamilyModel
from tests.tiny_models import SWIN_BERT, build, make_batch, make_target, training_loss

AS_SETTINGS: dict[str, dict[str, Any]] = {
    "lavt": {"fusion": "sum", "noise": False, "decoder": "plain", "cim": False, "visual_branch": False},
    "rmsin": {"fusion": "sum", "noise": False, "decoder": "arc"},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", AS_SETTINGS)
def test_a_setting_of_mafn_is_the_same_model(name: str) -> None:
    own, setting = build(name).eval(), build("mafn", AS_SETTINGS[name]).eval()
    setting.load_state_dict(own.state_dict(), strict=True)
    batch = make_batch(2)
    with torch.no_grad():
        assert torch.equal(own(batch).logits, setting(batch).logits)


def test_lgce_without_guidance_is_lavt() -> None:
    lavt, lgce = build("lavt"), build("lgce", {"language_guidance": False})
    assert lavt.state_dict().keys() == lgce.state_dict().keys()


def test_effective_exchange_is_trained_and_changes_the_output() -> None:
    code, effective = build("lgce"), build("lgce", {"lgce_exchange": "effective"})
    training_loss(effective, make_batch(), make_target(3)).backward()
    assert all(p.grad is not None and p.grad.any() for n, p in effective.named_parameters() if "exchanges" in n)
    missing, _ = effective.load_state_dict(code.state_dict(), strict=False)
    assert missing
    assert all(".exchanges." in name for name in missing)
    batch = make_batch(2)
    with torch.no_grad():
        assert not torch.allclose(code.eval()(batch).logits, effective.eval()(batch).logits, atol=1e-5)


def test_guidance_leaves_the_shallow_maps_alone() -> None:
    model = build("lgce")
    assert isinstance(model, LavtFamilyModel)
    assert model.refine is not None
    maps = [torch.randn(2, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)]
    refined = model.refine(maps, torch.randn(2, 8, 16))
    assert [x.shape for x in refined] == [x.shape for x in maps]
    assert [x is y for x, y in zip(refined, maps, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide_depths": [0, 3]}, "at least 1"),
        ({"guide_heads": [8, 0]}, "at least 1"),
        ({"guide_heads": [8, 24]}, "guide_heads must divide the stage's channels; received 24 for 64"),
        ({"decoder": "msrc", "kernels": [2]}, "odd positive"),
    ],
    ids=str,
)
def test_values_that_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        resolve_config(MODELS.get("lgce"), {**SWIN_BERT, **settings})
