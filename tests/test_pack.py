"""Archives: the same bytes every time, nothing private, the same tables without a store, one trial trained again."""

from __future__ import annotations

import errno
import gzip
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.data.base import SyntheticConfig
from harness.data.synthetic import open_dataset
from harness.errors import DataError, HarnessError
from harness.pack import _write_archive
from harness.packed import check, opened, plan_from_json, plan_to_json, read_plan, write_sums
from harness.private_paths import Private
from harness.records import Score, TrialResult, TrialState
from harness.retrain import choose_cell, compared, with_data
from tests.command import Command, assert_refused
from tests.conftest import ROOT
from tests.report_frame import make_plan
from tests.tiny import tiny_trial

ALONE = """\
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mlflow", "ray", "optuna"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
from harness.cli import main
sys.argv = ["harness", "rebuild", sys.argv[1], "--out", sys.argv[2]]
main()
"""


def words(storage: Path, archive: Path) -> list[str]:
    return [str(storage / "tiny.yaml"), "--storage", str(storage), "--out", str(archive)]


@pytest.fixture(scope="module")
def archive(ran_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study's table, packed."""
    from harness.cli import app

    path = tmp_path_factory.mktemp("packed") / "tiny.tar.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        uri = f"sqlite:///{ran_tiny / 'mlflow.db'}"
        app(["pack", *words(ran_tiny, path), "--tracking-uri", uri], standalone_mode=False)
    return path


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    """A copy of the archive's files, for tests that change them."""
    with opened(archive) as folder:
        return shutil.copytree(folder, tmp_path / "unpacked")


def rewrite(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a JSON file and list its new hash."""
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    write_sums(folder)


def test_the_same_results_give_the_same_bytes(
    harness: Command, ran_tiny: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    again = Path.cwd() / "again.tar.gz"
    done = harness("pack", *words(ran_tiny, again), "--json")
    assert done.code == 0, done.err
    assert again.read_bytes() == archive.read_bytes()
    said = json.loads(done.out)
    assert (said["tables"], said["runs"]) == (["decoder"], 2)
    with tarfile.open(archive) as file:
        entries = file.getmembers()
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname, e.mode) for e in entries} == {(0, 0, 0, "", "", 0o644)}
    assert [e.name for e in entries] == sorted(e.name for e in entries)


def test_what_is_in_it_and_what_is_not(archive: Path, ran_tiny: Path) -> None:
    with opened(archive) as folder:
        runs = sorted((folder / "runs").iterdir())
        assert len(runs) == 2
        for run in runs:
            found = {path.name for path in run.iterdir()}
            assert found >= {"trial.json", "code.json", "environment.json", "run.json", "samples_val.parquet"}
            assert "host" not in json.loads((run / "environment.json").read_text())
        frame = pd.read_parquet(folder / "results.parquet")
        assert set(frame["run_id"]) == {run.name for run in runs}
        assert {"cost", "val", "test"} <= set(frame["split"])
        texts = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
        for place in (ran_tiny, ROOT, Path.home(), Path(sys.prefix)):
            assert not [text for text in texts if f"{place}/".encode() in text]
        assert len(list(folder.glob("code/*/harness/trial.py"))) == 1
        listed = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
        assert listed.returncode == 0


def test_tables_come_out_equal_without_torch_and_store(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ALONE, str(archive), str(tmp_path / "built")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert done.returncode == 0, done.stderr
    assert "equal     decoder.tex" in done.stdout
    with opened(archive) as folder:
        packed = {p.name: p.read_bytes() for p in (folder / "report").iterdir()}
    assert packed.keys() >= {"decoder.tex", "decoder.md", "decoder.csv", "numbers.tex", "report.html"}
    assert {name: (tmp_path / "built" / name).read_bytes() for name in packed} == packed


def test_another_number_makes_another_table(harness: Command, unpacked: Path) -> None:
    frame = pd.read_parquet(unpacked / "results.parquet")
    primary = (frame["split"] == "val") & (frame["metric"] == "miou")
    frame.loc[primary, "value"] += 0.01
    frame.to_parquet(unpacked / "results.parquet", index=False)
    write_sums(unpacked)
    done = harness("rebuild", unpacked)
    assert done.code == 1
    assert (unpacked.parent / "unpacked-rebuilt" / "decoder.tex").is_file()  # not among the archive's own files
    assert "DIFFERS   decoder.tex  line " in done.out
    assert "equal     tables.tex" in done.out


def test_a_file_that_is_not_as_packed_is_refused(harness: Command, unpacked: Path) -> None:
    (unpacked / "results.parquet").write_bytes(b"other")
    (unpacked / "plan.json").unlink()
    (unpacked / "new.txt").write_text("new")
    parts = ("plan.json is missing, new.txt is not listed, results.parquet has changed",)
    assert_refused(harness("rebuild", unpacked), *parts)
    (unpacked / "SHA256SUMS").unlink()
    with pytest.raises(HarnessError, match="must hold SHA256SUMS"):
        check(unpacked)


@pytest.mark.parametrize(
    ("garbage", "line"),
    [
        (b"garbage\n", "line 1 is 'garbage'"),
        (b"\xff\xfe\x00", "line 1 is"),
        (b"12  plan.json\n", "line 1 is '12 plan"),
    ],
)
def test_a_list_of_hashes_that_is_none(harness: Command, unpacked: Path, garbage: bytes, line: str) -> None:
    (unpacked / "SHA256SUMS").write_bytes(garbage)
    assert_refused(
        harness("rebuild", unpacked), "SHA256SUMS of an archive must have lines of a SHA-256 and a name", line
    )


@pytest.mark.parametrize("name", ["pack.json", "plan.json", "results.parquet", "study/tiny.yaml"])
def test_an_archive_without_a_part_of_it(harness: Command, unpacked: Path, tmp_path: Path, name: str) -> None:
    (unpacked / name).unlink()
    write_sums(unpacked)
    with tarfile.open(tmp_path / "part.tar.gz", "w:gz") as archive:
        archive.add(unpacked, ".")
    for place in (unpacked, tmp_path / "part.tar.gz"):
        assert_refused(harness("rebuild", place), "an archive must hold one", "SHA256SUMS does not list that")


@pytest.mark.parametrize("name", ["pack.json", "plan.json", "results.parquet"])
@pytest.mark.parametrize("garbage", [b"garbage", b"[]", b"\xff", b'{"format": 1}', b"{}"])
def test_a_part_that_is_garbage(harness: Command, unpacked: Path, name: str, garbage: bytes) -> None:
    (unpacked / name).write_bytes(garbage)
    write_sums(unpacked)
    done = harness("rebuild", unpacked, "--out", "built")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert f"{name} of an archive must be as `harness pack` writes it, got" in done.err
    assert list(Path.cwd().iterdir()) == []


def test_a_report_is_rebuilt_over_itself_only(harness: Command, unpacked: Path, tmp_path: Path) -> None:
    built = tmp_path / "built"
    assert harness("rebuild", unpacked, "--out", built).code == 0
    assert harness("rebuild", unpacked, "--out", built).code == 0
    packed = {p.name: p.read_bytes() for p in (unpacked / "report").iterdir()}
    done = harness("rebuild", unpacked, "--out", unpacked / "report")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "has others in its way" in done.err
    assert {p.name: p.read_bytes() for p in (unpacked / "report").iterdir()} == packed
    (tmp_path / "file").write_text("mine")
    for more in ([], ["--retrain", "MAFN#0", "--executor", "local"]):
        for place in (tmp_path / "file", tmp_path / "file" / "below"):
            done = harness("rebuild", unpacked, "--out", place, *more)
            assert (done.code, len(done.err.splitlines())) == (2, 1)
            assert f"that can be written to, got {place}" in done.err


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_damaged_archive_is_refused(harness: Command, archive: Path, tmp_path: Path, keep: float) -> None:
    data = archive.read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else int(keep)])
    assert_refused(harness("rebuild", cut), "cut.tar.gz must be a whole archive")
    assert_refused(harness("rebuild", tmp_path / "none.tar.gz"), "is not there")


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "evil.tar.gz"
    with gzip.open(path, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as file:
        entry = tarfile.TarInfo("../outside.txt")
        entry.size = 1
        file.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(HarnessError, match="inside its own folder"), opened(path):
        pass
    assert not (tmp_path.parent / "outside.txt").exists()


def test_an_archive_of_a_later_format_is_left_to_its_code(unpacked: Path) -> None:
    rewrite(unpacked, "pack.json", lambda found: {**found, "format": 2})
    with pytest.raises(HarnessError, match="reads archives of format 1, got 2; use the code in the archive"):
        check(unpacked)


def test_a_table_that_is_not_there_is_named(harness: Command, ran_tiny: Path) -> None:
    command = words(ran_tiny, Path("x.tar.gz"))
    assert_refused(harness("pack", command[0], "decodr", *command[1:]), "got 'decodr'; did you mean 'decoder'?")
    assert_refused(harness("pack", *command[:-1], "x.zip"), "a file that ends in .tar.gz, got 'x.zip'")
    changed = harness("pack", *command, "--set", "train.epochs=7")
    assert_refused(changed, "must have a complete trial to be packed, of the 2 trials of study tiny none has a run")


def test_failed_trials_are_not_packed(harness: Command, ran_tiny: Path, tmp_path: Path) -> None:
    storage = Path(shutil.copytree(ran_tiny, tmp_path / "copy"))
    with closing(sqlite3.connect(storage / "mlflow.db")) as database:
        database.execute("UPDATE runs SET status = 'FAILED'")
        database.commit()
    command = words(storage, Path("x.tar.gz"))
    done = harness("pack", command[0], "decoder", *command[1:])
    assert_refused(done, "of the 2 trials of table decoder 2 have a run, none is complete; `harness run")


def test_places_where_no_archive_can_be(harness: Command, ran_tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "there.tar.gz").mkdir()
    assert_refused(harness("pack", *words(ran_tiny, tmp_path / "file" / "x.tar.gz")), "in a folder that can be written")
    assert_refused(
        harness("pack", *words(ran_tiny, tmp_path / "there.tar.gz")), "there.tar.gz is a folder; name a file"
    )
    assert_refused(harness("pack", *words(ran_tiny, Path("/proc/x.tar.gz"))), "a file that can be written, got /proc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "there.tar.gz"]


def test_an_archive_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(HarnessError, match=r"can be written, got .*: No space left on device"):
        _write_archive(tmp_path / "files", tmp_path / "x.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_a_plan_comes_back_as_it_was() -> None:
    plan = make_plan()
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))))
    assert json.dumps(plan_to_json(again)) == json.dumps(plan_to_json(plan))
    assert [t.id for t in again.trials] == [t.id for t in plan.trials]


def test_private_folders_get_other_names(tmp_path: Path) -> None:
    private = Private.of(tmp_path / "runs", tmp_path / "studies" / "x.yaml", [str(tmp_path / "data"), ""])
    value = {"a": [f"{tmp_path}/data/1.png", 3], "b": f"{tmp_path}/runs/trials and {Path.home()}/x"}
    assert private.value(value) == {"a": ["${DATA_ROOT}/1.png", 3], "b": "STORAGE/trials and ~/x"}
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "plan.json").write_text(f'"{tmp_path}/data/weights.pth"')
    (line,) = private.left_in(tmp_path / "archive")
    assert line.startswith("plan.json names")


def test_data_must_be_what_the_trial_was_trained_on(tmp_path: Path) -> None:
    trial = tiny_trial(tmp_path)
    assert with_data(trial, None) == trial
    with pytest.raises(DataError, match=r"fingerprint other; this harness generates \w{16}"):
        with_data(replace(trial, data_fingerprint="other"), None)
    real = replace(trial, data={**trial.data, "synthetic": None})
    with pytest.raises(DataError, match="--data-root must be the folder of rrsis_d, got None"):
        with_data(real, None)
    made = SyntheticConfig(train=4, val=2, test=2, size=32)
    root = tmp_path / "mini"
    there = open_dataset("rrsis_d", root=root, synthetic=made).fingerprint()
    with pytest.raises(DataError, match=f"with fingerprint {trial.data_fingerprint}; .* has {there}"):
        with_data(real, root)
    assert with_data(replace(real, data_fingerprint=there), root).data_root == str(root)


def test_a_trial_trained_again_gives_the_same_scores(harness: Command, archive: Path) -> None:
    options = ("--retrain", "MAFN#0", "--executor", "local", "--out", "again")
    done = harness("rebuild", archive, *options, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["table"], found["variant"], found["equal"]) == ("decoder", "MAFN", True)
    assert {score["split"] for score in found["scores"]} == {"val", "val_shuffled", "test", "test_shuffled"}
    assert all(score["again"] == score["packed"] for score in found["scores"])
    twice = harness("rebuild", archive, *options)
    assert twice.code == 2
    assert "must be fresh" in twice.err


def test_the_random_cell_follows_the_seed(archive: Path) -> None:
    with opened(archive) as folder:
        drawn = [choose_cell(folder, "random", seed=seed).trial.id for seed in range(20)]
        assert drawn == [choose_cell(folder, "random", seed=seed).trial.id for seed in range(20)]
        assert set(drawn) == {trial.id for trial in read_plan(folder).trials}
        with pytest.raises(HarnessError, match="TRIAL must be an id"):
            choose_cell(folder, "nobody#0")


@pytest.mark.parametrize(
    ("off", "spread", "reproduced", "words"),
    [
        (0.0, None, True, "equal to the last bit"),
        (0.01, 0.02, True, "val/miou is off by +0.01, within 2 standard deviations"),
        (-0.05, 0.02, False, "val/miou is off by -0.05, more than 2 standard deviations"),
        (0.01, None, False, "one replicate has no spread"),
    ],
)
def test_scores_are_judged_by_the_spread_of_replicates(
    archive: Path, off: float, spread: float | None, reproduced: bool, words: str
) -> None:
    with opened(archive) as folder:
        cell = choose_cell(folder, "MAFN#0")
    cell = replace(cell, spreads={} if spread is None else {("val", "miou"): spread})
    packed = {key: value for key, value in cell.evidence.scores.items() if key[0] != "cost"}
    scores = tuple(Score(*key, value + off * (key == ("val", "miou"))) for key, value in packed.items())
    environment = {**cell.environment, "python": "2.7"}
    found = compared(cell, TrialResult(cell.trial.id, TrialState.COMPLETE, scores), environment)
    assert found.is_reproduced is reproduced
    assert words in found.verdict()
    assert [text.split()[0] for text in found.other_environment] == ["python"]
