"""Checkpoints of the authors' published code, turned into weights of our models, with an account of every tensor.

Only tensors are read from a checkpoint (`weights_only`). A conversion that leaves more than 5 % of any part of the
model without a published tensor, or of the checkpoint without a place, is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from harness.checkpoint import save_atomic
from harness.errors import HarnessError
from harness.overrides import apply_override
from harness.spec_errors import problems
from harness.yaml_lines import Document, read_document
from models.base import MODELS, Inputs, resolve_config
from models.layers.lavt_family import LavtFamilyConfig, LavtFamilyModel
from models.layers.published_family import inferred_table, known_table, match_by_order, shape_of, unused_guides
from models.layers.published_names import as_built, our_name

CONVERTIBLE = ("lavt", "lgce", "mafn", "rmsin")
MIN_SHARE = 0.95
MAX_NAMED = 8

# Title and prefix of our names; the first that fits counts.
PARTS = (
    ("cross-scale interaction", "backbone.cim."),
    ("backbone", "backbone."),
    ("language guidance", "refine."),
    ("decoder", "decoder."),
    ("text encoder", "text."),
)
# Prefixes, theirs and ours, of what has no known name and is paired by order and shape.
LEFTOVERS = (("backbone.cim.", "backbone.cim."), ("classifier.", "refine.guides."))


@dataclass(frozen=True)
class Account:
    """What became of every tensor."""

    model: str
    settings: Mapping[str, Any]
    """What was asked for beside the model's defaults."""
    matched: Mapping[str, str]
    """Our name -> published name."""
    inferred: tuple[str, ...]
    """Those of our names whose published name is not known and was found by place, order or shape."""
    dead: tuple[str, ...]
    """Published names of tensors that cannot influence the output, or follow from others, and are not built here."""
    without_place: tuple[str, ...]
    """Published names that have no place in this model."""
    missing: tuple[str, ...]
    """Our names without a published tensor; they keep their initial values."""
    shares: Mapping[str, float]
    """Part of the model, or `checkpoint` -> share of its numbers that is matched, 0 to 1."""


class Conversion(NamedTuple):
    """Weights in our names and shapes, and how they came about."""

    state: dict[str, Tensor]
    account: Account


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a published checkpoint under their published names.

    A checkpoint is a state dict, or holds one under `model` or `state_dict`; a text encoder that is kept apart under
    `bert_model` is put under `text_encoder`. Optimizer, schedule and the command line that it may hold are left aside.

    Raises:
        HarnessError: No such file, or one with anything but tensors and plain values.
    """
    if not path.is_file():
        raise HarnessError(f"the checkpoint must be an existing file; {path} is missing")
    try:
        # A command line is kept by many training scripts as a Namespace: plain values under names.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise HarnessError(
            f"the checkpoint must be a file of tensors without code; refused {path}: {reason}"
        ) from error
    if not isinstance(content, Mapping):
        raise HarnessError(f"the checkpoint must hold named tensors; {path} holds a {type(content).__name__}")
    state = content.get("model", content.get("state_dict", content))
    text = content.get("bert_model", {})
    for part in (state, text):
        if not isinstance(part, Mapping):
            raise HarnessError(f"the checkpoint must hold named tensors; {path} holds a {type(part).__name__}")
    named = {**state, **{f"text_encoder.{str(name).removeprefix('module.')}": tensor for name, tensor in text.items()}}
    found = {str(name).removeprefix("module."): t for name, t in named.items() if isinstance(t, Tensor)}
    if not found:
        raise HarnessError(f"the checkpoint must hold named tensors; {path} holds none")
    return found


def resolve_settings(model: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Settings as a study would write them, from `path=value` texts."""
    document = Document("settings")
    for text in overrides:
        apply_override(document, text, os.environ)
    config_class = MODELS.get(model).Config
    try:
        resolve_config(MODELS.get(model), document.value)
    except ValidationError as error:
        raise document.first_error(problems(error, config_class)) from None
    settings: dict[str, Any] = document.value
    return settings


def read_names(path: Path) -> dict[str, str]:
    """Published prefix -> our prefix from a YAML file.

    Raises:
        HarnessError: Not a readable mapping of text to text.
    """
    document = read_document(path, os.environ)
    if not all(isinstance(ours, str) for ours in document.value.values()):
        raise HarnessError(f"--names must map published prefixes to our prefixes, as text; received {path}")
    return dict(document.value)


def build_model(name: str, settings: Mapping[str, Any], *, image_size: int = 480) -> LavtFamilyModel:
    """The model to fill, with random weights and without reading pretrained ones.

    Raises:
        HarnessError: No checkpoints of this model can be converted.
    """
    if name not in CONVERTIBLE:
        MODELS.get(name)
        raise HarnessError(f"convert knows the published weights of {', '.join(CONVERTIBLE)}; received {name!r}")
    values = {**settings, "weights": None}
    for part in ("backbone", "text"):
        values[part] = {**settings.get(part, {}), "pretrained": None}
    model_class: Any = MODELS.get(name)
    config = resolve_config(model_class, values)
    inputs = Inputs(image_size=image_size, modalities={"image": 3}, vocab_size=config.text.vocab_size)
    torch.manual_seed(0)
    model: LavtFamilyModel = model_class(config, inputs)
    return model


