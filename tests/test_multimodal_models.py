"""The multimodal models: stated counts, any modalities and sizes, every switch, what the modules promise."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from harness.errors import HarnessError
from models.base import MODELS, Inputs, ModelOutput, SegmentationModel, resolve_config
from models.df2rq import DF2RQ
from models.late_concat import hidden_width, matched_hidden
from models.layers.backbone_sizes import ViTConfig
from models.layers.front_ends import WavelengthEmbedding, encode_wavelengths
from models.layers.modality_fusers import ConcatFuser
from models.layers.positions import encode_grid, resize_positions
from models.layers.region_query import (
    FusionMaps,
    RegionQueryConfig,
    RegionQueryFuser,
    make_grid,
    region_foreground_loss,
    sample,
)
from models.layers.semantic_family import SemanticModel
from models.layers.vem import VarianceEnhancement
from models.vision import ViT, load_vit_weights
from tests.tiny_models import SEMANTIC_INPUTS, VIT, build, make_modalities, target_of, training_loss

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
MILLION = 1e6
TI = {"trunk": {"width": 192, "heads": 3}, "head": {"width": 128, "auxiliary_width": 64}}
TI_QUERIES = {**TI, "query_width": 128, "query_heads": 4}
TI_INPUTS = Inputs(image_size=128, modalities={"optical": 4, "sar": 2}, num_classes=2)
BANDS = {"optical": 4, "sar": 2, "dsm": 1, "hsi": 116}
WAVELENGTHS = {"optical": (0.49, 0.56, 0.665, 0.832), "sar": (3.75, 3.75)}
ANY_NUMBER = ("df2rq", "early_fusion", "late_concat", "logit_average", "single_modality", "upseg")

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("df2rq", {"reconstruction": False}),
    ("df2rq", {"dynamic_fusion": False}),
    ("df2rq", {"reconstruction": False, "dynamic_fusion": False}),
    ("df2rq", {"fusion": "sum"}),
    ("df2rq", {"reference": "fixed"}),
    ("df2rq", {"reference": "shared"}),
    ("df2rq", {"region": 1, "points": 1, "layers": 1}),
    ("df2rq", {"region": 0, "layers": 3}),
    ("df2rq", {"weights": "scalar"}),
    ("df2rq", {"weights": "channels"}),
    ("df2rq", {"weights": "region"}),
    ("df2rq", {"shared_trunk": False}),
    ("df2rq", {"taps": "last"}),
    ("df2rq", {"region_loss": 0.1}),
    ("late_concat", {"shared_trunk": False, "hidden": 5}),
    ("late_concat", {"hidden": "df2rq", "queries": {"query_width": 16, "query_heads": 2}}),
    ("upseg", {"vem_mode": "negative"}),
    ("upseg", {"vem_mode": "plain"}),
    ("upseg", {"token_prompts": 0}),
    ("upseg", {"token_prompts": 1, "exchange_after": [1]}),
    ("upseg", {"token_prompts": 0, "dense_prompts": False}),
    ("upseg", {"sources": ["optical"]}),
    ("upseg", {"sources": ["sar"], "shared_trunk": False}),
    ("upseg", {"schedule": "two_pass"}),
    ("upseg", {"schedule": "two_pass", "first_pass_gradient": True}),
    ("upseg", {"front_end": "stem"}),
    ("upseg", {"tune": "frozen"}),
)

MISTAKES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("df2rq", {"modalities": ["lidar"]}, "different names out of optical, sar; received .'lidar'"),
    ("df2rq", {"modalities": ["sar", "sar"]}, "different names out of"),
    ("df2rq", {"query_width": 18}, "must be a multiple of query_heads"),
    ("df2rq", {"points": 0}, "points and layers must be at least 1"),
    ("df2rq", {"trunk": {"depth": 5}}, "depth a multiple of 4"),
    ("df2rq", {"head": {"width": 0}}, "width must be at least 1"),
    ("df2rq", {"trunk": {"layer_decay": 0.0}}, "must be above 0 and at most 1; received 0.0"),
    ("df2rq", {"region_loss": -0.1}, "region_loss must be at least 0"),
    ("df2rq", {"region_loss": 0.1, "reconstruction": False}, "0 without fusion: queries and reconstruction: true"),
    ("late_concat", {"hidden": 0}, "hidden must be at least 1"),
    ("late_concat", {"hidden": "upseg"}, "Input should be 'df2rq'"),
    ("late_concat", {"hidden": "df2rq", "modalities": ["sar"]}, "needs at least 2 modalities"),
    ("late_concat", {"hidden": 7, "queries": {"points": 1}}, "left out without hidden: df2rq"),
    ("single_modality", {"modalities": ["sar", "optical"]}, "must be one name"),
    ("upseg", {"exchange_after": [4]}, "out of 1, 2, 3"),
    ("upseg", {"sources": ["lidar"]}, "out of optical, sar; received lidar"),
    ("upseg", {"front_end": "dofa", "wavelengths": {"optical": [0.5]}}, "each of the 4 bands of 'optical'"),
    ("upseg", {"front_end": "dofa", "wavelengths": WAVELENGTHS, "trunk": {"patch": 2}}, "patch must be at least 3"),
    (
        "upseg",
        {"front_end": "dofa", "wavelengths": WAVELENGTHS, "trunk": {"width": 6, "heads": 1, "depth": 4}},
        "width must be a multiple of 4 with fixed positions; received 6",
    ),
    ("cmx", {"modalities": ["sar"]}, "exactly two modalities"),
    ("mcanet", {"modalities": ["sar"]}, "exactly two modalities"),
    ("cmnext", {"modalities": ["sar"]}, "at least two modalities"),
    ("cmx", {"backbone": {"widths": [7, 8, 15, 16], "heads": [2, 1, 2, 2]}}, "each width a multiple of its heads"),
    ("mcanet", {"backbone": {"width": 0}}, "depths and width must be at least 1"),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def count(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / MILLION


def count_of(name: str, settings: dict[str, Any], inputs: Inputs = TI_INPUTS) -> float:
    model = MODELS.get(name)
    with torch.device("meta"):
        return count(model(resolve_config(model, settings), inputs))


def predict(model: SegmentationModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(batch).logits
    return logits


def shake(model: nn.Module, seed: int = 0) -> None:
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draws), alpha=0.1)


def without_gradient(model: SegmentationModel, name: str, batch: dict[str, Tensor]) -> set[str]:
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    for draw in range(4):
        shake(model, draw)
        model.zero_grad()
        training_loss(model.train(), batch, target_of(name, 3)).backward()
        trained &= {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        if not trained:
            break
    return trained


# Sizes of the specification, section 1.4, 2.2 and 3


@pytest.mark.parametrize(
    ("module", "millions"),
    [
        (lambda: RegionQueryFuser(RegionQueryConfig(), channels=768, num_modalities=2), 4.25),
        (
            lambda: RegionQueryFuser(RegionQueryConfig(query_width=128, query_heads=4), channels=192, num_modalities=2),
            1.00,
        ),
        (lambda: ConcatFuser(768, num_modalities=2), 1.77),
        (lambda: ConcatFuser(768, num_modalities=3), 2.36),
        (lambda: VarianceEnhancement(768, heads=12, mode="subtract"), 3.25),
    ],
)
def test_modules_have_the_stated_parameters(module: Any, millions: float) -> None:
    assert round(count(module()), 2) == millions


@pytest.mark.parametrize(
    ("name", "settings", "millions"),
    [
        ("late_concat", TI, 8.80),
        ("df2rq", {**TI_QUERIES, "fusion": "concat"}, 8.80),
        ("df2rq", TI_QUERIES, 12.37),
        ("df2rq", {**TI_QUERIES, "reconstruction": False}, 9.04),
        ("upseg", TI, 10.04),
        ("upseg", {**TI, "vem": False}, 8.82),
    ],
)
def test_models_have_the_stated_parameters(name: str, settings: dict[str, Any], millions: float) -> None:
    assert round(count_of(name, settings), 2) == millions


def test_without_dynamic_fusion_only_the_unread_query_update_is_missing_from_the_stated_parameters() -> None:
    d = 128
    unread = (2 * d * d + d) + 2 * d + (2 * 4 * d * d + 5 * d)
    assert round(count_of("df2rq", {**TI_QUERIES, "dynamic_fusion": False}) + 4 * unread / MILLION, 2) == 12.22


def test_cmx_is_as_large_as_reported_with_the_widths_of_mit_b2() -> None:
    assert count_of("cmx", {}) == pytest.approx(67, rel=0.02)


def test_a_width_matched_concat_has_the_parameters_of_the_query_fuser() -> None:
    queries = RegionQueryFuser(RegionQueryConfig(query_width=128, query_heads=4), channels=192, num_modalities=2)
    parameters = sum(p.numel() for p in queries.parameters())
    hidden = matched_hidden(parameters, channels=192, num_modalities=2)
    assert count(ConcatFuser(192, num_modalities=2, hidden=hidden)) == pytest.approx(parameters / MILLION, rel=1e-3)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("queries", "modalities"),
    [({}, ()), ({"query_width": 128, "query_heads": 4}, ()), ({"points": 1, "layers": 1}, ("sar", "optical"))],
)
def test_the_control_of_df2rq_has_its_parameters(
    queries: dict[str, Any], modalities: tuple[str, ...], shared: bool
) -> None:
    common = {**TI, "modalities": modalities, "shared_trunk": shared}
    control = count_of("late_concat", {**common, "hidden": "df2rq", "queries": queries})
    assert control == pytest.approx(count_of("df2rq", {**common, **queries}), rel=1e-4)


def test_the_stated_widths_of_the_control_are_those_it_takes() -> None:
    for trunk, queries, expected in (
        ({}, {}, 1845),
        ({"width": 192, "heads": 3}, {"query_width": 128, "query_heads": 4}, 1739),
    ):
        config = resolve_config(MODELS.get("late_concat"), {"trunk": trunk, "hidden": "df2rq", "queries": queries})
        assert hidden_width(config, num_modalities=2) == expected


@pytest.mark.parametrize(
    ("study", "modalities", "num_classes"),
    [
        ("df2rq", {"optical": 4, "dsm": 1}, 6),
        ("upseg", {"optical": 4, "sar": 1}, 7),
        ("gid_upseg", {"rgb": 3, "nir": 1}, 5),
    ],
)
def test_shipped_studies_have_a_control_of_equal_size(study: str, modalities: dict[str, int], num_classes: int) -> None:
    text = (EXPERIMENTS / f"{study}.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    levels = {level["label"]: level.get("model") for level in document["variants"]["comparison"]["levels"]}
    control = next(model for label, model in levels.items() if label.startswith("late concat, size of"))
    inputs = Inputs(image_size=document["data"]["image_size"], modalities=modalities, num_classes=num_classes)
    sizes = []
    for model in (document["reference"]["model"], control):
        settings = {**model, "trunk": {**model["trunk"], "pretrained": None}}
        sizes.append(count_of(model["name"], settings, inputs))
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


def test_averaged_logits_cost_the_single_modalities_together() -> None:
    alone = [count_of("single_modality", {**TI, "modalities": [name]}) for name in TI_INPUTS.modalities]
    assert count_of("logit_average", TI) == pytest.approx(sum(alone))


# Any modalities, any sizes


@pytest.mark.parametrize("name", ANY_NUMBER)
@pytest.mark.parametrize("num_modalities", [1, 3, 4])
def test_it_takes_any_number_of_modalities_and_bands(name: str, num_modalities: int) -> None:
    inputs = Inputs(image_size=64, modalities=dict(list(BANDS.items())[-num_modalities:]), num_classes=5)
    model, batch = build(name, inputs=inputs), make_modalities(3, inputs=inputs)
    assert predict(model, batch).shape == (3, 5, 64, 64)
    assert not without_gradient(model, name, batch)


def test_cmnext_takes_four_modalities() -> None:
    inputs = Inputs(image_size=64, modalities=BANDS, num_classes=3)
    model, batch = build("cmnext", inputs=inputs), make_modalities(3, inputs=inputs)
    shake(model)
    logits = predict(model, batch)
    for name in BANDS:
        assert not torch.allclose(predict(model, {**batch, name: batch[name].flip(3)}), logits, atol=1e-5)


@pytest.mark.parametrize("name", [*ANY_NUMBER, "cmnext", "cmx", "mcanet"])
def test_it_takes_sizes_that_are_not_whole_patches(name: str) -> None:
    model = build(name)
    assert predict(model, make_modalities(2, size=(60, 52))).shape == (2, 3, 60, 52)
    output = model.train()(make_modalities(2, size=(60, 52)))
    assert all(logits.shape == (2, 3, 60, 52) for logits in (output.logits, *output.auxiliary))


@pytest.mark.parametrize(
    "name", ["df2rq", "early_fusion", "late_concat", "logit_average", "upseg", "cmnext", "cmx", "mcanet"]
)
def test_every_modality_matters(name: str) -> None:
    model, batch = build(name), make_modalities(2)
    logits = predict(model, batch)
    for modality in SEMANTIC_INPUTS.modalities:
        changed = {**batch, modality: batch[modality].flip(3)}
        assert not torch.allclose(predict(model, changed), logits, atol=1e-5)


def test_a_modality_that_is_not_chosen_is_not_read() -> None:
    batch = make_modalities(2)
    for name in ANY_NUMBER:
        model = build(name, {"modalities": ["sar"]})
        assert torch.equal(predict(model, batch), predict(model, {"sar": batch["sar"]}))


# Switches


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_every_variant_runs_and_trains_all_that_it_builds(name: str, settings: dict[str, Any]) -> None:
    model = build(name, settings)
    assert predict(model, make_modalities(1)).shape == (1, 3, 64, 64)
    assert not without_gradient(model, name, make_modalities(3))


def test_the_wavelength_front_end_trains_all_that_it_builds() -> None:
    settings = {"front_end": "dofa", "wavelengths": WAVELENGTHS, "trunk": {**VIT["trunk"], "patch": 16}}
    model = build("upseg", settings)
    assert not without_gradient(model, "upseg", make_modalities(3))


@pytest.mark.parametrize(("name", "settings", "message"), MISTAKES)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((HarnessError, ValueError), match=message):
        build(name, settings)


@pytest.mark.parametrize("name", ["df2rq", "upseg"])
def test_slow_and_undecayed_parameters_are_those_of_the_recipe(name: str) -> None:
    model = build(name)
    named = {id(p): n for n, p in model.named_parameters()}
    for group in model.parameter_groups():
        names = [named[id(p)] for p in group.parameters]
        if group.weight_decay is None:
            assert all(p.ndim > 1 for p in group.parameters)
            assert not any(n.endswith(("pos_embed", "cls_token", "modality_vectors")) for n in names)
        if group.lr_scale != 1.0:
            assert name == "df2rq"
            assert all(".offsets." in n or ".reference." in n for n in names)


@pytest.mark.parametrize("name", ["df2rq", "upseg", "single_modality", "logit_average"])
def test_layer_decay_slows_a_trunk_from_the_top_down_and_nothing_else(name: str) -> None:
    model = build(name, {"trunk": {**VIT["trunk"], "depth": 8, "layer_decay": 0.5}})
    named = {id(p): n for n, p in model.named_parameters()}
    rates = {named[id(p)]: g.lr_scale for g in model.parameter_groups() for p in g.parameters}
    assert rates.keys() == set(named.values())
    assert sum(len(g.parameters) for g in model.parameter_groups()) == len(rates)
    blocks = {n: re.search(r"blocks\.(\d+)\.", n) for n in rates}
    for n, rate in rates.items():
        block = blocks[n]
        slow = ".offsets." in n or ".reference." in n
        if block:
            assert rate == 0.5 ** (8 - int(block[1]))
        elif n.endswith(("pos_embed", "cls_token")):
            assert rate == 0.5**9
        else:
            assert rate == (0.1 if slow else 1.0)
    decays = {named[id(p)]: g.weight_decay for g in model.parameter_groups() for p in g.parameters}
    plain = build(name, {"trunk": {**VIT["trunk"], "depth": 8}})
    named = {id(p): n for n, p in plain.named_parameters()}
    assert decays == {named[id(p)]: g.weight_decay for g in plain.parameter_groups() for p in g.parameters}
    assert {g.lr_scale for g in plain.parameter_groups()} <= {0.1, 1.0}


def test_a_patch_embedding_is_slowed_only_if_it_was_loaded(tmp_path: Path) -> None:
    config = ViTConfig(patch=8, width=16, depth=4, heads=2)
    torch.save(ViT(config, image_size=32, channels=3).state_dict(), tmp_path / "vit.pth")
    config = ViTConfig(patch=8, width=16, depth=4, heads=2, pretrained=str(tmp_path / "vit.pth"), layer_decay=0.8)
    for channels, expected in ((3, 0.8**5), (32, None)):
        trunk = ViT(config, image_size=32, channels=channels)
        rates = {id(p): rate for p, rate in trunk.layer_rates()}
        assert trunk.patch_embed is not None
        assert rates.get(id(trunk.patch_embed.weight)) == expected


def test_a_frozen_trunk_is_not_in_the_parameter_groups() -> None:
    model = build("upseg", {"tune": "frozen"})
    grouped = {id(p) for group in model.parameter_groups() for p in group.parameters}
    assert not any(id(p) in grouped for n, p in model.named_parameters() if n.startswith("trunks."))


# What the modules promise


def test_fusion_weights_sum_to_one_and_references_start_at_the_centres() -> None:
    model = build("df2rq").eval()
    assert isinstance(model, DF2RQ)
    batch = make_modalities(2)
    output, decided = model.explain(batch)
    assert torch.equal(output.logits, model(batch).logits)
    assert len(decided) == 4
    for maps in decided:
        assert maps.weights is not None
        torch.testing.assert_close(maps.weights.sum(dim=1), torch.ones_like(maps.weights[:, 0]))
        expected = torch.tensor([[[0.25, 0.25], [0.75, 0.25]], [[0.25, 0.75], [0.75, 0.75]]])
        torch.testing.assert_close(maps.references, expected.expand_as(maps.references))


def test_values_do_not_cross_modalities_before_the_queries_do() -> None:
    config = RegionQueryConfig(query_width=16, query_heads=2, region=2, points=2, layers=1)
    torch.manual_seed(0)
    layer = RegionQueryFuser(config, channels=16, num_modalities=2).layers[0]
    maps = [torch.randn(1, 16, 4, 4) for _ in range(2)]
    grid, queries = make_grid(maps[0], 2), torch.randn(1, 4, 16)
    before = layer(queries, maps, grid)
    after = layer(queries, [maps[0], -maps[1]], grid)
    assert torch.equal(before[1][0], after[1][0])
    assert not torch.allclose(before[1][1], after[1][1])
    assert not torch.allclose(before[0], after[0])


def test_references_stay_within_one_region_of_the_centre() -> None:
    torch.manual_seed(0)
    config = RegionQueryConfig(query_width=16, query_heads=2, region=2, points=2)
    fuser = RegionQueryFuser(config, channels=8, num_modalities=3)
    shake(fuser)
    x = [10 * torch.randn(2, 8, 6, 4) for _ in range(3)]
    references = fuser(x)[1].references
    assert references.shape == (2, 3, 3, 2, 2)
    grid = make_grid(x[0], 2)
    moved = references - grid.centres.view(3, 2, 2)
    assert bool((moved.abs() <= grid.cell + 1e-6).all())
    assert bool((moved.abs() > 1e-4).any())


def test_sampling_at_pixel_centres_returns_the_pixels() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    positions = make_grid(x, 1).centres[None, None]
    torch.testing.assert_close(sample(x, positions).view(3, 4), x[0, 0])


def test_region_foreground_loss_is_the_mean_over_mixed_regions() -> None:
    # left region: classes 0 (majority) and 1; right region: only class 1, not counted; one pixel ignored
    target = torch.tensor([[[0, 0, 1, 1], [1, 255, 1, 1]]])
    membership = torch.tensor([[[[2.0, -1.0, 5.0, 5.0], [0.5, 9.0, 5.0, 5.0]]]])
    maps = FusionMaps(None, torch.zeros(1, 1, 1, 2, 2), membership)
    expected = nn.functional.binary_cross_entropy_with_logits(
        torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.0])
    )
    torch.testing.assert_close(region_foreground_loss(maps, target, num_classes=2), expected)
    assert region_foreground_loss(maps._replace(membership=None), target, num_classes=2) == 0


def test_region_loss_is_the_weighted_mean_over_the_fused_maps() -> None:
    model = build("df2rq", {"region_loss": 0.5, "head": {**VIT["head"], "dropout": 0.0}}).train()
    assert isinstance(model, DF2RQ)
    batch = {**make_modalities(2, size=(60, 52)), "target": target_of("df2rq", 2)[:, :60, :52].contiguous()}
    batch["target"][:, :20] = 255
    output, decided = model.explain(batch)
    padded = nn.functional.pad(batch["target"], (0, 12, 0, 4), value=255)
    expected = sum(region_foreground_loss(maps, padded, num_classes=3) for maps in decided) * 0.5 / 4
    assert output.penalty is not None
    assert output.penalty > 0
    torch.testing.assert_close(output.penalty, expected)
    assert torch.equal(output.penalty, model(batch).penalty)


def test_region_loss_reaches_the_membership_of_every_modality() -> None:
    model = build("df2rq", {"region_loss": 0.1}).train()
    penalty = model({**make_modalities(2), "target": target_of("df2rq", 2)}).penalty
    assert penalty is not None
    penalty.backward()
    last = [(n, p.grad) for n, p in model.named_parameters() if ".layers.1.modalities." in n]
    alpha = [grad for n, grad in last if n.rpartition(".modalities.")[2][2:] in ("membership.weight", "threshold")]
    assert len(alpha) == 4 * 2 * 2
    assert all(grad is not None and bool(grad.any()) for grad in alpha)


def test_region_loss_ignores_255() -> None:
    model = build("df2rq", {"region_loss": 0.1}).train()
    target = target_of("df2rq", 2)
    for ignored in (torch.full_like(target, 255), torch.where(target == 1, 255, target)):
        assert model({**make_modalities(2), "target": ignored}).penalty == 0


def test_without_region_loss_there_is_no_penalty() -> None:
    batch = {**make_modalities(2), "target": target_of("df2rq", 2)}
    absent, zero, weighted = (build("df2rq", s) for s in ({}, {"region_loss": 0.0}, {"region_loss": 0.1}))
    for model in (absent, zero):
        output = model.train()(batch)
        assert output.penalty is None
        assert torch.equal(output.logits, weighted.train()(batch).logits)
    assert weighted.eval()(batch).penalty is None
    assert weighted.train()(make_modalities(2)).penalty is None


def test_every_family_keeps_a_penalty() -> None:
    model, batch = build("late_concat"), make_modalities(1)
    assert isinstance(model, SemanticModel)
    kept = model.finish(ModelOutput(torch.zeros(1, 3, 8, 8), (torch.zeros(1, 3, 4, 4),), torch.ones(())), batch)
    assert kept.penalty == 1
    assert [x.shape for x in (kept.logits, *kept.auxiliary)] == [(1, 3, 64, 64)] * 2


def test_averaged_logits_are_the_mean_of_the_branches() -> None:
    model, batch = build("logit_average").train(), make_modalities(2)
    branches: Any = model.get_submodule("branches")
    alone = [branch.train()(batch) for branch in branches]
    output = model(batch)
    torch.testing.assert_close(output.logits, (alone[0].logits + alone[1].logits) / 2)
    assert len(output.auxiliary) == 1
    torch.testing.assert_close(output.auxiliary[0], (alone[0].auxiliary[0] + alone[1].auxiliary[0]) / 2)


def test_vem_matches_its_formula() -> None:
    torch.manual_seed(0)
    vem = VarianceEnhancement(8, heads=1, mode="subtract")
    shake(vem)
    a, b = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    own, other, cross = vem.norm_own(a), vem.norm_other(b), vem.attention
    shares = (cross.query(own) @ cross.key(other).mT / 8**0.5).softmax(dim=-1)
    e = own - cross.out(shares @ cross.value(other))
    v = ((e - e.mean(1, keepdim=True)) ** 2).mean(1)
    g = torch.sigmoid(vem.gate(torch.log(v / v.mean(1, keepdim=True) + 1e-6)))
    t = (e**2).mean(2)
    t = (t - t.mean(1, keepdim=True)) / t.std(1, keepdim=True, unbiased=False)
    k = torch.sigmoid(vem.sharpness * t)
    expected = vem.out(e * 2 * g[:, None] * 2 * k[..., None])
    torch.testing.assert_close(vem(a, b), expected, atol=1e-4, rtol=1e-4)


def test_untrained_dense_prompts_change_nothing() -> None:
    batch = make_modalities(2)
    dense = build("upseg", {"token_prompts": 0})
    late = build("upseg", {"exchange_after": []})
    shared = late.state_dict().keys()
    late.load_state_dict({key: value for key, value in dense.state_dict().items() if key in shared})
    torch.testing.assert_close(predict(dense, batch), predict(late, batch))


def test_one_direction_leaves_the_source_unguided() -> None:
    model = build("upseg", {"sources": ["optical"], "modalities": ["optical", "sar"]})
    exchange: Any = model.get_submodule("exchanges.1")
    guides = [torch.randn(1, 16, 16) for _ in range(2)]
    tokens, dense = exchange(guides, (4, 4))
    assert tokens[0] is None
    assert dense[0] is None
    assert tokens[1].shape == (1, 4, 16)
    assert dense[1].shape == (1, 16, 16)


def test_generated_patch_embedding_has_the_grid_of_dofa() -> None:
    embedding = WavelengthEmbedding(ViTConfig(patch=16, width=8, depth=4, heads=1))
    waves = encode_wavelengths(torch.tensor([0.49, 0.832]))
    assert waves.shape == (2, 128)
    torch.testing.assert_close(waves[0, [0, 64]], torch.tensor([math.sin(490), math.cos(490)]), atol=1e-4, rtol=0)
    assert embedding(torch.randn(1, 2, 64, 48), waves).shape == (1, 8, 4, 3)


def test_generated_patch_embedding_is_that_of_the_specification() -> None:
    torch.manual_seed(0)
    m = WavelengthEmbedding(ViTConfig(patch=4, width=8, depth=4, heads=1)).double()
    waves, image = encode_wavelengths(torch.tensor([0.49, 0.832, 3.75])).double(), torch.randn(2, 3, 9, 12).double()
    assert m.weight_tokens.shape == (128, 128)
    assert m.layer.self_attn.num_heads == 4
    assert m.layer.linear1.out_features == 2048
    assert not m.layer.norm_first
    bands = waves + m.before[2](m.before[0](waves).relu()).relu()
    sequence = torch.cat((m.weight_tokens, bands, m.bias_token))
    attended = m.layer.norm1(sequence + m.layer.self_attn(sequence, sequence, sequence)[0])
    fed = m.layer.linear2(nn.functional.gelu(m.layer.linear1(attended)))
    read = m.layer.norm2(attended + fed)
    kernels = 0.01 * m.kernel(read[128:131] + bands)
    padded = nn.functional.pad(image, (1, 1, 1, 1))
    expected = (0.01 * m.bias(read[131]))[:, None, None].repeat(1, 2, 3)
    for y in range(2):
        for x in range(3):
            window = padded[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            # band, then row and column of the patch, then output channel
            expected[:, y, x] += torch.einsum("cij,cijd->d", window, kernels.view(3, 4, 4, 8))
    torch.testing.assert_close(m(image, waves)[0], expected)


def test_positions_of_dofa_are_fixed() -> None:
    table = encode_grid((2, 3), 8)
    assert table.shape == (1, 7, 8)
    assert not table[0, 0].any()
    # token 5 stands in row 1 and column 2: sines and cosines of the column at rates 1 and 1/100, then of the row
    x, y = torch.tensor([2.0, 0.02]), torch.tensor([1.0, 0.01])
    torch.testing.assert_close(table[0, 6], torch.cat((x.sin(), x.cos(), y.sin(), y.cos())))
    model = build("upseg", {"front_end": "dofa", "wavelengths": WAVELENGTHS})
    assert not [n for n, _ in model.named_parameters() if n.endswith("pos_embed")]
    torch.testing.assert_close(model.state_dict()["trunks.0.pos_embed"], encode_grid((4, 4), 16))
    assert predict(model, make_modalities(1, size=(80, 48))).shape == (1, 3, 80, 48)


def test_fixed_positions_of_a_checkpoint_are_resized(tmp_path: Path) -> None:
    config = ViTConfig(patch=8, width=16, depth=4, heads=2)
    published = ViT(config, image_size=64, channels=3, fixed_positions=True).state_dict()
    torch.save({"model": {**published, "mask_token": torch.zeros(1, 1, 16)}}, tmp_path / "vit.pth")
    trunk = ViT(config, image_size=32, channels=None, fixed_positions=True)
    loaded = load_vit_weights(trunk, str(tmp_path / "vit.pth"))
    assert loaded.missing == ()
    assert loaded.resized == ("pos_embed",)
    torch.testing.assert_close(trunk.pos_embed, resize_positions(published["pos_embed"], (4, 4)))


# The trunk


def test_position_table_is_resized_as_timm_does() -> None:
    table = torch.randn(1, 1 + 16, 8)
    expected = resample_abs_pos_embed(table, new_size=[3, 6], num_prefix_tokens=1)
    torch.testing.assert_close(resize_positions(table, (3, 6)), expected)


def test_positions_that_cannot_be_resized_are_reported_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = ViTConfig(patch=8, width=16, depth=4, heads=2)
    published = ViT(config, image_size=32, channels=3).state_dict()
    trunk = ViT(config, image_size=32, channels=3)
    for table in (torch.zeros(1, 18, 16), torch.zeros(1, 65, 12), torch.zeros(16)):
        caplog.clear()
        torch.save({**published, "pos_embed": table, "fc_norm.weight": torch.ones(16)}, tmp_path / "vit.pth")
        loaded = load_vit_weights(trunk, str(tmp_path / "vit.pth"))
        assert loaded.missing == ("pos_embed",)
        assert loaded.resized == ()
        counts = f"{len(published) - 1} tensors loaded, 1 missing, 2 without a place; missing pos_embed"
        assert counts in caplog.text


def test_trunk_weights_load_from_a_file_of_another_image_size(tmp_path: Path) -> None:
    config = ViTConfig(patch=8, width=16, depth=4, heads=2)
    published = ViT(config, image_size=64, channels=3).state_dict()
    named = {k.replace("patch_embed.", "patch_embed.proj."): v for k, v in published.items()}
    torch.save({**named, "head.weight": torch.zeros(2, 16)}, tmp_path / "vit.pth")
    trunk = ViT(config, image_size=32, channels=32)
    loaded = load_vit_weights(trunk, str(tmp_path / "vit.pth"))
    assert loaded.resized == ("pos_embed",)
    assert set(loaded.ignored) == {"patch_embed.weight", "head.weight"}
    assert loaded.missing == ("patch_embed.weight",)
    assert len(loaded.loaded) == len(published) - 1
    assert torch.equal(trunk.blocks[3].mlp.fc2.weight, published["blocks.3.mlp.fc2.weight"])
    wider = ViT(ViTConfig(patch=8, width=24, depth=4, heads=2), image_size=32, channels=3)
    with pytest.raises(HarnessError, match="at least 80 % of the trunk's"):
        load_vit_weights(wider, str(tmp_path / "vit.pth"))
    with pytest.raises(HarnessError, match="is missing; put a ViT checkpoint there"):
        load_vit_weights(trunk, str(tmp_path / "none.pth"))
    (tmp_path / "broken.pth").write_text("no tensors")
    with pytest.raises(HarnessError, match="must be a readable file of tensors"):
        load_vit_weights(trunk, str(tmp_path / "broken.pth"))
    with pytest.raises(HarnessError, match="timm ViT name; received 'vit_bas_patch16_384'"):
        load_vit_weights(trunk, "vit_bas_patch16_384")
