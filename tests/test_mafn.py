"""MAFN: its options, cross-scale interaction, random draws, pretrained weights, vocabulary, messages."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from harness.errors import HarnessError
from models.base import Inputs, resolve_config
from models.layers import stochastic
from models.layers.cim import CrossScaleInteraction, num_tokens, pool_to_grid
from models.layers.noise import AdaptiveNoise
from models.layers.stochastic import Dropout, DropPath, seed_model_noise
from models.layers.swin import SwinConfig, stage_sides
from models.mafn import MAFN, MafnConfig
from models.text import TextConfig, TextEncoder, build_tokenizer, make_vocabulary
from models.vision import load_swin_weights
from tests.tiny_models import INPUTS, make_batch
from tests.tiny_models import SWIN_BERT as TINY

WIDTHS = (128, 256, 512, 1024)
DEPTHS = (2, 2, 18, 2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seed_model_noise(0)


def build(settings: dict[str, Any], inputs: Inputs = INPUTS) -> MAFN:
    return MAFN(resolve_config(MAFN, settings), inputs)


def test_stage_sides() -> None:
    assert stage_sides(480) == (120, 60, 30, 15)
    assert [stage_sides(size)[3] for size in (32, 64, 90, 96)] == [1, 2, 3, 3]


# Behaviour of a tiny model

VARIANTS = [
    {"decoder_source": "fused"},
    {"noise_scope": "window"},
    {"use_corr": False},
    {"visual_branch": False},
    {"language_gate": False},
    {"fusion": "sum", "language_pathway": False},
    {"msrc_order": "msrc_first"},
    {"msrc_sum": "state"},
    {"msrc_sum": "state", "kernels": [1]},
    {"kernels": [1]},
    {"msrc_expansion": 2},
    {"arc_n": 2},
    {"arc_shared": False},
    {"pwam_act": "relu"},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_logits_and_gradients(settings: dict[str, Any]) -> None:
    model = build({**TINY, **settings})
    batch = make_batch(2)
    logits = model(batch).logits
    assert logits.shape == (2, 2, 64, 64)
    F.cross_entropy(logits, torch.randint(0, 2, (2, 64, 64))).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("size", [32, 96])
def test_other_image_sizes(size: int) -> None:
    model = build(TINY, replace(INPUTS, image_size=size))
    assert model(make_batch(2, size)).logits.shape == (2, 2, size, size)


def test_padding_tokens_do_not_matter() -> None:
    model = build(TINY).eval()
    batch = make_batch()
    padded = torch.where(batch["token_mask"] == 1, batch["tokens"], 17)
    with torch.no_grad():
        logits = model(batch).logits
        torch.testing.assert_close(model({**batch, "tokens": padded}).logits, logits, atol=1e-6, rtol=1e-5)


def test_first_forward_in_inference_mode_does_not_spoil_training() -> None:
    model = build(TINY)
    batch = make_batch()
    with torch.inference_mode():
        model(batch)
    model(batch).logits.sum().backward()


def test_noise_of_one_position_is_the_plain_attention_over_two_keys() -> None:
    noise = AdaptiveNoise(16, init_std=1.0, scope="pixel", window=4)
    plain = nn.MultiheadAttention(16, 8)
    nn.init.normal_(noise.in_proj_bias)
    plain.load_state_dict(
        {k: v for k, v in noise.state_dict().items() if k.startswith(("in_proj", "out_proj"))}, strict=True
    )
    x = torch.randn(1, 3, 4, 16)
    w = x.view(1, 12, 16)
    keys = torch.cat([w + noise.key_offset, w * noise.channel_scores(w)])
    values = torch.cat([w + noise.value_offset, w])
    expected = w + plain(w, keys, values, need_weights=False)[0]
    torch.testing.assert_close(noise(x).view(1, 12, 16), expected, atol=1e-5, rtol=0.0)


# Cross-scale interaction


@pytest.mark.parametrize(("grid", "tokens"), [((15, 15), 314), ((1, 1), 3), ((2, 2), 6), ((3, 3), 14), ((2, 3), 9)])
def test_cross_scale_interaction_fits_any_grid(grid: tuple[int, int], tokens: int) -> None:
    assert num_tokens(grid) == tokens
    widths = (8, 16, 32, 64)
    cim = CrossScaleInteraction(widths, grid=grid)
    maps = [torch.randn(2, c, grid[0] * f, grid[1] * f) for c, f in zip(widths, (8, 4, 2, 1), strict=True)]
    out = cim(maps)
    assert [o.shape for o in out] == [m.shape for m in maps]


def test_cross_scale_attention_keeps_the_raw_reshapes() -> None:
    """Against a statement that addresses single elements by their place in memory."""
    attention = CrossScaleInteraction((4, 8, 16, 32), grid=(3, 2)).block.first.eval()
    B, P, N = 2, 6, num_tokens((3, 2))
    z = torch.randn(B, 15, 3, 2)
    with torch.no_grad():
        t = attention.norm(z)
        tokens = torch.cat([t.flatten(2), attention.by_two(t).flatten(2), attention.by_three(t).flatten(2)], dim=2)
        rows = tokens.transpose(1, 2).reshape(B * N, 15) @ attention.qkv.weight.t()
        rows = attention.qkv_norm(rows).view(B, N, 8, 128)
        attended, local = torch.zeros(B, N * 8 * 64), torch.zeros(B, 8 * P * 64)
        for b in range(B):
            for h in range(8):
                q, k, v = rows[b, :, h, :32], rows[b, :, h, 32:64], rows[b, :, h, 64:]
                out = torch.softmax(q @ k.t() / 32**0.5, dim=1) @ v
                for n in range(N):
                    attended[b, (n * 8 + h) * 64 : (n * 8 + h + 1) * 64] = out[n]
                for p in range(P):
                    local[b, (h * P + p) * 64 : (h * P + p + 1) * 64] = v[p]
        summed = attention.tokens(attended.view(B, 512, N))
        summed = summed + attention.local(F.hardswish(local.view(B, 512, 3, 2))).flatten(2)
        expected = attention.project(summed.transpose(1, 2)).transpose(1, 2).reshape(B, 15, 3, 2)
        torch.testing.assert_close(attention(z), attention.leave(expected), atol=1e-5, rtol=1e-5)


def test_pooling_is_the_adaptive_one() -> None:
    x = torch.randn(1, 3, 12, 8)
    torch.testing.assert_close(pool_to_grid(x, (3, 4)), F.adaptive_avg_pool2d(x, (3, 4)))
    assert torch.equal(pool_to_grid(x, (5, 3)), F.adaptive_avg_pool2d(x, (5, 3)))


def test_cross_scale_attention_has_the_published_token_counts() -> None:
    with torch.device("meta"):
        first = CrossScaleInteraction(WIDTHS, grid=(15, 15)).block.first
    assert first.tokens.weight.shape == (225, 314)
    assert first.qkv.weight.shape == (1024, 480)


# Random draws


def test_draws_do_not_depend_on_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(8, 6)
    path, dropout = DropPath(0.5), Dropout(0.4)

    def run(rows: slice) -> Tensor:
        seed_model_noise(3)
        return path(dropout(x[rows]))

    whole = run(slice(None))
    monkeypatch.setattr(stochastic.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(stochastic.dist, "get_world_size", lambda: 2)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(stochastic.dist, "get_rank", lambda rank=rank: rank)
        halves.append(run(slice(4 * rank, 4 * rank + 4)))
    assert torch.equal(torch.cat(halves), whole)
    assert set(whole.unique().tolist()) <= {0.0, *torch.tensor([1 / 0.6 / 0.5, 2 / 0.6]).tolist()}


# Pretrained Swin


def timm_state(model: MAFN) -> dict[str, Tensor]:
    """The Swin part of a model under timm's names, with a classifier, random values and tables of window 3."""
    state = {}
    for name, tensor in model.backbone.state_dict().items():
        stage = name.split(".")[1]
        if name.startswith("patch_embed."):
            state[name] = tensor
        elif ".merging." in name:
            state[name.replace(f"stages.{stage}.merging", f"layers.{int(stage) + 1}.downsample")] = tensor
        elif ".blocks." in name and ".noise." not in name:
            state[name.replace("stages.", "layers.")] = tensor
    state = {k: torch.randn((25, v.shape[1]) if k.endswith("table") else v.shape) for k, v in state.items()}
    derived = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9)}
    return {**state, **derived, "norm.weight": torch.ones(64), "head.fc.weight": torch.ones(5, 64)}


