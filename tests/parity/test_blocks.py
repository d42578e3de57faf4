"""Every building block computes what the published implementation computes, on stored tensors.

The tolerances are those of the reference tensors' description: 1e-5 on outputs and 2e-5 on gradients, 2e-5 and 5e-5
for pixel-word attention, whose two instance norms amplify rounding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.layers import published_names as names
from models.layers.arc import AdaptiveRotatedConv, rotation_matrices
from models.layers.correlation import CorrelationFusion, correlate
from models.layers.decoder import Decoder, DecoderConfig
from models.layers.lgce import LanguageGuidance, LanguageGuidanceConfig
from models.layers.msrc import MsrcConfig, MultiScaleRotatedConv
from models.layers.noise import AdaptiveNoise
from models.layers.pointwise import Gate
from models.layers.pwam import PixelWordAttention
from models.layers.swin import PatchMerging, SwinBlock, WindowAttention, relative_position_index, shift_mask
from models.layers.visual_branch import VisualBranch

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "parity"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no reference tensors in ../shared/data/parity")


class Reference(NamedTuple):
    """One file of reference tensors."""

    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    middle: dict[str, Tensor]
    seeds: dict[str, Tensor]
    gradients: dict[str, Tensor]
    config: dict[str, Any]


def read(name: str) -> Reference:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        parts: dict[str, dict[str, Tensor]] = {}
        for key in file.files:
            if key != "meta/config":
                kind, _, entry = key.partition("/")
                parts.setdefault(kind, {})[entry] = torch.from_numpy(file[key])
        config = json.loads(str(file["meta/config"]))
    wanted = ("state", "in", "out", "mid", "gradseed", "grad")
    return Reference(*(parts.get(kind, {}) for kind in wanted), config=config)


def fill(block: nn.Module, reference: Reference, table: Mapping[str, str]) -> tuple[str, ...]:
    """Copy the published state into `block`, all of it; return the published names that have no place here."""
    renamed = names.rename(reference.state, table)
    assert renamed.unknown == ()
    block.load_state_dict(names.reshape_like(renamed.state, block.state_dict()), strict=True)
    block.eval()
    return renamed.not_built


def check(
    reference: Reference,
    call: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    *,
    out: float = 1e-5,
    grad: float = 2e-5,
    skip: Mapping[str, Tensor] | None = None,
) -> None:
    """Compare outputs and, after one backward pass over all of them, gradients; `skip` marks entries to leave out."""
    inputs = {k: v.clone().requires_grad_(k in reference.gradients) for k, v in reference.inputs.items()}
    outputs = call(inputs)
    assert outputs.keys() == reference.outputs.keys()
    for name, expected in reference.outputs.items():
        torch.testing.assert_close(outputs[name], expected, atol=out, rtol=0.0)
    torch.stack([(outputs[name] * seed).sum() for name, seed in reference.seeds.items()]).sum().backward()
    for name, expected in reference.gradients.items():
        actual = inputs[name].grad
        assert actual is not None
        kept = torch.ones_like(expected, dtype=torch.bool) if skip is None or name not in skip else ~skip[name]
        torch.testing.assert_close(actual[kept], expected[kept], atol=grad, rtol=0.0)


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.view(len(tokens), height, width, -1)


def test_pwam() -> None:
    reference = read("pwam")
    block = PixelWordAttention(16, text_width=768)
    assert fill(block, reference, names.PWAM) == ()
    check(
        reference,
        lambda t: {"y": block(t["x"], t["l"].transpose(1, 2), t["l_mask"][..., 0])},
        out=2e-5,
        grad=5e-5,
    )


def test_language_gate() -> None:
    reference = read("language_gate")
    block = Gate(16)
    assert fill(block, reference, names.GATE) == ()
    check(reference, lambda t: {"gated": block(t["z"])})


def test_visual_branch() -> None:
    reference = read("visual_branch")
    block = VisualBranch()
    assert fill(block, reference, names.VISUAL_BRANCH) == ()
    weights = block.weight_map(as_map(reference.inputs["x"], 9, 9))[..., 0]
    torch.testing.assert_close(weights, reference.middle["weight_map"][:, 0], atol=1e-5, rtol=0.0)
    check(reference, lambda t: {"y": block(as_map(t["x"], 9, 9)).flatten(1, 2)})


def test_adaptive_noise_block() -> None:
    reference = read("adaptive_noise_block")
    noise = AdaptiveNoise(32, init_std=1.0, scope="pixel", window=4)
    block = SwinBlock(WindowAttention(32, heads=4, window=4, shift=0), drop_path=0.0, noise=noise)
    assert fill(block, reference, names.SWIN_BLOCK) == ("attn.relative_position_index",)
    assert torch.equal(reference.state["attn.relative_position_index"], relative_position_index(4))
    window_attention = reference.middle["window_attention"]
    torch.testing.assert_close(
        noise.channel_scores(window_attention), reference.middle["channel_scores"], atol=1e-5, rtol=0.0
    )
    torch.testing.assert_close(
        noise(as_map(window_attention, 8, 12)).flatten(1, 2), reference.middle["after_noise"], atol=1e-5, rtol=0.0
    )
    check(reference, lambda t: {"y": block(as_map(t["x"], 8, 12)).flatten(1, 2)})


def test_swin_block_shifted_padded() -> None:
    reference = read("swin_block_shifted_padded")
    block = SwinBlock(WindowAttention(32, heads=4, window=4, shift=2), drop_path=0.0)
    assert fill(block, reference, names.SWIN_BLOCK) == ("attn.relative_position_index",)
    mask = shift_mask(12, 12, window=4, shift=2, device=torch.device("cpu"))
    assert torch.equal(mask, reference.inputs["attn_mask"])
    check(reference, lambda t: {"y": block(as_map(t["x"], 9, 11)).flatten(1, 2)})


def test_patch_merging_odd() -> None:
    reference = read("patch_merging_odd")
    block = PatchMerging(16)
    assert fill(block, reference, names.PATCH_MERGING) == ()
    sizes = reference.config["sizes"]
    check(
        reference,
        lambda t: {f"y{i}": block(as_map(t[f"x{i}"], *size)).flatten(1, 2) for i, size in enumerate(sizes)},
    )


def test_correlation_fusion() -> None:
    reference = read("correlation_fusion")
    block = CorrelationFusion(16)
    assert fill(block, reference, names.CORRELATION_FUSION) == ()
    visual, language = (as_map(reference.inputs[k], 8, 8) for k in ("x_1", "x_2"))
    correlation = correlate(visual, language).permute(0, 3, 1, 2)
    torch.testing.assert_close(correlation, reference.middle["correlation"], atol=1e-5, rtol=0.0)
    conv = reference.middle["conv"].permute(0, 2, 3, 1)
    torch.testing.assert_close(block.multi_window(conv), reference.middle["multi_window"], atol=1e-5, rtol=0.0)
    torch.testing.assert_close(
        block.intensify(reference.middle["multi_window"]), reference.middle["intensified"], atol=1e-5, rtol=0.0
    )
    check(reference, lambda t: {"y": block(as_map(t["x_1"], 8, 8), as_map(t["x_2"], 8, 8)).flatten(1, 2)})


@pytest.mark.parametrize(("name", "out_channels", "num_kernels"), [("arc_conv", 16, 1), ("arc_conv_n3", 24, 3)])
def test_arc(name: str, out_channels: int, num_kernels: int) -> None:
    reference = read(name)
    block = AdaptiveRotatedConv(16, out_channels, num_kernels=num_kernels)
    assert fill(block, reference, names.ARC) == ()
    weights, angles = block.routing(reference.inputs["x"])
    torch.testing.assert_close(weights, reference.middle["lambda"], atol=1e-5, rtol=0.0)
    torch.testing.assert_close(angles, reference.middle["theta"], atol=1e-5, rtol=0.0)
    if "rotated_weight" in reference.middle:
        kernels = block.kernels(reference.inputs["x"])
        torch.testing.assert_close(kernels, reference.middle["rotated_weight"], atol=1e-5, rtol=0.0)
    check(reference, lambda t: {"y": block(t["x"])})


def test_rotation_alone() -> None:
    reference = read("arc_rotate_only")
    # the gradient for exactly 0 degrees is one-sided
    check(
        reference,
        lambda t: {"rotated": (rotation_matrices(t["theta"]) @ t["kernel"].flatten()).view(-1, 3, 3)},
        skip={"theta": reference.inputs["theta"] == 0.0},
    )


def test_msrc() -> None:
    reference = read("msrc_k135")
    block = MultiScaleRotatedConv(16, MsrcConfig(kernels=(1, 3, 5)))
    assert fill(block, reference, names.MSRC) == ()
    check(reference, lambda t: {"y": block(t["x"])})


def test_msrc_of_one_kernel_builds_no_rotated_convolution() -> None:
    reference = read("msrc_k1")
    block = MultiScaleRotatedConv(16, MsrcConfig(kernels=(1,)))
    not_built = fill(block, reference, names.MSRC_WITHOUT_ARC)
    assert set(not_built) == {k for k in reference.state if k.startswith("msdc.conv2_3.")}
    check(reference, lambda t: {"y": block(t["x"])})


def test_plain_decoder() -> None:
    reference = read("decoder_plain")
    block = Decoder(DecoderConfig(decoder="plain"), widths=(4, 8, 16, 32), num_classes=2)
    assert fill(block, reference, names.PLAIN_DECODER) == ()
    check(reference, lambda t: {"logits": block([t["c1"], t["c2"], t["c3"], t["c4"]])})


def test_language_guidance() -> None:
    reference = read("lgce_msb")
    block = LanguageGuidance(LanguageGuidanceConfig(lgce_exchange="effective"), widths=(16, 32), text_width=4)
    # the linear layers that make the tokens are not part of the published module
    state = {**reference.state, **{f"guides.{n}": t for n, t in block.guides.state_dict().items()}}
    not_built = fill(block, reference._replace(state=state), {**names.LANGUAGE_GUIDANCE, "guides": "guides"})
    assert set(not_built) == {k for k in reference.state if k.startswith("patch_embed.")}

    def attend(t: dict[str, Tensor]) -> list[Tensor]:
        return block.attend([t["guide_0"], t["guide_1"]], [t["x_0"], t["x_1"]])

    # the published order: attention, then the exchange, whose result nothing reads
    attended = attend(reference.inputs)
    exchanged = block.exchange([y[:, :1] for y in attended], [y[:, 1:] for y in attended])
    for level, guide in enumerate(exchanged):
        torch.testing.assert_close(guide, reference.middle[f"guide_{level}"], atol=1e-5, rtol=0.0)
    check(reference, lambda t: {f"patches_{i}": y[:, 1:] for i, y in enumerate(attend(t))})
