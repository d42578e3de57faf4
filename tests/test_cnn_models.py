"""CMPC, CMPC+ and BRINet: sizes against the published ones, blocks against plain formulas, behaviour of tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from harness.errors import HarnessError
from models.base import MODELS, Inputs, SegmentationModel, resolve_config
from models.brinet import BrinetConfig, BrinetLevel, LinguisticAttention, VisualAttention
from models.layers.cmpc_level import CmpcLevel, CmpcLevelConfig, RelationGraph, Sentence, WordParser, parse_sentence
from models.layers.conv_lstm import ConvLSTM
from models.layers.language_cnn import TiledConv, position_grid, xavier
from models.layers.text_exchange import LevelExchange
from models.vision import FrozenBatchNorm, ResNet, ResNetConfig

NAMES = ("cmpc", "cmpc_plus", "brinet")
RESNET = {"pretrained": None, "depths": [1, 1, 1, 1], "width": 8}
TEXT = {"dim": 24, "max_tokens": 8}
CMPC_TINY = {"backbone": RESNET, "text": TEXT, "width": 32, "hidden": 16}
TINY: Mapping[str, dict[str, Any]] = {
    "cmpc": CMPC_TINY,
    "cmpc_plus": CMPC_TINY,
    "brinet": {"backbone": RESNET, "text": TEXT, "width": 24, "attention_width": 12, "aspp_width": 12},
}
SIZE = 64
INPUTS = Inputs(image_size=SIZE, modalities={"image": 3}, vocab_size=40)
COMPONENTS = [(name, field) for name in NAMES for field in MODELS.get(name).info.components]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def build(name: str, inputs: Inputs = INPUTS, **settings: Any) -> SegmentationModel:
    model = MODELS.get(name)
    return model(resolve_config(model, {**TINY[name], **settings}), inputs)


def make_batch(images: int = 3, size: int = SIZE) -> dict[str, Tensor]:
    """Sentences of 8, 5, 2, 8, ... words."""
    lengths = torch.tensor([(8, 5, 2)[i % 3] for i in range(images)])
    mask = (torch.arange(8) < lengths[:, None]).long()
    return {
        "image": torch.randn(images, 3, size, size),
        "tokens": torch.randint(2, 40, (images, 8)) * mask,
        "token_mask": mask,
    }


def make_target(images: int) -> Tensor:
    target = torch.zeros(images, SIZE, SIZE, dtype=torch.long)
    for i in range(images):
        target[i, 8 * i : 8 * i + 24, 8:40] = 1
    return target


def training_loss(model: SegmentationModel, batch: dict[str, Tensor], target: Tensor) -> Tensor:
    output = model(batch)
    truth = F.one_hot(target, 2).movedim(-1, 1).float()
    terms = [
        F.cross_entropy(logits, F.interpolate(truth, size=logits.shape[2:], mode="bilinear"))
        for logits in (output.logits, *output.auxiliary)
    ]
    return torch.stack(terms).sum()


# Sizes

WIDTH, HIDDEN, TOKENS = 1000, 500, 20


def full_size(name: str, image_size: int) -> tuple[int, float]:
    """Parameters and GMACs of the paper's size."""
    model_class = MODELS.get(name)
    inputs = Inputs(image_size=image_size, modalities={"image": 3}, vocab_size=12112)
    with torch.device("meta"):
        model = model_class(resolve_config(model_class, {"backbone": {"pretrained": None}}), inputs).eval()
        tokens = torch.ones(1, TOKENS, dtype=torch.long)
        batch = {"image": torch.zeros(1, 3, image_size, image_size), "tokens": tokens, "token_mask": tokens}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(batch)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9