def test_swin_weights_from_a_file(tmp_path: Path) -> None:
    model = build(TINY)
    state = timm_state(model)
    torch.save({"model": state}, tmp_path / "swin.pth")
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    loaded = load_swin_weights(model.backbone, str(tmp_path / "swin.pth"))
    after = model.backbone.state_dict()
    assert len(loaded.ignored) == 3
    assert len(loaded.resized) == sum(TINY["backbone"]["depths"])
    assert len(loaded.loaded) == len(state) - 3
    assert torch.equal(after["stages.1.merging.reduction.weight"], state["layers.2.downsample.reduction.weight"])
    assert torch.equal(after["stages.2.blocks.1.attn.qkv.bias"], state["layers.2.blocks.1.attn.qkv.bias"])
    assert {k for k in after if not torch.equal(after[k], before[k])} == set(loaded.loaded)
    through_config = build({**TINY, "backbone": {**TINY["backbone"], "pretrained": str(tmp_path / "swin.pth")}})
    assert torch.equal(through_config.backbone.patch_embed.proj.weight, state["patch_embed.proj.weight"])


def test_swin_weights_in_the_authors_layout(tmp_path: Path) -> None:
    model = build(TINY)
    state = {
        k.replace(f"layers.{i}.down", f"layers.{i - 1}.down"): v
        for k, v in timm_state(model).items()
        for i in [int(k.split(".")[1]) if k.startswith("layers.") else 0]
    }
    torch.save(state, tmp_path / "swin.pth")
    load_swin_weights(model.backbone, str(tmp_path / "swin.pth"))
    found = model.backbone.state_dict()["stages.0.merging.norm.weight"]
    assert torch.equal(found, state["layers.0.downsample.norm.weight"])


