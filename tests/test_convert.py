"""Published checkpoints become our weights, every tensor is accounted for, and what does not fit is refused."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from harness.cli import app
from harness.convert import build_model, convert_checkpoint, convert_state, read_checkpoint, read_names
from harness.errors import HarnessError, SpecError
from models.base import Inputs
from models.layers import published_names as names
from models.layers.lavt_family import LavtFamilyModel
from models.layers.published_family import known_table, match_by_order, placed
from tests.tiny_models import SWIN_BERT, build, make_batch

MODELS_HERE = ("lavt", "lgce", "mafn", "rmsin")
INPUTS = Inputs(image_size=64, modalities={"image": 3}, vocab_size=120)
TINY = {**SWIN_BERT, "guide_depths": [1, 3]}
CHANNELS_LAST_AXIS = ("f_query.0.weight", "f_key.0.weight", "f_value.0.weight", ".W.0.weight", "vis_project.0.weight")
CHANNELS_LAST_AXIS += ("project_mm.0.weight",)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def settings_of(name: str, **more: Any) -> dict[str, Any]:
    return {**(TINY if name == "lgce" else SWIN_BERT), **more}


def randomised(name: str, **more: Any) -> LavtFamilyModel:
    """A tiny model whose every number is drawn, buffers too."""
    model = build(name, settings_of(name, **more), INPUTS)
    assert isinstance(model, LavtFamilyModel)
    draws = torch.Generator().manual_seed(3)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=draws) * 0.2 + 0.1)
    return model.eval()


def places(name: str, model: LavtFamilyModel) -> dict[str, str]:
    """Published prefix -> our prefix, with made-up names for what the specification does not name."""
    table = {p: o for p, o in known_table(model.config).items() if o}
    block, ours = {"rmsin": (names.ARC, "1.0"), "mafn": (names.MSRC, "1")}.get(name, ({}, ""))
    for level, number in enumerate((4, 3, 2)):
        table |= placed(block, f"classifier.turned_{number}", f"decoder.levels.{level}.{ours}")
    if name == "lgce":
        guidance = {p: o for p, o in names.LANGUAGE_GUIDANCE.items() if o}
        table |= placed(guidance, "classifier.guide34", "refine")
        table |= {"classifier.to_c3": "refine.guides.0", "classifier.to_c4": "refine.guides.1"}
    return table


def publish(name: str, model: LavtFamilyModel) -> dict[str, Tensor]:
    """The model's state under published names, in published shapes, with tensors that have no influence."""
    back = {ours: theirs for theirs, ours in places(name, model).items()}
    state: dict[str, Tensor] = {}
    for ours, tensor in model.state_dict().items():
        prefix = ours
        while prefix and prefix not in back:
            prefix = prefix.rpartition(".")[0]
        leaf = ours.rpartition(".")[2]
        theirs = back[prefix] + ours[len(prefix) :] if prefix else f"backbone.cim.part{len(state)}.{leaf}"
        if ours.endswith(names.FIRST_ROW_ONLY):
            tensor = torch.stack([tensor, torch.full_like(tensor, 9.0)])
        if theirs.endswith(CHANNELS_LAST_AXIS):
            tensor = tensor[..., None]
        state[theirs] = tensor.clone()
    state["backbone.layers.3.res_gate.0.weight"] = torch.ones(64, 64)
    state["backbone.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    state["text_encoder.embeddings.position_ids"] = torch.arange(8)[None]
    return state


DEAD = {
    "backbone.layers.3.res_gate.0.weight",
    "backbone.layers.0.blocks.0.attn.relative_position_index",
    "text_encoder.embeddings.position_ids",
}


def convert(name: str, published: Mapping[str, Tensor], **more: Any) -> Any:
    settings = settings_of(name)
    model = build_model(name, settings, image_size=64)
    return convert_state(model, published, name=name, settings=settings, **more)


@pytest.mark.parametrize("name", MODELS_HERE)
def test_every_tensor_finds_its_place(name: str) -> None:
    source = randomised(name)
    found = convert(name, publish(name, source))
    account = found.account
    assert (account.missing, account.without_place) == ((), ())
    assert set(account.dead) == DEAD
    assert {*account.matched.values(), *account.dead} == publish(name, source).keys()
    assert set(account.shares.values()) == {1.0}
    expected = source.state_dict()
    assert found.state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.state.items())


