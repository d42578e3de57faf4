"""The `train:` section of a study: the recipe, and what each task adds to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from harness.spec_errors import refuse
from harness.spec_part import Count, NotNegative, Part, Positive

Share = Annotated[float, Field(ge=0, le=1)]


class LossConfig(Part):
    """`ce` x class-weighted cross entropy + `dice` x Dice loss + `auxiliary` x cross entropy of each auxiliary head."""

    ce: NotNegative = 0.9
    """Weight of the cross entropy."""
    dice: NotNegative = 0.1
    """Weight of the Dice loss."""
    class_weights: tuple[Positive, Positive] = (0.9, 1.1)
    """Weights of background and object in the cross entropy."""
    dice_reduction: Literal["sum", "mean", "sum_at_2"] = "sum"
    """Dice over samples and classes: summed, averaged, or averaged and multiplied by 4 (a batch of 2 summed)."""
    ce_reduction: Literal["mean", "pixel_sum"] = "mean"
    """Cross entropy: averaged over pixels and samples, or summed over pixels and averaged over samples."""
    auxiliary: NotNegative = 0.0
    """Weight of the cross entropy of each auxiliary head that a model has in training."""

    @model_validator(mode="after")
    def _has_a_term(self) -> LossConfig:
        if self.ce == 0 and self.dice == 0:
            raise refuse((), "ce or dice must be above 0, received 0 for both")
        return self


class SemanticLossConfig(Part):
    """Cross entropy over labelled pixels + `auxiliary` x that of each auxiliary head + what the model itself adds."""

    class_weights: tuple[Positive, ...] | None = None
    """Weight of each class in the order of the class table; null for equal ones."""
    auxiliary: NotNegative = 0.4
    """Weight of the cross entropy of each auxiliary head that a model has in training."""


class BlackBoxConfig(Part):
    """Black boxes drawn on a fixed share of the training images, at full resolution."""

    fraction: Share = 0.2
    """Share of training samples that get boxes, 0..1."""
    min_count: Annotated[int, Field(ge=0)] = 20
    """Least number of boxes on an image."""
    max_count: Annotated[int, Field(ge=0)] = 60
    """Largest number of boxes on an image, at least `min_count`."""
    size: Count = 32
    """Height and width of a box in pixels."""

    @model_validator(mode="after")
    def _is_ordered(self) -> BlackBoxConfig:
        if self.max_count < self.min_count:
            raise refuse(("max_count",), f"must be at least min_count = {self.min_count}, received {self.max_count}")
        return self


class CropConfig(Part):
    """Crops of `data.image_size` pixels, drawn anew from the training tiles in every epoch."""

    per_epoch: Count | None = None
    """Crops that make an epoch; null for as many as cover the training tiles once."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Least and largest factor by which a crop is enlarged, drawn uniformly."""
    max_class_share: Share = 1.0
    """A crop is drawn again, up to 10 times, while one class has more than this share of its labelled pixels, 0..1."""
    flip: Share = 0.5
    """Share of crops that are mirrored left to right, 0..1."""
    vertical_flip: Share = 0.0
    """Share of crops that are mirrored top to bottom, 0..1."""

    @model_validator(mode="after")
    def _is_ordered(self) -> CropConfig:
        if self.scale[1] < self.scale[0]:
            raise refuse(("scale",), f"must be the least, then the largest factor, received {list(self.scale)}")
        return self


class TrainConfig(Part):
    """What the recipes of all tasks have in common."""

    epochs: Count = 40
    """Passes over the training split."""
    global_batch: Count = 8
    """Samples per optimiser step over all workers, a multiple of their number."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """`adam` adds the weight decay to the gradient, as an L2 term in the loss does."""
    lr: Positive = 3e-5
    """Learning rate at the start, or after the warm-up."""
    weight_decay: NotNegative = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimiser steps over which the learning rate rises linearly to `lr`."""
    schedule: Literal["poly", "constant"] = "poly"
    """After the warm-up; `poly`: `end_lr + (lr - end_lr) * (1 - step / steps) ** power`."""
    power: Positive = 0.9
    """Exponent of `poly`."""
    end_lr: NotNegative = 0.0
    """Learning rate that `poly` ends at, at most `lr`."""
    clip_norm: Positive | None = None
    """Largest L2 norm of the gradient of all parameters; null for no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward pass."""
    select: str
    """Validation metric that chooses the best checkpoint."""
    deterministic: bool = True
    """Whether algorithms with a fixed result are preferred to faster ones."""

    @model_validator(mode="after")
    def _end_is_lower(self) -> TrainConfig:
        if self.end_lr > self.lr:
            raise refuse(("end_lr",), f"must be at most lr = {self.lr}, received {self.end_lr}")
        return self


class ReferringTrainConfig(TrainConfig):
    """The recipe for referring segmentation; the defaults are the published ones of MAFN."""

    select: str = "oiou"
    """Validation metric that chooses the best checkpoint."""
    loss: LossConfig = LossConfig()
    black_boxes: BlackBoxConfig = BlackBoxConfig()


class SemanticTrainConfig(TrainConfig):
    """The recipe for semantic segmentation; the defaults follow the published configurations of DF2RQ."""

    weight_decay: NotNegative = 0.05
    power: Positive = 1.0
    """Exponent of `poly`."""
    select: str = "miou"
    """Validation metric that chooses the best checkpoint."""
    loss: SemanticLossConfig = SemanticLossConfig()
    crops: CropConfig = CropConfig()