def test_swin_weights_that_do_not_fit(tmp_path: Path) -> None:
    model = build(TINY)
    state = timm_state(model)
    del state["layers.0.blocks.0.norm1.weight"]
    state["layers.3.blocks.7.norm1.weight"] = torch.ones(64)
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(HarnessError, match=r"1 missing \(stages\.0.*1 without a place \(stages\.3\.blocks\.7"):
        load_swin_weights(model.backbone, str(tmp_path / "swin.pth"))


def test_swin_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(TINY)
    with pytest.raises(HarnessError, match=r"existing file.*put a Swin checkpoint there"):
        load_swin_weights(model.backbone, str(tmp_path / "missing.pth"))
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    with pytest.raises(HarnessError, match="readable file of tensors"):
        load_swin_weights(model.backbone, str(tmp_path / "broken.pth"))
    with pytest.raises(HarnessError, match="did you mean 'swin_base"):
        load_swin_weights(model.backbone, "swin_base_patch4_window12_384.ms_in22")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", unreachable)
    with pytest.raises(HarnessError, match="hf download timm/swin_base"):
        load_swin_weights(model.backbone, "swin_base_patch4_window12_384.ms_in22k")


# Text

SENTENCES = ["A gray ship on the left", "the ship at the bottom", "A tennis court (green)", "a small ship"]


def test_vocabulary_spells_unknown_words() -> None:
    tokenizer = build_tokenizer(TextConfig(pretrained=None, max_tokens=10), SENTENCES)
    ids, mask = tokenizer.encode("The SHIP")
    vocabulary = tokenizer.backend.get_vocab()
    assert ids == [vocabulary[t] for t in ("[CLS]", "the", "ship", "[SEP]")] + [0] * 6
    assert mask == [1] * 4 + [0] * 6
    assert tokenizer.pad_id == 0
    assert tokenizer.vocab_size == len(vocabulary)
    spelled, _ = tokenizer.encode("zoo")
    assert spelled[1:4] == [vocabulary[t] for t in ("z", "##o", "##o")]


def test_long_sentences_lose_their_end() -> None:
    tokenizer = build_tokenizer(TextConfig(pretrained=None, max_tokens=4), SENTENCES)
    ids, mask = tokenizer.encode("a ship on the left")
    assert len(ids) == 4
    assert mask == [1, 1, 1, 1]
    assert tokenizer.backend.token_to_id("[SEP]") not in ids


def test_vocabulary_is_the_same_in_every_process_and_for_every_order() -> None:
    program = (
        "from models.text import make_vocabulary\n"
        f"print(sorted(make_vocabulary({SENTENCES!r}, max_size=90).items(), key=lambda e: e[1]))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env={"PYTHONHASHSEED": "7", "HF_HUB_OFFLINE": "1"},
        ).stdout.strip()
    }
    here = make_vocabulary(reversed(SENTENCES), max_size=90)
    assert printed == {str(sorted(here.items(), key=lambda e: e[1]))}
    assert len(here) == 90


