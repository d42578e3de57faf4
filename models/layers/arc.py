"""Adaptive rotated convolution: a 3x3 kernel turned by an angle that each image chooses.

Source: Pu et al., ICCV 2023, https://arxiv.org/abs/2303.07820, as used by RMSIN (CVPR 2024) and MAFN.

Shapes: `B` images, `I O` input and output channels, `H W` map, `n` kernels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.stochastic import Dropout

MAX_ANGLE = math.radians(40.0)
"""Largest rotation in radians, never reached."""
_ROUTING_DROPOUT = 0.2
_TAPS = 9


def rotation_matrices(theta: Tensor) -> Tensor:
    """Return the linear maps that turn flattened 3x3 kernels.

    Position `(x, y)` of the turned kernel takes the bilinear value of the kernel at `(x cos - y sin, x sin + y cos)`,
    with `y` pointing down and coordinates clamped to the kernel's support.

    Args:
        theta: `(...)`, radians.

    Returns:
        `(..., 9, 9)`; row p holds the weights of the nine taps in the turned kernel's tap p.
    """
    axis = torch.tensor([-1.0, 0.0, 1.0], device=theta.device, dtype=theta.dtype)
    y, x = axis.repeat_interleave(3), axis.repeat(3)
    cos, sin = theta.cos()[..., None], theta.sin()[..., None]
    source_x = (cos * x - sin * y).clamp(-1.0, 1.0)[..., None]
    source_y = (sin * x + cos * y).clamp(-1.0, 1.0)[..., None]
    return (1.0 - (source_x - x).abs()).relu() * (1.0 - (source_y - y).abs()).relu()


class Routing(nn.Module):
    """Choose a weight and an angle for each kernel from the image.

    Args:
        channels: Input channels I.
        num_kernels: n.
    """

    def __init__(self, channels: int, *, num_kernels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.weight_dropout = Dropout(_ROUTING_DROPOUT)
        self.angle_dropout = Dropout(_ROUTING_DROPOUT)
        self.weight = nn.Linear(channels, num_kernels)
        self.angle = nn.Linear(channels, num_kernels, bias=False)
        for module in (self.depthwise, self.weight, self.angle):
            nn.init.trunc_normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights in 0..1 and angles in radians, both `(B, n)`, for `x (B, I, H, W)`."""
        # B I H W -> B H W I, because layer norm is over channels
        pooled = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).relu().mean(dim=(1, 2))
        weights = torch.sigmoid(self.weight(self.weight_dropout(pooled)))
        return weights, F.softsign(self.angle(self.angle_dropout(pooled))) * MAX_ANGLE


class AdaptiveRotatedConv(nn.Module):
    """3x3 convolution with a weighted sum of n rotated kernels, another one for each image.

    Args:
        in_channels: I.
        out_channels: O.
        num_kernels: n; the released models use 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_kernels: int = 1) -> None:
        super().__init__()
        self.routing = Routing(in_channels, num_kernels=num_kernels)
        self.weight = nn.Parameter(torch.empty(num_kernels, out_channels, in_channels, 3, 3))
        # Kaiming normal on the five-dimensional tensor: the fan counts the kernels too.
        nn.init.normal_(self.weight, std=math.sqrt(2.0 / (num_kernels * in_channels * _TAPS)))

    def kernels(self, x: Tensor) -> Tensor:
        """Return the kernel of each image, `(B, O, I, 3, 3)`."""
        weights, angles = self.routing(x)
        n, O, I = self.weight.shape[:3]  # noqa: E741 - shape letters
        turns = rotation_matrices(angles.float()) * weights.float()[..., None, None]
        # one product per kernel: (O*I, 9) times (B, 9, 9) -> B O*I 9
        taps = self.weight.view(n, O * I, _TAPS)
        turned: Tensor = taps[0] @ turns[:, 0].transpose(1, 2)
        for i in range(1, n):
            turned = turned + taps[i] @ turns[:, i].transpose(1, 2)
        return turned.view(-1, O, I, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, I, H, W)` to `(B, O, H, W)`."""
        B, _, H, W = x.shape
        kernels = self.kernels(x).to(x.dtype)
        # images as groups: 1 B*I H W with B*O kernels of I channels
        y = F.conv2d(x.reshape(1, -1, H, W), kernels.flatten(0, 1), padding=1, groups=B)
        return y.view(B, -1, H, W)
