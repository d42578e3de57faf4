"""The smallest real study of semantic segmentation: a concat fuser a few channels wide on generated tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.plan import expand, fingerprint_of
from harness.records import Plan, Trial
from harness.spec import load_study
from tests.tiny import write_changed

STUDY = """\
name: tiny-semantic
question: Does the machinery work?
task: semantic
data: {name: sen1floods11, image_size: 32, synthetic: {train: 3, val: 2, test: 2, size: 48}}
train:
  epochs: 3
  global_batch: 4
  lr: 2.0e-3
  warmup_steps: 2
  clip_norm: 1.0
  crops: {per_epoch: 8, scale: [0.5, 1.5], max_class_share: 0.9}
evaluate:
  stress: [{kind: shift, modality: sar, levels: [4]}, {kind: drop, modality: sar}]
reference:
  label: Concat
  model: &small
    name: late_concat
    trunk: {patch: 8, width: 32, depth: 4, heads: 2}
    head: {width: 16, auxiliary_width: 8, dropout: 0.0}
replicates: 1
variants:
  modalities:
    design: grid
    axes: {model.modalities: [[], [optical], [sar]]}
report:
  primary: {metric: miou, split: test}
  tables:
    - {name: modalities, of: modalities, kind: ablation, metrics: [oa, miou, kappa], splits: [val, test, test-drop-sar]}
"""


def write_study(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write `STUDY` with each `(old, new)` applied."""
    return write_changed(folder / "tiny-semantic.yaml", STUDY, changes)


def semantic_plan(folder: Path, *changes: tuple[str, str]) -> Plan:
    """The plan of `STUDY` with each `(old, new)` applied: one trial with both modalities, one with each alone."""
    study = load_study(write_study(folder, *changes), environ={})
    fingerprint, root = fingerprint_of(study)
    return expand(study, fingerprint=fingerprint, data_root=root)


def semantic_trial(folder: Path, *changes: tuple[str, str], **train: Any) -> Trial:
    """The reference's trial, with changes to the study and to its recipe."""
    trial = next(t for t in semantic_plan(folder, *changes).trials if t.variant == "Concat")
    return replace(trial, train={**trial.train, **train}) if train else trial
