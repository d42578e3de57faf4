"""Names of whole published models of the LAVT family, and where their weights live here.

What is known are the names of the blocks and of their places in the backbone. The rest is found in the checkpoint and
counts as inferred: where the rotated convolutions and LGCE's modules hang (by the names inside them), and what is left
over (by order and shape). Weights that cannot influence the output are not built here and map to an empty name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from models.layers import published_names as names
from models.layers.lavt_family import LavtFamilyConfig

_LAST_STAGE = 3
_TEXT = {"text_encoder": "text.bert", "text_encoder.embeddings.position_ids": "", "text_encoder.pooler": ""}
_MARKERS = {"arc": "rounting_func.dwc.weight", "msrc": "msdc.dwconvs.0.0.weight"}
_GUIDANCE_MARKER = "msb.blocks.0.0.norm1.weight"


class Shape(NamedTuple):
    """What a weight looks like: axes of length 1 do not count, 1x1 convolutions being matrices here."""

    leaf: str
    """Last part of its name."""
    sizes: tuple[int, ...]


def shape_of(name: str, tensor: Tensor) -> Shape:
    """The shape of a named weight."""
    return Shape(name.rpartition(".")[2], tuple(size for size in tensor.shape if size != 1))


def placed(table: Mapping[str, str], published: str, ours: str) -> dict[str, str]:
    """A block's table for the block at these two places; empty names stay empty."""
    return {f"{published}.{p}": f"{ours}.{o}" if o else "" for p, o in table.items()}


def stage_table(config: LavtFamilyConfig, stage: int) -> dict[str, str]:
    """Names of one stage of the backbone."""
    published, ours = f"backbone.layers.{stage}", f"backbone.stages.{stage}"
    table: dict[str, str] = {}
    for j in range(config.backbone.depths[stage]):
        table |= placed(names.SWIN_BLOCK, f"{published}.blocks.{j}", f"{ours}.blocks.{j}")
    table |= placed(names.PWAM, f"{published}.fusion", f"{ours}.pwam")
    table |= placed(names.PATCH_MERGING, f"{published}.downsample", f"{ours}.merging")
    unread = stage == _LAST_STAGE and config.decoder_source == "pwam"
    for block, place, target in (
        (names.GATE, "res_gate", "language_gate"),
        (names.VISUAL_BRANCH, "visual_residual", "visual_branch"),
        (names.GATE, "visual_gate", "visual_gate"),
        (names.CORRELATION_FUSION, "corr", "correlation"),
    ):
        found = placed(block, f"{published}.{place}", f"{ours}.fusion.{target}")
        table |= dict.fromkeys(found, "") if unread else found
    return table


def known_table(config: LavtFamilyConfig) -> dict[str, str]:
    """Published prefix -> our prefix, as far as the published names are known."""
    table = {"backbone.patch_embed": "backbone.patch_embed", **_TEXT}
    for stage in range(_LAST_STAGE + 1):
        table |= stage_table(config, stage)
        table[f"backbone.norm{stage}"] = f"backbone.out_norms.{stage}"
    decoder = names.PLAIN_DECODER
    if config.decoder == "arc":
        decoder = {p: o for p, o in decoder.items() if not p.startswith("conv2_")}
    if config.decoder == "msrc":
        decoder = {p: o for p, o in decoder.items() if not p.startswith(("conv2_", "bn2_"))}
    return table | placed(decoder, "classifier", "decoder")


def inferred_table(config: LavtFamilyConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Published prefix -> our prefix for blocks whose place in the checkpoint is found by the names inside them."""
    table: dict[str, str] = {}
    if config.decoder == "arc":
        block, ours = names.ARC, "1.0"
    else:
        block, ours = (names.MSRC if config.num_arc_passes else names.MSRC_WITHOUT_ARC), "1"
    marker = _MARKERS.get(config.decoder)
    for level, place in enumerate(_places(state, marker, key=_deepest_first) if marker else ()):
        table |= placed(block, place, f"decoder.levels.{level}.{ours}")
    return table | _guidance_table(config, state)


def _places(state: Iterable[str], marker: str, *, key: Callable[[str], int]) -> list[str]:
    found = [name.removesuffix(f".{marker}") for name in state if name.endswith(f".{marker}")]
    return sorted((place for place in found if place.startswith("classifier.")), key=key)


def _deepest_first(place: str) -> int:
    """Levels are numbered 4, 3, 2; places without a number keep the checkpoint's order."""
    return -int(place[-1]) if place[-1].isdigit() else 0


def _guidance_table(config: LavtFamilyConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """The module of stages 3 and 4; modules of other levels, which the published forward pass leaves out, are dead."""
    if not getattr(config, "language_guidance", False):
        return {}
    exchanged = getattr(config, "lgce_exchange", "code") == "effective"
    block = names.LANGUAGE_GUIDANCE if exchanged else names.LANGUAGE_GUIDANCE_WITHOUT_EXCHANGE
    width = config.backbone.widths[2]
    table: dict[str, str] = {}
    for place in _places(state, _GUIDANCE_MARKER, key=lambda _: 0):
        here = placed(block, place, "refine")
        is_ours = state[f"{place}.{_GUIDANCE_MARKER}"].shape[0] == width
        table |= here if is_ours else {place: ""}
    return table


def unused_guides(config: LavtFamilyConfig, state: Mapping[str, Tensor]) -> set[str]:
    """Of unknown weights of LGCE, those that make sentence tokens for levels that do not use them."""
    if not getattr(config, "language_guidance", False):
        return set()
    word_widths = {t.shape[1] for n, t in state.items() if n.endswith("image_lang_att.f_key.0.weight")}
    unused = config.backbone.widths[:2]
    layers = {
        name.removesuffix(".weight")
        for name, tensor in state.items()
        if name.startswith("classifier.")
        and name.endswith(".weight")
        and tensor.dim() == 2
        and tensor.shape[0] in unused
        and tensor.shape[1] in word_widths
    }
    return {name for name in state if name.rpartition(".")[0] in layers}


def match_by_order(published: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Pair weights of two statements of one module whose names share nothing.

    All are paired in order if the shapes agree one after the other; otherwise only those whose shape occurs once on
    both sides. Weights of equal shape that stand side by side in another order cannot be told apart.

    Returns:
        Published name -> our name.
    """
    theirs = {name: shape_of(name, tensor) for name, tensor in published.items()}
    mine = {name: shape_of(name, tensor) for name, tensor in ours.items()}
    if list(theirs.values()) == list(mine.values()):
        return dict(zip(theirs, mine, strict=True))
    once = {shape: name for name, shape in mine.items() if Counter(mine.values())[shape] == 1}
    counts = Counter(theirs.values())
    return {name: once[shape] for name, shape in theirs.items() if shape in once and counts[shape] == 1}
