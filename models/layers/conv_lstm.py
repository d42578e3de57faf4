"""Convolutional LSTM with peepholes and joint normalisation, over a sequence of maps.

Source: Shi et al., NeurIPS 2015, https://arxiv.org/abs/1506.04214, in the variant that CMPC (CVPR 2020) fuses its
levels with: 1x1 kernels, a peephole weight per position and channel, a norm over all positions and channels.

Shapes: `B` images, `C` channels, `h w` the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FORGET_BIAS = 1.0


class ConvLSTM(nn.Module):
    """One layer with 1x1 kernels; the size of the map is part of the weights.

    Args:
        channels: Width C of input and state.
        size: `(h, w)`.
    """

    def __init__(self, channels: int, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 1, bias=False)
        # Of the input, forget and output gate.
        self.peepholes = nn.Parameter(torch.empty(3, channels, *size))
        self.norms = nn.ModuleDict(
            {name: nn.GroupNorm(1, channels) for name in ("proposal", "input", "forget", "output", "cell")}
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier uniform; the fans of a peephole are those TensorFlow gives a `(h, w, C)` variable."""
        nn.init.xavier_uniform_(self.gates.weight)
        _, channels, height, width = self.peepholes.shape
        limit = (6.0 / (height * (width + channels))) ** 0.5
        nn.init.uniform_(self.peepholes, -limit, limit)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Read maps `(B, C, h, w)` in order; the last hidden state `(B, C, h, w)`."""
        hidden = cell = torch.zeros_like(maps[0])
        for x in maps:
            proposal, enter, forget, leave = self.gates(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
            enter = self.norms["input"](enter + self.peepholes[0] * cell).sigmoid()
            forget = (self.norms["forget"](forget + self.peepholes[1] * cell) + _FORGET_BIAS).sigmoid()
            cell = cell * forget + enter * self.norms["proposal"](proposal).tanh()
            leave = self.norms["output"](leave + self.peepholes[2] * cell).sigmoid()
            cell = self.norms["cell"](cell)
            hidden = leave * cell.tanh()
        return hidden