def gmacs_saved(name: str, positions: int) -> float:
    """What the published formulas cost more than ours, for maps of so many positions."""
    if name == "brinet":
        return 3 * 4 * (positions - 1) * WIDTH**2 / 1e9  # the sentence's part of four convolutions
    adjacency = positions**2 * (TOKENS + WIDTH) - 2 * positions * TOKENS * WIDTH
    query = (positions - TOKENS) * WIDTH**2
    tiled = (positions - 1) * WIDTH * HIDDEN
    pooling = 2 * (positions - 1) * HIDDEN**2  # two rounds
    return 3 * (adjacency + query + tiled + pooling) / 1e9


# Published: design/referring.md 6.6 and 7.3, rounded. Exact: the same sums in full, 4 x 1000 for the second bias of
# PyTorch's LSTM above them, and for CMPC 6 x 500 below them for biases that cannot influence the output.
@pytest.mark.parametrize(
    ("name", "image_size", "published", "exact", "gmacs"),
    [
        ("cmpc", 320, 117.0e6, 117_043_768 + 4000 - 3000, 138.3),
        ("cmpc", 480, 120.0e6, 120_043_768 + 4000 - 3000, 333),
        ("cmpc_plus", 320, 118.6e6, 118_555_768 + 4000 - 3000, 140.7),
        ("cmpc_plus", 480, 121.6e6, 121_555_768 + 4000 - 3000, 338),
        ("brinet", 320, 241.2e6, 241_180_308 + 4000, 362.7),
        ("brinet", 480, 244.2e6, 244_180_308 + 4000, 848),
    ],
)
def test_full_size(name: str, image_size: int, published: float, exact: int, gmacs: float) -> None:
    parameters, found = full_size(name, image_size)
    assert parameters == exact
    assert exact == pytest.approx(published, abs=0.05e6)
    saved = gmacs_saved(name, (image_size // 8) ** 2)
    assert found + saved == pytest.approx(gmacs, rel=0.01)
    assert saved > 0.05 * gmacs


# Blocks against plain formulas


def test_position_grid() -> None:
    grid = position_grid(2, 4)
    assert grid.shape == (8, 2, 4)
    assert grid[:, 0, 0].tolist() == [-1.0, -1.0, -0.5, 0.0, -0.75, -0.5, 0.25, 0.5]
    assert grid[:, 1, 3].tolist() == [0.5, 0.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.5]


def test_tiled_convolution_is_a_convolution_of_the_concatenation() -> None:
    conv = TiledConv(5, 3, 7)
    x, vector = torch.randn(2, 5, 4, 6), torch.randn(2, 3)
    joined = torch.cat([x, vector[..., None, None].expand(-1, -1, 4, 6)], dim=1)
    torch.testing.assert_close(conv(x, vector), F.conv2d(joined, conv.weight, conv.bias))


def test_parallel_layers_start_like_single_ones() -> None:
    layer = xavier(nn.Linear(30, 5 * 20), parts=5)
    limit = (6 / (30 + 20)) ** 0.5
    assert 0.9 * limit < layer.weight.abs().max() <= limit


def make_sentence(width: int) -> Sentence:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    return parse_sentence(WordParser(width, 5), torch.randn(2, 4, width), mask)


def test_word_parser_makes_unit_vectors_of_present_words() -> None:
    sentence = make_sentence(6)
    torch.testing.assert_close(sentence.vector.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(sentence.entity_vector.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(sentence.words.norm(dim=-1), sentence.mask.float())


def test_relation_graph_is_the_published_formula() -> None:
    graph, x, sentence = RelationGraph(6), torch.randn(2, 6, 3, 5), make_sentence(6)
    for norm in (graph.read_norm, graph.update_norm):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    nn.init.normal_(graph.query.bias)
    m = x.flatten(2).transpose(1, 2)  # B HW C
    scores = graph.query(m) @ graph.key(sentence.words).transpose(1, 2) / 6**0.5 * sentence.relation[:, None]
    words = sentence.mask[:, None].expand_as(scores)
    a1 = scores.masked_fill(~words, -torch.inf).softmax(2)
    a2 = scores.softmax(1) * words
    adjacency = a1 @ a2.transpose(1, 2)
    torch.testing.assert_close(adjacency.sum(2), torch.ones(2, 15))

    def norm_all(y: Tensor, norm: nn.GroupNorm) -> Tensor:
        mean, var = y.mean((1, 2), keepdim=True), y.var((1, 2), correction=0, keepdim=True)
        return (y - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias

    g = F.relu(m + norm_all(adjacency @ m, graph.read_norm))
    g = F.relu(norm_all(F.linear(g, graph.update.weight.flatten(1), graph.update.bias), graph.update_norm))
    expected = F.normalize(g, dim=2).transpose(1, 2).view_as(x)
    torch.testing.assert_close(graph(x, sentence), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("concat", ["plus", "cvpr"])
def test_level_joins_what_is_published(concat: str) -> None:
    config = CmpcLevelConfig(width=6, hidden=4, cmpc_concat=concat)  # type: ignore[arg-type]  # parametrised
    level, sentence = CmpcLevel(config), make_sentence(6)
    x, grid = torch.randn(2, 6, 3, 5), position_grid(3, 5).expand(2, -1, -1, -1)
    entity = level.perceive(torch.cat([x, grid], 1), sentence)
    head_maps = level.perceive.project(torch.cat([x, grid], 1)).chunk(5, 1)
    head_words = level.perceive.sentence(sentence.entity_vector).chunk(5, 1)
    products = [a.tanh() * b.tanh()[..., None, None] for a, b in zip(head_maps, head_words, strict=True)]
    torch.testing.assert_close(entity, F.normalize(torch.stack(products).sum(0).tanh(), dim=1))
    assert level.relate is not None
    graph = level.relate(entity, sentence)
    if concat == "plus":
        out = level.join(torch.cat([entity, graph, grid], 1), sentence.entity_vector)
    else:
        out = level.join(graph, sentence.vector)
    torch.testing.assert_close(level(x, sentence, grid), F.relu(out))


def test_exchange_is_the_published_formula() -> None:
    exchange, s = LevelExchange(6, 4), F.normalize(torch.randn(2, 4), dim=1)
    x, j, k = (torch.randn(2, 6, 3, 5) for _ in range(3))
    keys = F.conv2d(x, exchange.key.weight[..., None, None], torch.randn(6))  # any bias: it is inert
    scores = torch.einsum("bchw,bc->bhw", keys, exchange.query(s)) / 6**0.5
    pooled = torch.einsum("bhw,bchw->bc", scores.flatten(1).softmax(1).view_as(scores), x)
    g = F.normalize(exchange.summary(torch.cat([pooled, s], 1)), dim=1)
    taken = [
        F.relu(take(other)) * torch.sigmoid(gate(g))[..., None, None]
        for take, gate, other in zip(exchange.takes, exchange.gates, (j, k), strict=True)
    ]
    torch.testing.assert_close(exchange(x, (j, k), s), F.normalize(x + taken[0] + taken[1], dim=1))


def test_conv_lstm_is_the_published_formula() -> None:
    lstm, maps = ConvLSTM(4, size=(3, 5)), [torch.randn(2, 4, 3, 5) for _ in range(3)]
    norm = {name: lambda y, n=n: F.layer_norm(y, y.shape[1:], eps=n.eps) for name, n in lstm.norms.items()}
    w_in, w_forget, w_out = lstm.peepholes
    c = h = torch.zeros(2, 4, 3, 5)
    for x in maps:
        j, i, f, o = F.conv2d(torch.cat([x, h], 1), lstm.gates.weight).split(4, 1)
        i, f = norm["input"](i + w_in * c), norm["forget"](f + w_forget * c)
        c = c * torch.sigmoid(f + 1) + torch.sigmoid(i) * torch.tanh(norm["proposal"](j))
        o = torch.sigmoid(norm["output"](o + w_out * c))
        c = norm["cell"](c)
        h = o * torch.tanh(c)
    torch.testing.assert_close(lstm(maps), h)


def test_empty_word_slots_dilute_what_is_read() -> None:
    x, words = torch.randn(2, 4, 2, 3), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    slots = torch.zeros(2, 5, 4)
    slots[:, :3] = words * mask[..., None]
    weights = torch.einsum("bchw,btc->bthw", x, slots).softmax(1)
    expected = torch.einsum("bthw,btc->bchw", weights, slots)
    torch.testing.assert_close(LinguisticAttention(5)(x, words, mask), expected)
    only = LinguisticAttention(None)(x, words, mask)
    torch.testing.assert_close(only[1], words[1, 0, :, None, None].expand(4, 2, 3))


@pytest.mark.parametrize(("attention", "axis"), [("code", 1), ("journal", 0)])
def test_visual_attention_is_the_published_formula(attention: str, axis: int) -> None:
    config = BrinetConfig(width=4, attention_width=3, attention=attention)  # type: ignore[arg-type]  # parametrised
    attend = VisualAttention(config, 6)
    key, value, read = (torch.randn(1, 4, 2, 3) for _ in range(3))
    k, v, w = (x[0].flatten(1).T for x in (key, value, read))  # HW C
    a = torch.tanh(w @ attend.of_words.weight.T + k @ attend.of_map.weight.T)
    r = (attend.positions @ a.T).softmax(axis)
    expected = torch.stack([sum(r[i, j] * v[i] for i in range(6)) for j in range(6)])  # type: ignore[misc]  # of tensors
    torch.testing.assert_close(attend(key, value, read)[0].flatten(1).T, expected)


def test_brinet_level_without_attentions_reads_the_last_state() -> None:
    config = BrinetConfig(width=4, linguistic_attention=False, visual_attention=False, aspp_rates=())
    level, x, last = BrinetLevel(config, 6), torch.randn(2, 12, 2, 3), torch.randn(2, 4)
    value, residual = F.relu(level.project(x, last)).chunk(2, 1)
    merged = F.relu(level.merge(torch.cat([value, last[..., None, None].expand_as(value)], 1))) + residual
    mask = torch.ones(2, 1).bool()
    torch.testing.assert_close(level(x, last, torch.randn(2, 1, 4), mask), F.relu(level.context.join(merged)))


# Behaviour of tiny models

VARIANTS = [
    *((name, {}) for name in NAMES),
    *((name, {field: MODELS.get(name).info.components[field]}) for name, field in COMPONENTS if name != "cmpc_plus"),
    ("cmpc_plus", {"relation_graph": False}),
    ("brinet", {"attention": "journal", "word_slots": "words", "training_size": "image"}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)
def test_logits_and_gradients(name: str, settings: dict[str, Any]) -> None:
    model, batch = build(name, **settings), make_batch()
    output = model(batch)
    side = SIZE if "cmpc" in name or "training_size" in settings else SIZE // 8
    assert [logits.shape for logits in (output.logits, *output.auxiliary)] == 4 * [(3, 2, side, side)]
    assert output.logits[:, 0].abs().max() == 0
    training_loss(model, batch, make_target(3)).backward()
    # A rare zero is a channel that no ReLU lets through; a part without gradient would be more than a tensor's bias.
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert model.dead_parameters() == frozenset()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    model.eval()
    output = model(batch)
    assert (output.logits.shape, output.auxiliary) == ((3, 2, SIZE, SIZE), ())


@pytest.mark.parametrize("name", NAMES)
def test_without_auxiliary_heads(name: str) -> None:
    model = build(name, auxiliary=False)
    assert model(make_batch()).auxiliary == ()
    assert not any("level_scores" in n for n, _ in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 60])
def test_other_image_sizes(name: str, size: int) -> None:
    model = build(name, Inputs(image_size=size, modalities={"image": 3}, vocab_size=40)).eval()
    assert model(make_batch(2, size)).logits.shape == (2, 2, size, size)
    with pytest.raises(HarnessError, match=rf"images must have the {size} x {size} pixels .* received 64 x 64"):
        model(make_batch(2))


@pytest.mark.parametrize("name", NAMES)
def test_eval_is_deterministic_and_samples_are_independent(name: str) -> None:
    model, batch = build(name).eval(), make_batch()
    with torch.no_grad():
        together = model(batch).logits
        assert torch.equal(together, model(batch).logits)
        for i in range(3):
            alone = model({k: v[i : i + 1] for k, v in batch.items()}).logits
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_padding_does_not_matter_and_words_do(name: str) -> None:
    model, batch = build(name).eval(), make_batch()
    batch["tokens"], batch["token_mask"] = (batch[k][1:, :6] for k in ("tokens", "token_mask"))
    batch["image"] = batch["image"][1:]
    tokens, mask = batch["tokens"], batch["token_mask"]
    longer = {"tokens": F.pad(tokens, (0, 2)), "token_mask": F.pad(mask, (0, 2))}
    other = {"tokens": torch.where(mask == 1, tokens, 17)}
    words = {"tokens": torch.where(mask == 1, (tokens + 5) % 38 + 2, 0)}
    with torch.no_grad():
        logits = model(batch).logits
        torch.testing.assert_close(model({**batch, **longer}).logits, logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model({**batch, **other}).logits, logits, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(model({**batch, **words}).logits, logits, atol=1e-5)


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_component_can_be_switched_off(name: str, component: str) -> None:
    full = build(name).eval()
    torch.manual_seed(0)
    without = build(name, **{component: full.info.components[component]}).eval()
    # what both have gets the same weights, so that only the component differs
    shapes = {k: v.shape for k, v in without.state_dict().items()}
    same = {k: v for k, v in full.state_dict().items() if shapes.get(k) == v.shape}
    without.load_state_dict(same, strict=False)
    batch = make_batch()
    with torch.no_grad():
        assert not torch.allclose(full(batch).logits, without(batch).logits, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name: str, tmp_path: Path) -> None:
    first, second = build(name).eval(), build(name).eval()
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    batch = make_batch()
    with torch.no_grad():
        assert torch.equal(first(batch).logits, second(batch).logits)


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_overfits(name: str) -> None:
    model, batch, target = build(name), make_batch(2), make_target(2)
    optimiser = torch.optim.Adam([{"params": g.parameters} for g in model.parameter_groups()], lr=5e-3)
    losses = []
    for _ in range(40):
        loss = training_loss(model, batch, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_only_weights_of_convolutions_and_linear_layers_decay(name: str) -> None:
    model = build(name)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, undecayed = model.parameter_groups()
    assert (decayed.weight_decay, undecayed.weight_decay) == (None, 0.0)
    assert all(p.dim() > 1 for p in decayed.parameters)
    kept = {names[id(p)] for p in undecayed.parameters if p.dim() > 1}
    lstm = {"encode.text.embedding.weight", "encode.text.lstm.weight_ih_l0", "encode.text.lstm.weight_hh_l0"}
    own = {f"levels.{i}.attend.positions" for i in range(3)} if name == "brinet" else {"fuse.peepholes"}
    assert kept == lstm | own
    assert len(decayed.parameters) + len(undecayed.parameters) == len(names)


def test_partial_sections_keep_the_models_defaults() -> None:
    config = resolve_config(MODELS.get("brinet"), {"text": {"max_tokens": 9}})
    assert (config.text.dim, config.text.max_tokens) == (1000, 9)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cmpc", {"width": 0}, "width must be at least 1; received 0"),
        ("cmpc", {"heads": 0}, "heads must be at least 1; received 0"),
        ("cmpc", {"exchange_rounds": -1}, "exchange_rounds must be at least 0; received -1"),
        ("brinet", {"aspp_rates": [1, 0]}, r"aspp_rates must each be at least 1; received \[1, 0\]"),
        ("brinet", {"attention_width": 0}, "attention_width must be at least 1; received 0"),
        ("brinet", {"backbone": {"depths": [1, 0, 1, 1]}}, r"depths and width must .* \[1, 0, 1, 1\], 64"),
    ],
)
def test_sizes_are_checked(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        build(name, **settings)


# ResNet weights

SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "width": 8}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint with the names of timm, classifier included, and statistics that are not those of a start."""
    made = ResNet(ResNetConfig(pretrained=None, **SMALL))
    with torch.no_grad():
        for _ in range(2):
            made(torch.randn(2, 3, 64, 64) + 1)
    state = {**made.state_dict(), "fc.weight": torch.zeros(10, 256), "fc.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "resnet.pth")
    return tmp_path / "resnet.pth"


@pytest.mark.parametrize(("trained", "prefixes"), [("none", ()), ("last", ("layer4.",)), ("all", ("",))])
def test_what_is_not_trained_stays(weights: Path, trained: Any, prefixes: tuple[str, ...]) -> None:
    model = ResNet(ResNetConfig(pretrained=str(weights), trained=trained, **SMALL)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    maps = model(torch.randn(2, 3, 64, 64))
    assert maps[-1].requires_grad == bool(prefixes)
    if prefixes:
        maps[-1].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == name.startswith(prefixes), name
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if "running" in k or "tracked" in k if k.startswith(prefixes)}
    state = torch.load(weights, weights_only=True)
    assert all(torch.equal(before[k], state[k]) for k in before)
    plain = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    frozen = [m for m in model.modules() if isinstance(m, FrozenBatchNorm)]
    assert (len(plain), len(frozen)) == {"none": (0, 17), "last": (4, 13), "all": (17, 0)}[trained]


def test_frozen_model_computes_what_batch_norm_in_evaluation_does(weights: Path) -> None:
    frozen = ResNet(ResNetConfig(pretrained=str(weights), **SMALL)).train()
    plain = ResNet(ResNetConfig(pretrained=str(weights), trained="all", **SMALL)).eval()
    image = torch.randn(2, 3, 64, 64)
    for a, b in zip(frozen(image), plain(image), strict=True):
        torch.testing.assert_close(a, b)


def test_maps_are_those_of_timm() -> None:
    settings = {"features_only": True, "output_stride": 8, "out_indices": (2, 3, 4), "pretrained": False}
    theirs = timm.create_model("resnet50", **settings).eval()
    ours = ResNet(ResNetConfig(pretrained=None, depths=(3, 4, 6, 3))).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for a, b in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(a, b)


def test_frozen_backbone_is_not_in_the_optimiser(weights: Path) -> None:
    backbone = {"pretrained": str(weights), **SMALL}
    model = build("cmpc", backbone=backbone).train()
    batch = make_batch()
    training_loss(model, batch, make_target(3)).backward()
    trained = {id(p) for g in model.parameter_groups() for p in g.parameters}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in trained) == (not name.startswith("encode.backbone.")) == (parameter.grad is not None)


def test_weight_problems_are_one_clear_line(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(source: str, **sizes: Any) -> None:
        ResNet(ResNetConfig(pretrained=source, **{**SMALL, **sizes}))

    with pytest.raises(HarnessError, match=r"existing file; .*none\.pth is missing; put a ResNet checkpoint there"):
        load(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("not tensors")
    with pytest.raises(HarnessError, match=r"readable file of tensors; .*text\.pth: "):
        load(str(tmp_path / "text.pth"))
    with pytest.raises(HarnessError, match=r"must fit backbone\.depths and width; received \d+ tensors .* for example"):
        load(str(weights), depths=(1, 1, 2, 1))
    with pytest.raises(HarnessError, match=r"or a timm ResNet name; received 'resnet101\.tv'; .*resnet101\.tv_in1k"):
        load("resnet101.tv")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        HarnessError, match=r"^pretrained ResNet 'resnet101\.tv_in1k' is neither in the cache .*hf down"
    ):
        load("resnet101.tv_in1k")
