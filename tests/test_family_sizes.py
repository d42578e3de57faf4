"""LAVT, RMSIN, LGCE and MAFN at full size: parameters, optimiser groups and multiply-adds against the published code.

The published figures were measured on the released code with random weights, 480x480 pixels and 20 tokens. What we do
not build or compute, because it cannot influence the output, is written down here part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.base import MODELS, Inputs, resolve_config
from models.layers.correlation import CorrelationFusion
from models.layers.lavt_family import LavtFamilyModel

WIDTHS = (128, 256, 512, 1024)
DEPTHS = (2, 2, 18, 2)
SIDES = (120, 60, 30, 15)
PADDED_SIDES = (120, 60, 36, 24)
TOKENS = 20
TEXT_WIDTH = 768
BERT = 108_891_648
INPUTS = Inputs(image_size=480, modalities={"image": 3}, vocab_size=30522)

# Parameters that the released models have and that cannot influence the output.
FUSION_4 = 49_927_798
GATE_4 = 2 * WIDTHS[3] ** 2
VISUAL_BRANCH = 38
UNREAD_NOISE_ROWS = sum(2 * width * depth for width, depth in zip(WIDTHS, DEPTHS, strict=True))
ARC = 2_365_953
MAFN_DEAD = FUSION_4 + 2 * GATE_4 + VISUAL_BRANCH
LGCE_EXCHANGE = 7_353_856
LGCE_UNUSED = 14_788_736
"""The gate of the last stage, modules for other pairs of levels, patch embeddings, two linear layers for tokens."""


class Row(NamedTuple):
    """A model at full size."""

    name: str
    settings: dict[str, Any]
    published: int
    not_built: int


ROWS = (
    Row("lavt", {}, 227_739_514, GATE_4),
    Row("rmsin", {}, 240_037_163, 2 * GATE_4 + VISUAL_BRANCH),
    Row("lgce", {}, 276_257_786, LGCE_UNUSED + LGCE_EXCHANGE),
    Row("lgce", {"lgce_exchange": "effective"}, 276_257_786, LGCE_UNUSED),
    Row("mafn", {}, 350_056_899, MAFN_DEAD + UNREAD_NOISE_ROWS),
    Row("mafn", {"kernels": [1]}, 349_998_531, MAFN_DEAD + UNREAD_NOISE_ROWS + 3 * ARC),
    Row("mafn", {"kernels": [1, 3]}, 350_015_427, MAFN_DEAD + UNREAD_NOISE_ROWS),
    Row("mafn", {"kernels": [1, 3, 5, 7]}, 350_135_235, MAFN_DEAD + UNREAD_NOISE_ROWS),
    Row("mafn", {"decoder": "arc"}, 348_417_987, MAFN_DEAD + UNREAD_NOISE_ROWS),
    Row("mafn", {"decoder": "arc", "noise": False}, 306_420_163, MAFN_DEAD),
    Row("mafn", {"decoder_source": "fused"}, 350_056_899, UNREAD_NOISE_ROWS),
)


def on_meta(name: str, settings: Mapping[str, Any]) -> LavtFamilyModel:
    values = {"backbone": {"pretrained": None}, "text": {"pretrained": None}, **settings}
    model_class: Any = MODELS.get(name)
    with torch.device("meta"):
        model: LavtFamilyModel = model_class(resolve_config(model_class, values), INPUTS)
    return model.eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.settings}")
def test_parameters_are_the_published_ones_less_what_is_inert(row: Row) -> None:
    assert count(on_meta(row.name, row.settings)) == row.published - row.not_built


def test_what_is_not_built_is_what_never_got_a_gradient() -> None:
    assert (GATE_4, 2 * GATE_4 + VISUAL_BRANCH, MAFN_DEAD) == (2_097_152, 4_194_342, 54_122_140)
    assert UNREAD_NOISE_ROWS == 24_064
    refine = on_meta("lgce", {"lgce_exchange": "effective"}).refine
    assert refine is not None
    assert count(refine.exchanges) == LGCE_EXCHANGE


def test_parts_have_the_published_sizes() -> None:
    mafn, rmsin, lavt, lgce = (on_meta(name, {}) for name in ("mafn", "rmsin", "lavt", "lgce"))
    assert mafn.backbone.cim is not None
    assert count(mafn.backbone.cim) == 9_492_246
    assert count(mafn.text) == BERT
    assert [count(m.decoder) for m in (mafn, rmsin, lavt, lgce)] == [22_309_893, 20_670_981, 20_651_010, 20_651_010]
    assert count(lavt.backbone) == 98_196_856 - GATE_4
    assert count(rmsin.backbone) == 110_474_534 - 2 * GATE_4 - VISUAL_BRANCH
    assert [count(stage.pwam) for stage in mafn.backbone.stages] == [262_912, 656_896, 1_838_080, 5_773_312]
    fusions = [stage.fusion.correlation for stage in list(mafn.backbone.stages)[:3]]
    assert [count(fusion) for fusion in fusions] == [796_086, 3_145_462, 12_513_654]
    noises = [stage.blocks[0].noise for stage in mafn.backbone.stages]
    # 6C^2 + 10C published, less the unread row of two tables
    assert [count(noise) for noise in noises] == [6 * width**2 + 8 * width for width in WIDTHS]


def test_smaller_and_larger_backbones_have_the_published_sizes() -> None:
    heads = [3, 6, 12, 24]
    tiny = {"embed_dim": 96, "depths": [2, 2, 6, 2], "heads": heads, "window": 7}
    small = {**tiny, "depths": [2, 2, 18, 2]}
    large = {"embed_dim": 192, "heads": [6, 12, 24, 48]}
    for sizes, published, width in ((tiny, 154_950_524, 96), (small, 176_268_428, 96), (large, 373_793_846, 192)):
        model = on_meta("lavt", {"backbone": {"pretrained": None, **sizes}})
        assert count(model) == published - 2 * (8 * width) ** 2


@pytest.mark.parametrize(
    ("name", "published", "not_built"),
    [
        ("mafn", 312_043_971, MAFN_DEAD + UNREAD_NOISE_ROWS),
        ("rmsin", 202_024_235, 2 * GATE_4 + VISUAL_BRANCH),
        ("lavt", 189_726_586, GATE_4),
        ("lgce", 238_244_858, LGCE_UNUSED + LGCE_EXCHANGE),
    ],
)
def test_optimiser_groups(name: str, published: int, not_built: int) -> None:
    model = on_meta(name, {})
    model.text.train_first_layers(10)
    groups = model.parameter_groups()
    sizes = [sum(p.numel() for p in group.parameters) for group in groups]
    assert [group.weight_decay for group in groups] == [0.0, None, None, None]
    assert (len(groups[0].parameters), sizes[0]) == (136, 258_296)
    assert sizes[3] == 70_878_720
    assert sum(sizes) == published - not_built


# Multiply-adds


def macs(call: Callable[[], Any]) -> tuple[float, Any]:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        result = call()
    return counter.get_total_flops() / 2, result


def measured(model: LavtFamilyModel) -> float:
    """Of everything but the text encoder, whose library reads values that a meta tensor does not have."""
    words = torch.zeros(1, TOKENS, TEXT_WIDTH, device="meta")
    image, mask = torch.zeros(1, 3, 480, 480, device="meta"), torch.ones(1, TOKENS, device="meta")
    backbone, maps = macs(lambda: model.backbone(image, words, mask))
    refined = 0.0
    if model.refine is not None:
        refine = model.refine
        refined, maps = macs(lambda: refine(maps, words))
    decoder, _ = macs(lambda: model.decoder(maps))
    return backbone + refined + decoder


# Every stage has the same C * C * H * W.
PRODUCT = WIDTHS[0] ** 2 * SIDES[0] ** 2


def window_padding() -> int:
    """Projections of positions that only fill the last windows."""
    sizes = zip(WIDTHS, DEPTHS, SIDES, PADDED_SIDES, strict=True)
    return sum(4 * width**2 * depth * (padded**2 - side**2) for width, depth, side, padded in sizes)


def output_projection() -> int:
    """Of pixel-word attention, applied to the words instead of the positions."""
    return sum(PRODUCT - TOKENS * width**2 for width in WIDTHS)


def exchange() -> int:
    """Between the levels of LGCE: keys and values of all tokens, and the little that concerns one token."""
    c3, c4 = WIDTHS[2:]
    keys_values = 2 * (c4**2 * (SIDES[3] ** 2 + 1) + c3**2 * (SIDES[2] ** 2 + 1))
    attention = 2 * (c4 * (SIDES[3] ** 2 + 1) + c3 * (SIDES[2] ** 2 + 1))
    return keys_values + attention + 2 * (c3**2 + c4**2) + 4 * c3 * c4


def last_fusion() -> float:
    with torch.device("meta"):
        fusion = CorrelationFusion(WIDTHS[3]).eval()
    x: Tensor = torch.zeros(1, SIDES[3], SIDES[3], WIDTHS[3], device="meta")
    return macs(lambda: fusion(x, x))[0]


def noise() -> int:
    """Three of eight products per position, less the product of two matrices that replaces them."""
    return sum(3 * PRODUCT * depth - width**3 * depth for width, depth in zip(WIDTHS, DEPTHS, strict=True))


@pytest.mark.parametrize(
    ("name", "published", "skipped"),
    [
        ("lavt", 91.10 + 106.18, lambda: 2 * PRODUCT),
        ("rmsin", 96.02 + 106.33, lambda: 4 * PRODUCT),
        ("lgce", 91.10 + 115.86, lambda: 2 * PRODUCT + exchange()),
        # the vision gate is evaluated three times; the last of three rotated convolutions is thrown away
        ("mafn", 190.24 + 206.06, lambda: 4 * PRODUCT + 16 * PRODUCT + last_fusion() + noise() + 44.6e9),
    ],
    ids=["lavt", "rmsin", "lgce", "mafn"],
)
def test_multiply_adds_are_the_published_ones_less_what_is_skipped(
    name: str, published: float, skipped: Callable[[], float]
) -> None:
    expected = published - (skipped() + window_padding() + output_projection()) / 1e9
    assert measured(on_meta(name, {})) / 1e9 == pytest.approx(expected, rel=0.01)


def test_exchange_of_lgce_costs_what_is_skipped() -> None:
    code, effective = (measured(on_meta("lgce", {"lgce_exchange": value})) for value in ("code", "effective"))
    assert effective - code == exchange()