def test_names_of_the_specification_go_where_they_belong() -> None:
    matched = convert("mafn", publish("mafn", randomised("mafn"))).account.matched
    expected = {
        "backbone.patch_embed.proj.weight": "backbone.patch_embed.proj.weight",
        "backbone.stages.2.blocks.1.attn.qkv.bias": "backbone.layers.2.blocks.1.attn.qkv.bias",
        "backbone.stages.0.merging.reduction.weight": "backbone.layers.0.downsample.reduction.weight",
        "backbone.stages.1.blocks.0.noise.key_offset": "backbone.layers.1.blocks.0.k_noise.weight",
        "backbone.stages.3.pwam.mix.weight": "backbone.layers.3.fusion.project_mm.0.weight",
        "backbone.stages.2.fusion.language_gate.outer.weight": "backbone.layers.2.res_gate.2.weight",
        "backbone.out_norms.3.bias": "backbone.norm3.bias",
        "decoder.levels.2.0.1.running_var": "classifier.bn1_2.running_var",
        "decoder.classify.weight": "classifier.conv1_1.weight",
        "text.bert.encoder.layer.0.attention.self.query.weight": (
            "text_encoder.encoder.layer.0.attention.self.query.weight"
        ),
    }
    assert {ours: matched[ours] for ours in expected} == expected


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("lavt", ()),
        ("rmsin", ("backbone.cim.", "decoder.levels.")),
        ("mafn", ("backbone.cim.", "decoder.levels.")),
        ("lgce", ("refine.",)),
    ],
)
def test_names_that_are_not_in_the_specification_are_flagged(name: str, prefixes: tuple[str, ...]) -> None:
    account = convert(name, publish(name, randomised(name))).account
    assert {next(p for p in prefixes if ours.startswith(p)) for ours in account.inferred} == set(prefixes)
    whole = [p for p in prefixes if p != "decoder.levels."]
    assert {n for n in account.matched if n.startswith(tuple(whole))} <= set(account.inferred)


def test_levels_are_told_apart_by_their_number_or_their_order() -> None:
    source = randomised("rmsin")
    published = publish("rmsin", source)
    turned = {n: t for n, t in published.items() if ".turned_" in n}
    upwards = {n: published[n] for n in sorted(published, key=lambda n: (n in turned, n))}
    by_order = {
        n.replace("turned_4", "a").replace("turned_3", "b").replace("turned_2", "c"): t for n, t in published.items()
    }
    for state in (upwards, by_order):
        found = convert("rmsin", {n: t for n, t in state.items() if "cim" not in n}).state
        for level in range(3):
            key = f"decoder.levels.{level}.1.0.weight"
            assert torch.equal(found[key], source.state_dict()[key])


