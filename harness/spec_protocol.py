"""The `evaluate:` section of a study: how predictions are made and scored, and under which disturbances."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.confusion import SemanticProtocol
from harness.records import CONTROL_SUFFIX, Stress
from harness.spec_errors import refuse
from harness.spec_part import Part, Positive, Slug

SPLITS = ("val", "test")
"""Splits that are scored: the first always, the second unless `evaluate.test` is false."""


class EvaluateConfig(Part):
    """What the protocols of all tasks have in common."""

    test: Annotated[bool, Field(exclude_if=bool)] = True
    """Whether the test split is scored; the trials of a search never score it. Left out of a trial where true."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are scored."""
        return SPLITS if self.test else SPLITS[:1]


class ReferringEvaluateConfig(EvaluateConfig):
    """The evaluation protocol of referring segmentation."""

    protocol: Literal["rrsis480", "native"] = "rrsis480"
    """`rrsis480`: prediction and mask are compared at `data.image_size`; `native`: at the size of the mask on disk."""
    empty: Literal["zero", "one", "skip"] = "zero"
    """IoU of a sample whose prediction and mask are both empty: 0, 1, or left out."""
    drop_empty_refs: bool = False
    """Whether samples whose mask is empty are left out."""
    controls: tuple[Literal["shuffled_sentences"], ...] = ()
    """Extra evaluations; `shuffled_sentences` adds the splits `val_shuffled` and `test_shuffled`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are scored, controls included."""
        plain = super().splits
        return (*plain, *(s + CONTROL_SUFFIX for s in plain if self.controls))


class StressConfig(Part):
    """One modality of the test split disturbed; each level is a split of its own, `test-shift-sar-4` for example."""

    kind: Literal["shift", "drop", "noise"]
    """`shift`: moved to the right, its edge repeated; `drop`: replaced by its mean; `noise`: Gaussian noise added."""
    modality: Slug
    levels: tuple[Positive, ...] = ()
    """Pixels of a `shift`, whole numbers; standard deviations of the modality for `noise`; none for `drop`."""

    @model_validator(mode="after")
    def _levels_fit(self) -> StressConfig:
        if (self.kind == "drop") == bool(self.levels):
            wanted = "must not be given for drop" if self.levels else f"must be given for {self.kind}, it is missing"
            raise refuse(("levels",), wanted)
        if self.kind == "shift" and any(level != int(level) for level in self.levels):
            raise refuse(("levels",), f"must be whole numbers of pixels, received {list(self.levels)}")
        return self

    @property
    def each(self) -> tuple[Stress, ...]:
        """One per level."""
        return tuple(Stress(self.kind, self.modality, float(level)) for level in self.levels or (0.0,))


class SemanticEvaluateConfig(EvaluateConfig):
    """The evaluation protocol of semantic segmentation: one confusion matrix over all labelled pixels of a split."""

    protocol: SemanticProtocol = "default"
    """How classes are averaged; see `harness.confusion.semantic_scores`."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Share by which neighbouring windows of `data.image_size` pixels overlap, 0..0.9."""
    average: Literal["softmax", "logits"] = "softmax"
    """What is averaged where windows overlap."""
    predictions: bool = True
    """Whether the predictions of the test split are written as GeoTIFFs into the trial's folder."""
    stress: tuple[StressConfig, ...] = ()
    """Disturbances that the best weights are tested under."""

    @model_validator(mode="after")
    def _stress_has_a_split(self) -> SemanticEvaluateConfig:
        if self.stress and not self.test:
            raise refuse(("stress",), "must be left out where test is false: it disturbs the test split")
        return self

    @property
    def stresses(self) -> dict[str, Stress]:
        """Split -> its stress."""
        return {stress.split: stress for config in self.stress for stress in config.each}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that are scored, stresses included."""
        return (*super().splits, *self.stresses)
