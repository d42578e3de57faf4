"""Costs of layers whose numbers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.cost import measure_cost
from models.base import Inputs, ModelOutput, ParameterGroup, SegmentationModel
from tests.tiny import build, tiny_trial

KEYS = {"parameters", "parameters_trained", "parameters_dead", "gmacs", "latency_ms", "peak_memory_mib"}


class Known(SegmentationModel):
    """A 3x3 convolution, attention over four tokens, an unused and a frozen layer."""

    def __init__(self) -> None:
        super().__init__(None, Inputs(image_size=8, modalities={"image": 3}))
        self.conv = nn.Conv2d(3, 2, 3, padding=1)  # 56 parameters, 8 * 8 * 2 * 27 = 3456 multiply-adds
        self.unused = nn.Linear(5, 5)  # 30 parameters
        self.frozen = nn.Linear(4, 4).requires_grad_(False)  # 20 parameters, 4 * 16 = 64 multiply-adds

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        tokens = self.frozen(torch.ones(1, 1, 4, 4))
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)  # 2 * 4 * 4 * 4 = 128
        return ModelOutput(self.conv(batch["image"]) + attended.mean())

    def dead_parameters(self) -> frozenset[str]:
        return frozenset({"unused.weight", "unused.bias"})

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.conv.parameters()), None)]


def test_numbers_of_known_layers() -> None:
    found = measure_cost(Known(), {"image": torch.zeros(1, 3, 8, 8)}, torch.device("cpu"))
    assert found.keys() == KEYS
    assert (found["parameters"], found["parameters_trained"], found["parameters_dead"]) == (106, 56, 30)
    assert found["gmacs"] == pytest.approx((3456 + 64 + 128) / 1e9)
    assert found["latency_ms"] > 0
    assert found["peak_memory_mib"] > 10


def test_a_real_model_in_evaluation_mode(tmp_path: Path) -> None:
    model, task = build(tiny_trial(tmp_path), tmp_path)
    sample = task.evaluation("val")[0]
    batch: dict[str, Any] = {name: value[None] for name, value in sample.items()}
    found = [measure_cost(model.train(), batch, torch.device("cpu")) for _ in range(2)]
    assert not model.training
    assert found[0]["parameters"] == sum(p.numel() for p in model.parameters())
    assert found[0]["gmacs"] == found[1]["gmacs"] > 1e-4
