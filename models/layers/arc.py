"""Adaptive rotated convolution: a 3x3 kernel turned by an angle that each image chooses.

Source: Pu et al., ICCV 2023, https://arxiv.org/abs/2303.07820, as used by RMSIN (CVPR 2024) and MAFN.

Shapes: `B` images, `I O` input and output channels, `H W` map, `n` kernels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.recompute import recompute
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
        pooled = recompute(self._pool, x)
        weights = torch.sigmoid(self.weight(self.weight_dropout(pooled)))
        return weights, F.softsign(self.angle(self.angle_dropout(pooled))) * MAX_ANGLE

    def _pool(self, x: Tensor) -> Tensor:
        # B I H W -> B H W I, because layer norm is over channels
        pooled: Tensor = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).relu_().mean(dim=(1, 2))
        return pooled


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
        # one product per kernel: (O*I, 9) times (9, B*9) -> O*I B*9
        taps = self.weight.view(n, O * I, _TAPS)
        turned: Tensor = taps[0] @ turns[:, 0].flatten(0, 1).t()
        for i in range(1, n):
            turned = turned + taps[i] @ turns[:, i].flatten(0, 1).t()
        # O*I B*9 -> B O I 3 3
        return turned.view(O, I, len(x), 3, 3).permute(2, 0, 1, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x (B, I, H, W)` to `(B, O, H, W)`."""
        kernels = self.kernels(x).to(x.dtype).unbind(0)
        # one call per image keeps channels-last maps as they are, images as groups would not
        images = x.chunk(len(x))
        return torch.cat([F.conv2d(image, kernel, padding=1) for image, kernel in zip(images, kernels, strict=True)])