def test_parts_of_lgce_without_influence_are_listed() -> None:
    source = randomised("lgce", lgce_exchange="effective")
    published = publish("lgce", source)
    other = {n.replace("guide34", "guide23"): t[: len(t) // 2] for n, t in published.items() if "guide34" in n}
    unused = {"classifier.to_c1.weight": torch.ones(8, 16), "classifier.to_c1.bias": torch.ones(8)}
    patches = {"classifier.guide34.patch_embed.0.proj.weight": torch.zeros(32, 3, 8, 8)}
    account = convert("lgce", {**published, **other, **unused, **patches}).account
    exchange = {n for n in published if any(part in n for part in (".projs.", ".fusion.0.0", ".fusion.1.0"))}
    exchange = {n for n in exchange if "guide34" in n} | {n for n in published if ".revert_projs." in n}
    assert set(account.dead) == DEAD | set(other) | set(unused) | set(patches) | exchange
    assert (account.missing, account.without_place) == ((), ())


def test_file_round_trip_gives_the_same_function(tmp_path: Path) -> None:
    source = randomised("rmsin")
    torch.save({"model": {f"module.{n}": t for n, t in publish("rmsin", source).items()}}, tmp_path / "rmsin.pth")
    overrides = [f"{part}={json.dumps(value)}" for part, value in SWIN_BERT.items()]
    account = convert_checkpoint(
        "rmsin", tmp_path / "rmsin.pth", tmp_path / "out" / "rmsin.pt", overrides=overrides, image_size=64
    )
    written = json.loads((tmp_path / "out" / "rmsin.json").read_text(encoding="utf-8"))
    assert written["matched"] == dict(account.matched)
    assert written["settings"]["backbone"]["embed_dim"] == 8
    loaded = build("rmsin", {"weights": str(tmp_path / "out" / "rmsin.pt")}, INPUTS).eval()
    batch = make_batch(2)
    with torch.no_grad():
        assert torch.equal(loaded(batch).logits, source(batch).logits)


def test_text_encoder_that_is_kept_apart_and_what_training_left_in_the_file(tmp_path: Path) -> None:
    published = publish("lavt", randomised("lavt"))
    text = {n.removeprefix("text_encoder."): t for n, t in published.items() if n.startswith("text_encoder.")}
    model = {n: t for n, t in published.items() if not n.startswith("text_encoder.")}
    rest = {"optimizer": {"state": {0: {"step": 3}}}, "epoch": 39, "args": argparse.Namespace(lr=5e-5)}
    torch.save({"model": model, "bert_model": text, **rest}, tmp_path / "apart.pth")
    torch.save({"model": model, "bert_model": text, **rest}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in ("apart.pth", "old.pth"):
        read = read_checkpoint(tmp_path / file)
        assert read.keys() == published.keys()
        assert convert("lavt", read).account.missing == ()


def test_extra_tensors_are_named() -> None:
    extra = {"classifier.novelty.weight": torch.ones(3), "strange": torch.ones(2)}
    account = convert("lavt", {**publish("lavt", randomised("lavt")), **extra}).account
    assert set(account.without_place) == set(extra)
    assert account.missing == ()
    assert 0.99 < account.shares["checkpoint"] < 1.0


def save_tiny(tmp_path: Path, published: Mapping[str, Tensor]) -> dict[str, Any]:
    torch.save(dict(published), tmp_path / "in.pth")
    overrides = [f"{part}={json.dumps(value)}" for part, value in SWIN_BERT.items()]
    return {"overrides": overrides, "image_size": 64}


def test_a_checkpoint_that_lacks_a_tenth_is_refused(tmp_path: Path) -> None:
    published = publish("lavt", randomised("lavt"))
    total, dropped = sum(t.numel() for t in published.values()), 0
    for name in [n for n in published if ".blocks." in n]:
        if dropped < 0.1 * total:
            dropped += published.pop(name).numel()
    with pytest.raises(HarnessError, match=r"at least 95% of every part must match; backbone: .* missing \(backbone"):
        convert_checkpoint("lavt", tmp_path / "in.pth", tmp_path / "x.pt", **save_tiny(tmp_path, published))
    assert not (tmp_path / "x.pt").exists()


def test_a_part_that_is_missing_is_refused_however_small_it_is(tmp_path: Path) -> None:
    published = {n: t for n, t in publish("rmsin", randomised("rmsin")).items() if "cim" not in n}
    with pytest.raises(HarnessError, match=r"cross-scale interaction: 0\.0% matched"):
        convert_checkpoint("rmsin", tmp_path / "in.pth", tmp_path / "x.pt", **save_tiny(tmp_path, published))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    published = publish("mafn", randomised("mafn"))
    with pytest.raises(HarnessError, match=r"checkpoint: .* matched; .* without a place \(backbone\.layers"):
        convert_checkpoint("lavt", tmp_path / "in.pth", tmp_path / "x.pt", **save_tiny(tmp_path, published))


def test_names_can_be_given(tmp_path: Path) -> None:
    source = randomised("rmsin")
    published = publish("rmsin", source)
    hidden = {n: t for n, t in published.items() if n.startswith("backbone.cim.")}
    found = convert(
        "rmsin", {**{n: t for n, t in published.items() if n not in hidden}, **dict(reversed(hidden.items()))}
    )
    assert found.account.shares["cross-scale interaction"] < 0.95
    ours = [n for n in source.state_dict() if n.startswith("backbone.cim.")]
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(dict(zip(hidden, ours, strict=True))), encoding="utf-8")
    found = convert("rmsin", published, names=read_names(tmp_path / "names.yaml"))
    assert found.account.shares["cross-scale interaction"] == 1.0
    assert not [n for n in found.account.inferred if n.startswith("backbone.cim.")]


def test_match_by_order_pairs_only_what_can_be_told_apart() -> None:
    a, b, c = torch.ones(2, 3), torch.ones(4), torch.ones(4)
    assert match_by_order({"x.weight": a, "y.bias": b}, {"p.weight": a, "q.bias": b}) == {
        "x.weight": "p.weight",
        "y.bias": "q.bias",
    }
    unequal = match_by_order({"y.bias": b, "z.bias": c, "x.weight": a}, {"p.weight": a, "q.bias": b, "r.bias": c})
    assert unequal == {"x.weight": "p.weight"}


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("run",)


def test_files_that_are_not_tensors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"x": Malicious()}}, tmp_path / "code.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for file in ("code.pth", "raw.pth"):
        with pytest.raises(HarnessError, match="without code; refused"):
            read_checkpoint(tmp_path / file)
    assert capsys.readouterr().out == ""
    for value, message in (([1], "holds a list"), ({"epoch": 3}, "holds none"), ({"model": 3}, "holds a int")):
        torch.save(value, tmp_path / "other.pth")
        with pytest.raises(HarnessError, match=message):
            read_checkpoint(tmp_path / "other.pth")
    with pytest.raises(HarnessError, match="is missing"):
        read_checkpoint(tmp_path / "absent.pth")


