"""What reports need besides scores: per-sample results, masks, maps, curves, pictures.

Whoever calls the report provides these; nothing here reads a store or a dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import DataError
from reports.origins import Origin


class Artifacts(Protocol):
    """What runs left behind."""

    def samples(self, run_id: str, split: str) -> pd.DataFrame | None:
        """One row per sample of a split, the same order in every run; None where the run left none."""
        ...

    def masks(self, run_id: str, split: str, keys: Collection[str]) -> Mapping[str, NDArray[np.bool_]]:
        """Key -> predicted mask `(H, W)`; samples that the run did not keep are left out."""
        ...

    def feature_maps(self, run_id: str) -> Mapping[str, NDArray[Any]]:
        """`keys (B,)`, and a map `(B, H, W)` per point; empty where the run left none."""
        ...

    def curve(self, run_id: str, name: str) -> Mapping[int, float]:
        """Epoch -> value of a learning curve, for example `val/miou`."""
        ...


@dataclass(frozen=True)
class Panel:
    """A sample as pictures."""

    image: NDArray[np.uint8]
    """`(S, S, 3)`, 0..255."""
    truth: NDArray[np.bool_]
    """`(S, S)`."""
    sentence: str


class Panels(Protocol):
    """Opens samples of the dataset."""

    def read(self, split: str, keys: Collection[str], *, size: int) -> Mapping[str, Panel]:
        """Key -> panel of side `size`.

        Raises:
            DataError: The dataset is not at hand, or holds no such sample.
        """
        ...


@dataclass(frozen=True)
class Sources:
    """Where a report gets what scores do not say."""

    artifacts: Artifacts
    panels: Panels
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Trial id -> where the run that counts for it comes from; without it, nothing is known to be stale."""


class _NoArtifacts:
    """Stands for runs that have left nothing."""

    def samples(self, *_: object, **__: object) -> None:
        return None

    def masks(self, *_: object, **__: object) -> Mapping[str, NDArray[np.bool_]]:
        return {}

    def feature_maps(self, *_: object, **__: object) -> Mapping[str, NDArray[Any]]:
        return {}

    def curve(self, *_: object, **__: object) -> Mapping[int, float]:
        return {}


class NoPanels:
    """Stands for a dataset that is not at hand."""

    def read(self, split: str, keys: Collection[str], *, size: int) -> Mapping[str, Panel]:
        """Refuse.

        Raises:
            DataError: Always.
        """
        raise DataError(f"images of {split} must be at hand for {len(keys)} panels of {size}; no dataset is")


NOTHING = Sources(_NoArtifacts(), NoPanels())
"""For a report of scores alone."""


class NotDrawn(Exception):  # noqa: N818 -- no error: the report goes on and says so
    """Why a figure or a break-down cannot be made; shown to the user."""


class OtherDesign(NotDrawn):
    """A table of another design than the figure is of; shown only where no table of the study is of that design."""
