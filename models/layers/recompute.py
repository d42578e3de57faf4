"""Trade memory for cheap arithmetic: what an element-wise chain needs for its gradient is computed again, not kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_LEAST_NUMBERS = 2**18
"""Smaller tensors stay in the processor's cache and are kept."""


def recompute(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return `function(*inputs)`; with large inputs, in training on a CPU, backward calls `function` again.

    Only the inputs are kept then. On a CPU fresh memory costs more time than element-wise arithmetic. The second call
    ends with the last tensor that backward needs, so a matrix product or convolution at the end of `function` is not
    computed twice.

    Args:
        function: Without random draws and without running statistics, as it is called twice.
        inputs: What it is a function of, besides parameters.
    """
    if not torch.is_grad_enabled() or inputs[0].device.type != "cpu" or inputs[0].numel() < _LEAST_NUMBERS:
        return function(*inputs)
    y: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return y