def test_weights_must_be_of_exactly_this_model(tmp_path: Path) -> None:
    state = randomised("lavt").state_dict()
    torch.save(state, tmp_path / "lavt.pt")
    with pytest.raises(HarnessError, match=r"exactly these settings.*Missing key"):
        build("rmsin", {"weights": str(tmp_path / "lavt.pt")}, INPUTS)
    with pytest.raises(HarnessError, match=r"lost\.pt is missing"):
        build("lavt", {"weights": str(tmp_path / "lost.pt")}, INPUTS)
    (tmp_path / "broken.pt").write_bytes(b"no tensors")
    with pytest.raises(HarnessError, match="readable file of tensors"):
        build("lavt", {"weights": str(tmp_path / "broken.pt")}, INPUTS)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(HarnessError, match="convert knows the published weights of lavt"):
        convert_checkpoint("cmpc", Path("in.pth"), Path("x.pt"))
    with pytest.raises(HarnessError, match="unknown model 'lavtt'; did you mean"):
        convert_checkpoint("lavtt", Path("in.pth"), Path("x.pt"))
    with pytest.raises(SpecError, match="kernel"):
        convert_checkpoint("mafn", Path("in.pth"), Path("x.pt"), overrides=["kernel=[1]"])


def test_command(tmp_path: Path) -> None:
    save_tiny(tmp_path, publish("lavt", randomised("lavt")))
    options = [f"--set={part}={json.dumps(value)}" for part, value in SWIN_BERT.items()]
    arguments = ["convert", "lavt", str(tmp_path / "in.pth"), str(tmp_path / "x.pt"), *options, "--image-size=64"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.pt").is_file()
