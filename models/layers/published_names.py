"""Names of the published implementations' weights and where they live here, block by block.

One table per block: published prefix -> our prefix. An empty prefix on our side marks weights that have no influence
on any output and are not built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

SWIN_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "attn.relative_position_bias_table": "attn.relative_position_bias_table",
    "attn.relative_position_index": "",
    "norm2": "norm2",
    "mlp": "mlp",
    "cross_attn_0_to_1.in_proj_weight": "noise.in_proj_weight",
    "cross_attn_0_to_1.in_proj_bias": "noise.in_proj_bias",
    "cross_attn_0_to_1.out_proj": "noise.out_proj",
    "relation_judger.0.fc1": "noise.score_inner",
    "relation_judger.0.fc2": "noise.score_outer",
    "k_noise.weight": "noise.key_offset",
    "v_noise.weight": "noise.value_offset",
}
PATCH_MERGING = {"norm": "norm", "reduction": "reduction"}
PWAM = {
    "vis_project.0": "visual",
    "image_lang_att.f_query.0": "query",
    "image_lang_att.f_key.0": "key",
    "image_lang_att.f_value.0": "value",
    "image_lang_att.W.0": "read",
    "project_mm.0": "mix",
}
GATE = {"0": "inner", "2": "outer"}
VISUAL_BRANCH = {
    f"repblock.{published}{suffix}{part}": f"{ours}.{target}"
    for suffix, ours in (("", "first"), ("_2", "second"))
    for published, part, target in (
        ("brb_1x1", ".conv", "point.0"),
        ("brb_1x1", ".bn", "point.1"),
        ("brb_3x3", ".conv1", "wide.0"),
        ("brb_3x3", ".bn1", "wide.1"),
        ("brb_3x3", ".conv2", "wide.2"),
        ("brb_3x3", ".bn2", "wide.3"),
        ("brb_identity", "", "identity"),
    )
}
CORRELATION_FUSION = {
    "Conv": "conv",
    "mlpLayer.LayerNorm": "multi_window.norm",
    **{
        f"mlpLayer.WinGmlpLayer_{i + 1}.{published}": f"multi_window.branches.{i}.{ours}"
        for i in range(3)
        for published, ours in (
            ("LayerNorm", "norm"),
            ("in_project", "expand"),
            ("SpatialGatingUnit.Dense_0", "gate"),
            ("SpatialGatingUnit.LayerNorm", "gate_norm"),
            ("out_project", "contract"),
        )
    },
    "mlpLayer.reweight.fc1": "multi_window.weigh_inner",
    "mlpLayer.reweight.fc2": "multi_window.weigh_outer",
    "mlpLayer.out_project": "multi_window.project",
    "channel_intensification_block.LayerNorm": "intensify.norm",
    "channel_intensification_block.conv1": "intensify.conv1",
    "channel_intensification_block.conv2": "intensify.conv2",
    "channel_intensification_block.channel_attention.Conv_0": "intensify.squeeze",
    "channel_intensification_block.channel_attention.Conv_1": "intensify.excite",
}
ARC = {
    "weight": "weight",
    "rounting_func.dwc": "routing.depthwise",
    "rounting_func.norm.norm": "routing.norm",
    "rounting_func.fc_alpha": "routing.weight",
    "rounting_func.fc_theta": "routing.angle",
}
MSRC = {
    "pconv1.0": "enter.0",
    "pconv1.1": "enter.1",
    "msdc.dwconvs": "scales",
    **{f"msdc.conv2_3.{published}": f"arcs.0.{ours}" for published, ours in ARC.items()},
    "pconv2.0": "leave.0",
    "pconv2.1": "leave.1",
}
MSRC_WITHOUT_ARC = {**MSRC, **{f"msdc.conv2_3.{published}": "" for published in ARC}}
PLAIN_DECODER = {
    **{
        f"{published}{4 - i}": f"levels.{i}.{ours}"
        for i in range(3)
        for published, ours in (("conv1_", "0.0"), ("bn1_", "0.1"), ("conv2_", "1.0"), ("bn2_", "1.1"))
    },
    "conv1_1": "classify",
}
_TOKEN_BLOCK = {
    "norm1": "norm1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_GUIDE_EXCHANGE = {
    "projs.{}": "enter",
    "fusion.{}.0.norm1": "norm",
    "fusion.{}.0.attn.wq": "query",
    "fusion.{}.0.attn.wk": "key",
    "fusion.{}.0.attn.wv": "value",
    "fusion.{}.0.attn.proj": "proj",
    "revert_projs.{}": "leave",
}
LANGUAGE_GUIDANCE = {
    **{
        f"msb.blocks.{level}.{j}.{published}": f"blocks.{level}.{j}.{ours}"
        for level, depth in enumerate((1, 3))
        for j in range(depth)
        for published, ours in _TOKEN_BLOCK.items()
    },
    **{
        f"msb.{published.format(level)}": f"exchanges.{level}.{ours}"
        for level in range(2)
        for published, ours in _GUIDE_EXCHANGE.items()
    },
    "patch_embed": "",
}
LANGUAGE_GUIDANCE_WITHOUT_EXCHANGE = {
    published: "" if ours.startswith("exchanges.") else ours for published, ours in LANGUAGE_GUIDANCE.items()
}
FIRST_ROW_ONLY = ("noise.key_offset", "noise.value_offset")
"""Ends of the names of tables of which the published code reads row 0 only, and which are vectors here."""


class Renamed(NamedTuple):
    """A published state under our names."""

    state: dict[str, Tensor]
    """Our name -> tensor, not yet in our shape."""
    not_built: tuple[str, ...]
    """Published names of weights that are not built here."""
    unknown: tuple[str, ...]
    """Published names that no table entry covers."""


def our_name(published: str, table: Mapping[str, str]) -> str | None:
    """Our name of a published weight by the longest prefix that `table` has; empty if not built, None if unknown."""
    prefix = published
    while prefix and prefix not in table:
        prefix = prefix.rpartition(".")[0]
    if not prefix:
        return None
    return table[prefix] + published[len(prefix) :] if table[prefix] else ""


def as_built(ours: str, tensor: Tensor) -> Tensor:
    """What of a published tensor is built here under the name `ours`."""
    return tensor[0] if ours.endswith(FIRST_ROW_ONLY) else tensor


def rename(published: Mapping[str, Tensor], table: Mapping[str, str]) -> Renamed:
    """Rename a published state by the longest prefix of `table` that matches.

    Args:
        published: Published name -> tensor.
        table: Published prefix -> our prefix; prefixes end where a name's dot is.
    """
    places = {name: our_name(name, table) for name in published}
    return Renamed(
        {ours: as_built(ours, published[name]) for name, ours in places.items() if ours},
        tuple(name for name, ours in places.items() if ours == ""),
        tuple(name for name, ours in places.items() if ours is None),
    )


def reshape_like(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the shapes of `target`: 1x1 convolutions are matrices here."""
    return {name: tensor.reshape(target[name].shape) if name in target else tensor for name, tensor in state.items()}
