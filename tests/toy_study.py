"""A small valid study that tests change one line of."""

from __future__ import annotations

from pathlib import Path

from harness.spec import StudySpec, load_study

STUDY = """\
name: toy
question: Which part matters?
task: referring
data: {name: rrsis_d, image_size: 64, synthetic: {train: 8}}
train:
  epochs: 2
  lr: 3e-5
evaluate: {controls: [shuffled_sentences]}
reference:
  label: Toy
  model: {name: toy, kernels: [1, 3, 5]}
replicates: 2
variants:
  kernels:
    design: grid
    axes: {model.kernels: [[1], [1, 3], [1, 3, 5]]}
report:
  primary: {metric: miou}
  tables:
    - name: kernels
      of: kernels
      kind: ablation
      metrics: [oiou, miou]
      splits: [val, test_shuffled]
"""


def write_study(folder: Path, *changes: tuple[str, str]) -> Path:
    """Write `STUDY` with each `(old, new)` applied."""
    text = STUDY
    for old, new in changes:
        assert old in text, f"{old!r} must be in the toy study"
        text = text.replace(old, new)
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def toy_study(folder: Path, *changes: tuple[str, str]) -> StudySpec:
    """Load `STUDY` with each `(old, new)` applied."""
    return load_study(write_study(folder, *changes), environ={})


def with_variants(variants: str, *tables: str) -> tuple[tuple[str, str], ...]:
    """Changes that replace the variants, and show the named entries of them in tables of the same name."""
    old = STUDY[STUDY.index("  kernels:\n") : STUDY.index("report:")]
    shown = "".join(f"    - {{name: {t}, of: {t}, kind: ablation, metrics: [miou]}}\n" for t in tables)
    return (old, variants), (STUDY[STUDY.index("    - name: kernels") :], shown)