def convert_state(
    model: LavtFamilyModel,
    published: Mapping[str, Tensor],
    *,
    name: str,
    settings: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
) -> Conversion:
    """Match a published state with a model's.

    Args:
        model: Gives configuration, names and shapes.
        published: Published name -> tensor.
        name: Of the model.
        settings: What is noted in the account.
        names: Published prefix -> our prefix, for names that are not known here; taken before all others.

    Returns:
        The matched tensors and the account; nothing is refused here.
    """
    config: LavtFamilyConfig = model.config
    targets = model.state_dict()
    guessed = inferred_table(config, published)
    given = names or {}
    table = {**known_table(config), **guessed, **given}
    places = {theirs: our_name(theirs, table) for theirs in published}
    matched = {
        ours: theirs
        for theirs, ours in places.items()
        if ours in targets and shape_of(ours, as_built(ours, published[theirs])) == shape_of(ours, targets[ours])
    }
    inferred = [
        ours for ours, theirs in matched.items() if our_name(theirs, guessed) and our_name(theirs, given) is None
    ]
    unknown = {theirs: published[theirs] for theirs, ours in places.items() if ours is None}
    unused = unused_guides(config, published) & unknown.keys()
    for their_prefix, our_prefix in LEFTOVERS:
        pairs = match_by_order(
            {n: t for n, t in unknown.items() if n.startswith(their_prefix) and n not in unused},
            {n: t for n, t in targets.items() if n.startswith(our_prefix) and n not in matched},
        )
        matched |= {ours: theirs for theirs, ours in pairs.items()}
        inferred += pairs.values()
    dead = tuple(theirs for theirs, ours in places.items() if ours == "" or theirs in unused)
    accounted = {*matched.values(), *dead}
    without_place = tuple(n for n in published if n not in accounted)
    account = Account(
        model=name,
        settings=dict(settings),
        matched={ours: matched[ours] for ours in targets if ours in matched},
        inferred=tuple(inferred),
        dead=dead,
        without_place=without_place,
        missing=tuple(n for n in targets if n not in matched),
        shares=_shares(targets, matched, (published[n] for n in without_place)),
    )
    state = {o: as_built(o, published[n]).reshape(targets[o].shape) for o, n in account.matched.items()}
    return Conversion(state, account)


def _shares(
    targets: Mapping[str, Tensor], matched: Mapping[str, str], without_place: Iterable[Tensor]
) -> dict[str, float]:
    counts: dict[str, list[int]] = {}
    for name, tensor in targets.items():
        part = next(title for title, prefix in PARTS if name.startswith(prefix))
        count = counts.setdefault(part, [0, 0])
        count[0] += tensor.numel() if name in matched else 0
        count[1] += tensor.numel()
    placed = sum(done for done, _ in counts.values())
    homeless = sum(tensor.numel() for tensor in without_place)
    shares = {part: done / whole for part, (done, whole) in counts.items()}
    return {**shares, "checkpoint": placed / max(placed + homeless, 1)}


def require_enough(account: Account) -> None:
    """Raise HarnessError if less than 95 % of a part of the model, or of the checkpoint, is matched."""
    part, share = min(account.shares.items(), key=lambda item: item[1])
    if share < MIN_SHARE:
        raise HarnessError(
            f"at least {MIN_SHARE:.0%} of every part must match; {part}: {share:.1%} matched; "
            f"{_named('missing', account.missing)}; {_named('without a place', account.without_place)}; check that the "
            f"checkpoint is of {account.model} with these settings (--set), or give names that are not known (--names)"
        )


def _named(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:MAX_NAMED])}{more})" if names else "")


def account_lines(account: Account) -> list[str]:
    """What `harness convert` prints."""
    shares = ", ".join(f"{part} {share:.1%}" for part, share in account.shares.items())
    return [
        f"{account.model}: {len(account.matched)} tensors matched ({shares})",
        f"  {_named('of them inferred by place, order or shape', account.inferred)}",
        f"  {_named('not built here, without influence', account.dead)}",
        f"  {_named('without a place here', account.without_place)}",
        f"  {_named('missing, with their initial values', account.missing)}",
    ]


def convert_checkpoint(
    name: str,
    checkpoint: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    image_size: int = 480,
) -> Account:
    """Convert a published checkpoint: weights into `out`, the account beside it as JSON.

    Args:
        name: Model.
        checkpoint: Published file.
        out: File to write; the study option `weights` reads it.
        overrides: `path=value` settings of the model, where the checkpoint is not of its defaults.
        names: Published prefix -> our prefix, for names that are not known here.
        image_size: Side in pixels of the images the checkpoint was made for.

    Raises:
        HarnessError: The checkpoint cannot be read or does not fit.
    """
    settings = resolve_settings(name, overrides)
    model = build_model(name, settings, image_size=image_size)
    conversion = convert_state(model, read_checkpoint(checkpoint), name=name, settings=settings, names=names)
    account = conversion.account
    require_enough(account)
    model.load_state_dict(conversion.state, strict=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_atomic(model.state_dict(), out)
    out.with_suffix(".json").write_text(json.dumps(vars(account), indent=1) + "\n", encoding="utf-8")
    return account