def test_vocabulary_needs_room_for_the_characters() -> None:
    with pytest.raises(HarnessError, match=r"text\.vocab_size must be at least"):
        make_vocabulary(SENTENCES, max_size=20)


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ship", "##s", "left"]
    sizes = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32
    )
    BertModel(sizes).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return tmp_path


def test_bert_from_a_folder(bert_folder: Path) -> None:
    config = TextConfig(pretrained=str(bert_folder), max_tokens=6, trained_layers=2)
    tokenizer = build_tokenizer(config, [])
    assert tokenizer.encode("Left ships plane")[0] == [2, 7, 5, 6, 1, 3]
    encoder = TextEncoder(config, vocab_size=tokenizer.vocab_size)
    assert encoder.width == 16
    assert encoder(torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.long)).shape == (1, 3, 16)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in trained} == {"0", "1"}
    assert all(name.startswith("bert.encoder.layer.") for name in trained)
    assert encoder.bert.config.hidden_dropout_prob == 0.1
    reference = BertModel.from_pretrained(str(bert_folder), add_pooling_layer=False)
    assert all(torch.equal(p, encoder.bert.state_dict()[k]) for k, p in reference.state_dict().items())


@pytest.mark.parametrize("trained_layers", [None, 3, 10])
def test_everything_trains_when_no_layer_is_left_out(bert_folder: Path, trained_layers: int | None) -> None:
    encoder = TextEncoder(TextConfig(pretrained=str(bert_folder), trained_layers=trained_layers), vocab_size=8)
    assert all(p.requires_grad for p in encoder.parameters())


def test_bert_that_cannot_be_had(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match=r"existing folder or a hub name.*put config\.json"):
        build_tokenizer(TextConfig(pretrained=str(tmp_path / "missing")), [])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"a folder with config\.json"):
        TextEncoder(TextConfig(pretrained=str(tmp_path / "empty")), vocab_size=8)
    with pytest.raises(HarnessError, match="at most 8 ids"):
        TextEncoder(TextConfig(pretrained=str(bert_folder)), vocab_size=9)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("models.text.hf_hub_download", unreachable)
    with pytest.raises(HarnessError, match="hf download bert-base-uncased"):
        build_tokenizer(TextConfig(), [])


# Messages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernels": []}, "non-empty list of odd"),
        ({"kernels": [1, 2]}, "odd positive"),
        ({"msrc_expansion": 0}, "msrc_expansion and arc_n"),
        ({"arc_n": 0}, "msrc_expansion and arc_n"),
        ({"noise_init_std": -1.0}, "noise_init_std"),
        ({"language_pathway": False}, "language_pathway: false needs fusion 'sum'"),
        ({"language_pathway": False, "fusion": "sum", "decoder_source": "fused"}, "decoder_source 'pwam'"),
        ({"backbone": {"pretrained": None, "embed_dim": 12, "heads": [1, 1, 1, 1]}}, "divisible by 8"),
        ({"backbone": {"pretrained": None, "embed_dim": 6, "heads": [1, 1, 1, 1]}, "noise": False}, "divisible by 4"),
        ({"backbone": {"heads": [3, 6, 12, 24]}}, "must divide the channels"),
        ({"backbone": {"drop_path": 1.0}}, "drop_path"),
        ({"backbone": {"window": 1}}, "window at least 2"),
        ({"text": {"hidden": 10, "heads": 3}}, "divisible by heads"),
        ({"text": {"max_tokens": 1}}, "max_tokens"),
        ({"text": {"dropout": 1.0}}, "dropout"),
        ({"text": {"trained_layers": -1}}, "trained_layers"),
    ],
    ids=str,
)
def test_values_that_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        resolve_config(MAFN, settings)


@pytest.mark.parametrize("settings", [{"fussion": "sum"}, {"backbone": {"depth": 1}}, {"text": {"layer": 1}}], ids=str)
def test_unknown_fields(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Unexpected keyword"):
        resolve_config(MAFN, settings)


def test_defaults_are_the_paper() -> None:
    config = MafnConfig()
    assert config.kernels == (1, 3, 5)
    assert config.backbone == SwinConfig(
        "swin_base_patch4_window12_384.ms_in22k", embed_dim=128, depths=DEPTHS, heads=(4, 8, 16, 32), window=12
    )
