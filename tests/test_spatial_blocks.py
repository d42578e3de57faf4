"""Tiles of one scene are one block, from the dataset over the rows of a run to intervals and captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.data.base import SPLITS, SyntheticConfig
from harness.data.semantic import SemanticTile
from harness.data.synthetic import open_dataset
from harness.records import Plan, Row, Table, Trial
from reports.artifacts import Sources
from reports.intervals import Replicated, interval, resample
from reports.results import Results
from reports.sample_statistics import additive
from reports.table_model import Flag, TableModel
from reports.tables import build_table
from tests.drawn_study import CannedPanels
from tests.judged_study import JudgedArtifacts
from tests.test_semantic_task import measured
from tests.tiny import build
from tests.tiny_semantic import semantic_trial

SMALL = SyntheticConfig(train=4, val=2, test=3, size=48)
PATCHES = "name: whu_opt_sar, options: {split: random_patch_leaky, patch: 16}"


def blocks(name: str, root: Path, **options: Any) -> dict[str, str]:
    """Key -> block of the tiles of all splits of a miniature."""
    data = open_dataset(name, root=root, synthetic=SMALL, options=options)
    return {tile.key: tile.block for split in SPLITS for tile in data.tiles(split)}


def test_a_tile_without_scene_stands_alone() -> None:
    assert SemanticTile("a", "test", {}, Path("a.tif"), 4, 4).block == "a"
    assert SemanticTile("b", "test", {}, Path("b.tif"), 4, 4, scene="a").block == "a"


@pytest.mark.parametrize("name", ["whu_opt_sar", "gid", "vaihingen", "potsdam", "globe230k", "sen1floods11"])
def test_whole_scenes_and_independent_patches_are_blocks_of_their_own(name: str, tmp_path: Path) -> None:
    found = blocks(name, tmp_path)
    assert len(found) >= 8
    assert all(block == key for key, block in found.items())


def test_random_patches_are_of_the_scene_that_they_were_cut_from(tmp_path: Path) -> None:
    found = blocks("whu_opt_sar", tmp_path, split="random_patch_leaky", patch=16)
    assert len(found) == 9 * 3 * 4
    assert all(re.fullmatch(rf"{block}/\d+_\d+", key) for key, block in found.items())
    assert len(set(found.values())) == 9


@pytest.mark.parametrize("cities", ["BW", "AB"])
def test_a_city_is_one_block_in_patches_and_as_a_whole(cities: str, tmp_path: Path) -> None:
    found = blocks("c2seg", tmp_path, cities=cities)
    assert all(re.match(rf"{block}(_|/|$)", key) for key, block in found.items())
    assert set(found.values()) == ({"beijing", "wuhan"} if cities == "BW" else {"augsburg", "berlin"})


@pytest.mark.parametrize("split", ["official", "left_right"])
def test_chips_of_a_flood_are_one_block(split: str, tmp_path: Path) -> None:
    blocks("sen1floods11", tmp_path)
    names = {"Synthetic_000000": "Ghana_103272", "Synthetic_000001": "Ghana_1078550", "Synthetic_000002": "Sri-Lanka_9"}
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        if path.suffix == ".csv":
            path.write_text(re.sub(r"Synthetic_00000[012]", lambda found: names[found[0]], path.read_text()))
        elif (chip := path.name.rpartition("_")[0]) in names:
            path.rename(path.with_name(path.name.replace(chip, names[chip])))
    found = {key: block for key, block in blocks("sen1floods11", tmp_path, split=split).items() if "Synth" not in key}
    assert {key.partition("/")[0]: block for key, block in found.items()} == {
        "Ghana_103272": "Ghana",
        "Ghana_1078550": "Ghana",
        "Sri-Lanka_9": "Sri-Lanka",
    }
    assert len(found) == (3 if split == "official" else 6)


def test_rows_of_a_run_have_the_block_of_their_tile(tmp_path: Path) -> None:
    trial = semantic_trial(tmp_path, ("name: sen1floods11", PATCHES))
    model, task = build(trial, tmp_path)
    table = measured(model, task, "test")
    assert table["block"].tolist() == [key.partition("/")[0] for key in table["key"]]
    assert 1 < table["block"].nunique() < len(table)
    stressed = measured(model, task, "test-drop-sar")
    assert stressed["block"].equals(table["block"])


SCENES, PATCHES_EACH, MEAN = 20, 16, 0.8


def patches(rng: np.random.Generator, *, replicates: int = 3) -> list[pd.DataFrame]:
    """Tables of the replicates of a study: accuracy varies between scenes, patches of a scene, and replicates."""
    scenes = rng.normal(0, 0.05, SCENES).repeat(PATCHES_EACH)
    of_all = MEAN + scenes + rng.normal(0, 0.1, SCENES * PATCHES_EACH)
    tables = []
    for _ in range(replicates):
        right = np.round(1000 * (of_all + rng.normal(0, 0.005) + rng.normal(0, 0.02, len(of_all)))).astype(int)
        names = [f"s{i // PATCHES_EACH}/{i % PATCHES_EACH}" for i in range(len(right))]
        matrices = [[int(r), 1000 - int(r), 0, 0] for r in right]
        blocks = [name.partition("/")[0] for name in names]
        tables.append(pd.DataFrame({"key": names, "block": blocks, "confusion": matrices}))
    return tables


def oa_interval(tables: Sequence[pd.DataFrame]) -> tuple[float, float]:
    """The interval that a table prints for the overall accuracy."""
    found = [part for table in tables if (part := additive(table, protocol={}))]
    components, oa = np.stack([part.components for part in found]), found[0].scores["oa"]
    scores = Replicated(oa(components.sum(axis=1)), oa(resample(components)), components.shape[1])
    known = interval(scores)
    assert known is not None
    return known


def test_intervals_hold_the_truth_only_where_patches_of_a_scene_are_drawn_together() -> None:
    """A correlation of a fifth within scenes: 95 % intervals over single patches hold the truth far too rarely."""
    rng, studies = np.random.default_rng(5), 120
    held, widths = np.zeros((studies, 2), bool), np.zeros((studies, 2))
    for study in range(studies):
        tables = patches(rng)
        for way, read in enumerate((tables, [t.drop(columns="block") for t in tables])):
            low, high = oa_interval(read)
            held[study, way], widths[study, way] = low <= MEAN <= high, high - low
    by_scene, by_patch = held.mean(axis=0)
    assert by_scene >= 0.90
    assert by_patch <= 0.85
    assert widths[:, 0].mean() > 1.5 * widths[:, 1].mean()


def report(change: Any) -> TableModel:
    """A table of two rows whose per-sample results were changed by `change`."""
    rng, rows, trials, lines, kept = np.random.default_rng(7), [], [], [], {}
    for label in ("ours", "theirs"):
        mine = [Trial("semantic", {"name": "d"}, "f", {"name": label}, {}, {}, n, variant=label) for n in range(3)]
        rows.append(Row(label, label, {"model.name": label}, tuple(t.id for t in mine), label == "ours"))
        trials += mine
        for trial, table in zip(mine, patches(rng), strict=True):
            run_id = f"{label}|{trial.replicate}"
            kept[run_id] = change(table)
            matrix = np.sum(table["confusion"].to_list(), axis=0)
            line = {"trial_id": trial.id, "replicate": trial.replicate, "state": "COMPLETE", "run_id": run_id}
            line |= {"started": pd.Timestamp(2026, 1, 1), "split": "test", "note": ""}
            lines.append({**line, "metric": "oa", "value": matrix[0] / matrix.sum()})
    table = Table("parts", "ablation", "parts", ("oa",), ("test",), tuple(rows), costs=False)
    plan = Plan("s", "?", tuple(trials), (table,), replicates=3)
    sources = Sources(JudgedArtifacts(kept), CannedPanels())
    return build_table(Results(plan, pd.DataFrame(lines), sources), table)


def width(model: TableModel) -> float:
    """Of the first row's interval."""
    low, high = model.blocks[0].rows[0].cells[0].interval or (0.0, 0.0)
    return high - low


def test_captions_name_scenes_where_scenes_were_drawn_and_only_there() -> None:
    scenes = report(lambda table: table)
    older = report(lambda table: table.drop(columns="block"))
    alone = report(lambda table: table.assign(block=table["key"]))
    few = report(lambda table: table.assign(block=(table.index // 100).astype(str)))
    assert "paired t tests over replicates and test scenes;" in scenes.caption
    assert "paired t tests over replicates and test samples;" in older.caption
    assert (alone.caption, width(alone)) == (older.caption, width(older)), "every tile is its own block"
    assert "over replicates alone (no results of at least 10 test scenes are at hand);" in few.caption
    assert width(scenes) > 1.3 * width(older)
    wanted = {Flag.REPLICATES_ONLY, Flag.BLOCKED}
    flags = [wanted.intersection(model.blocks[0].rows[0].cells[0].flags) for model in (scenes, older, few)]
    assert flags == [{Flag.BLOCKED}, set(), wanted]


def test_older_runs_beside_newer_ones_go_by_replicates_alone() -> None:
    turn = iter([True, False] * 3)
    mixed = report(lambda table: table if next(turn) else table.drop(columns="block"))
    assert "over replicates alone" in mixed.caption
    assert "scenes" not in mixed.caption
