"""Images of any bands to the tokens of one vision transformer: convolution, stem, or generated from wavelengths.

Sources: the generated patch embedding is DOFA's (Xiong et al., 2024, https://arxiv.org/abs/2403.15356), the stem that
of DF2RQ (https://github.com/I3ab/DF2RQ).

Shapes: `B` images, `C` bands, `H W` pixels, `h w` tokens, `D` token width, `P` side of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import HarnessError
from models.layers.backbone_sizes import ViTConfig
from models.layers.semantic_family import STEM_WIDTH, stem

FrontEndKind = Literal["conv", "stem", "dofa"]
EMBEDDING = 128
NUM_WEIGHT_TOKENS = 128
GENERATED_SCALE = 0.01


def encode_wavelengths(wavelengths: Tensor) -> Tensor:
    """Sines, then cosines of 1000 x wavelength in micrometres `(C,)` over 10000^(i / 64): `(C, 128)`."""
    half = EMBEDDING // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = 1000 * wavelengths[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class WavelengthEmbedding(nn.Module):
    """DOFA's patch embedding: the kernel of a band is generated from its wavelength by one transformer layer.

    Args:
        config: Patch and width.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.patch, self.width = config.patch, config.width
        self.before = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING), nn.ReLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.ReLU()
        )
        self.weight_tokens = nn.Parameter(0.02 * torch.randn(NUM_WEIGHT_TOKENS, EMBEDDING))
        self.bias_token = nn.Parameter(0.02 * torch.randn(1, EMBEDDING))
        self.layer = nn.TransformerEncoderLayer(
            EMBEDDING, 4, dim_feedforward=2048, dropout=0.0, activation="gelu", batch_first=True
        )
        self.kernel = nn.Linear(EMBEDDING, self.patch * self.patch * self.width)
        self.bias = nn.Linear(EMBEDDING, self.width)

    def forward(self, image: Tensor, waves: Tensor) -> Tensor:
        """Map `(B, C, H, W)` with encoded wavelengths `(C, 128)` to `(B, D, h, w)`."""
        bands = waves + self.before(waves)
        sequence = torch.cat((self.weight_tokens, bands, self.bias_token))
        read = self.layer(sequence[None])[0]
        generated = self.kernel(read[NUM_WEIGHT_TOKENS:-1] + bands) * GENERATED_SCALE
        # C P*P*D -> D C P P
        kernels = generated.view(-1, self.patch, self.patch, self.width).permute(3, 0, 1, 2)
        bias = self.bias(read[-1]) * GENERATED_SCALE
        return F.conv2d(image, kernels.to(image.dtype), bias.to(image.dtype), stride=self.patch, padding=1)


class WavelengthFrontEnd(nn.Module):
    """The bands of one modality for a patch embedding that all modalities share."""

    waves: Tensor

    def __init__(self, shared: WavelengthEmbedding, wavelengths: tuple[float, ...]) -> None:
        super().__init__()
        self.shared = shared
        self.register_buffer("waves", encode_wavelengths(torch.tensor(wavelengths)), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, D, h, w)`."""
        y: Tensor = self.shared(image, self.waves)
        return y


def build_front_ends(
    kind: FrontEndKind,
    config: ViTConfig,
    *,
    modalities: Mapping[str, int],
    wavelengths: Mapping[str, tuple[float, ...]],
) -> nn.ModuleList:
    """One module per modality that maps `(B, bands, H, W)` to tokens `(B, D, h, w)`.

    Args:
        kind: `conv`: a patch embedding per modality; `stem`: 1x1 stems and a common patch embedding; `dofa`: generated.
        config: Patch and width.
        modalities: Modality -> bands.
        wavelengths: Modality -> wavelength of each band in micrometres; read by `dofa`.

    Raises:
        HarnessError: `dofa` without exactly one positive wavelength per band, or with a patch below 3, for which
            DOFA's padding of 1 adds tokens.
    """
    P, D = config.patch, config.width
    if kind == "conv":
        return nn.ModuleList(nn.Conv2d(bands, D, P, P) for bands in modalities.values())
    if kind == "stem":
        common = nn.Conv2d(STEM_WIDTH, D, P, P)
        return nn.ModuleList(nn.Sequential(stem(bands), common) for bands in modalities.values())
    if P < 3:
        raise HarnessError(f"trunk.patch must be at least 3 with front_end: dofa; received {P}")
    for name, bands in modalities.items():
        given = wavelengths.get(name, ())
        if len(given) != bands or min(given, default=0.0) <= 0:
            raise HarnessError(
                f"model.wavelengths must give a positive wavelength in micrometres for each of the {bands} bands of "
                f"{name!r} with front_end: dofa; received {list(given)}"
            )
    shared = WavelengthEmbedding(config)
    return nn.ModuleList(WavelengthFrontEnd(shared, wavelengths[name]) for name in modalities)
