"""Training speed and peak memory of every referring model on a GPU, in four settings, as a Markdown table.

    python -m benchmarks.gpu                         # 480 x 480, batch 8, full sizes, random weights
    python -m benchmarks.gpu --device cpu --tiny     # does it run? the figures mean nothing

A step is forward, cross entropy and backward in training mode, without optimiser and data. Settings: 32 bits, bfloat16
autocast, that with channels-last weights and images, that with `torch.compile`; compilation is not timed, it happens in
the steps before. A setting that fails is named in the table with its reason. Without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import MODELS, Inputs, ModelOutput, SegmentationModel, resolve_config
from models.layers.stochastic import seed_model_noise
from tests.tiny_models import INPUTS, TINY, make_batch

SIZE, TOKENS, WARM_UP = 480, 20, 3


class Setting(NamedTuple):
    """How a step is computed."""

    name: str
    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False


class Figure(NamedTuple):
    """What a setting reached."""

    samples_per_s: float
    peak_gib: float
    """0 where the device is a CPU."""


SETTINGS = (
    Setting("fp32"),
    Setting("bf16", bf16=True),
    Setting("bf16, channels last", bf16=True, channels_last=True),
    Setting("bf16, compiled", bf16=True, compiled=True),
)


def referring_models() -> list[str]:
    """Names of all registered models of that task."""
    return [name for name in MODELS.names() if MODELS.get(name).info.task == "referring"]


def build(name: str, options: argparse.Namespace) -> SegmentationModel:
    """A model with random weights, in training mode."""
    torch.manual_seed(0)
    model_class = MODELS.get(name)
    if options.tiny:
        return model_class(resolve_config(model_class, TINY[name]), INPUTS)
    values: dict[str, Any] = {"backbone": {"pretrained": None}}
    reads_words = "glove" in resolve_config(model_class, {}).text.__dataclass_fields__
    if not reads_words:
        values["text"] = {"pretrained": None}
    vocabulary = 12_112 if reads_words else 30_522
    return model_class(
        resolve_config(model_class, values), Inputs(image_size=SIZE, modalities={"image": 3}, vocab_size=vocabulary)
    )


def draw_batch(options: argparse.Namespace) -> dict[str, Tensor]:
    """Noise for images and words."""
    if options.tiny:
        return make_batch(options.batch)
    draws = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(options.batch, 3, SIZE, SIZE, generator=draws),
        "tokens": torch.randint(5, 12_000, (options.batch, TOKENS), generator=draws),
        "token_mask": torch.ones(options.batch, TOKENS, dtype=torch.long),
    }


def loss_of(output: ModelOutput) -> Tensor:
    """Cross entropy of every head against background."""
    heads = (output.logits, *output.auxiliary)
    return torch.stack(
        [F.cross_entropy(y.float(), y.new_zeros((len(y), *y.shape[2:]), dtype=torch.long)) for y in heads]
    ).sum()


def make_step(
    model: nn.Module, batch: Mapping[str, Tensor], setting: Setting, device: torch.device
) -> Callable[[], None]:
    """A training step without optimiser that has finished on the device when it returns."""
    model = model.to(device).train()
    on_device = {name: tensor.to(device) for name, tensor in batch.items()}
    if setting.channels_last:
        for parameter in model.parameters():
            if parameter.dim() == 4:  # `Module.to` also asks it of 5-dimensional ones, which cannot
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        on_device["image"] = on_device["image"].contiguous(memory_format=torch.channels_last)
    run = torch.compile(model) if setting.compiled else model

    def step() -> None:
        model.zero_grad(set_to_none=True)
        seed_model_noise(0)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=setting.bf16):
            output = run(on_device)
        loss_of(output).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def measure(step: Callable[[], None], options: argparse.Namespace) -> Figure:
    """Median over steps after some to warm up."""
    for _ in range(WARM_UP):
        step()
    on_gpu = options.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return Figure(options.batch / statistics.median(seconds), peak)


def try_setting(name: str, setting: Setting, options: argparse.Namespace) -> Figure | str:
    """The figure of a model in a setting, or in one line why there is none."""
    torch.compiler.reset()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    try:
        step = make_step(build(name, options), draw_batch(options), setting, torch.device(options.device))
        return measure(step, options)
    except Exception as error:  # noqa: BLE001 - any failure of one setting is a result; the others are still measured
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"


def row(name: str, setting: Setting, found: Figure | str, first: Figure | str) -> str:
    """A line of the table; ratios are to the model's first setting."""
    if isinstance(found, str):
        return f"| {name} | {setting.name} | {found} | | | |"
    if isinstance(first, str):
        return f"| {name} | {setting.name} | {found.samples_per_s:.2f} | | {found.peak_gib:.2f} | |"
    speed = found.samples_per_s / first.samples_per_s
    memory = f"{found.peak_gib / first.peak_gib:.2f}" if first.peak_gib else ""
    return f"| {name} | {setting.name} | {found.samples_per_s:.2f} | {speed:.2f} | {found.peak_gib:.2f} | {memory} |"


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute")
    parser.add_argument("--tiny", action="store_true", help="tiny models on 64 x 64 images")
    parser.add_argument("--batch", type=int, default=8, help="samples per step")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per setting")
    parser.add_argument("--models", nargs="+", default=referring_models(), help="names of models")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured; try --device cpu --tiny to see that the program runs")
        return
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, figures mean nothing"
    size = "tiny models" if options.tiny else f"{SIZE} x {SIZE}"
    print(f"{device}; torch {torch.__version__}; {size}, batch {options.batch}, forward and backward\n")
    print("| model | setting | samples/s | x fp32 | peak GiB | x fp32 |\n|---|---|---:|---:|---:|---:|")
    for name in options.models:
        first: Figure | str | None = None
        for setting in SETTINGS:
            found = try_setting(name, setting, options)
            first = found if first is None else first
            print(row(name, setting, found, first), flush=True)


if __name__ == "__main__":
    main()
