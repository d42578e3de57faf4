"""`harness explain` and `harness report --check` on a real store, and which code a cell rests on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import MlflowArtifacts
from harness.code_reach import Changes, reached
from harness.errors import HarnessError
from harness.explain import Explanation, Request, explain
from harness.explain_view import explanation_lines
from harness.frozen_code import code_files
from harness.origins import origins
from harness.records import Plan
from harness.results import results_frame
from reports.build import fill_tables
from reports.results import Results
from tests.command import Command, assert_refused
from tests.conftest import ROOT
from tests.tiny import tiny_plan

EPOCHS = ("  epochs: 3", "  epochs: 2")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code that may be changed."""
    for package in ("harness", "models", "reports"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "code"


def asked(storage: Path, plan: Plan, address: str, *, code: Path | None = None) -> Explanation:
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    frame = results_frame(uri, (t.id for t in plan.trials))
    tables = fill_tables(Results(plan, frame), published_dir=storage).tables
    request = Request(Results(plan, frame), tables, MlflowArtifacts(uri), storage, code_files(code))
    return explain(request, address)


def test_a_cell_says_where_it_comes_from(harness: Command, ran_tiny: Path) -> None:
    words = ["explain", ran_tiny / "tiny.yaml", "decoder:MSRC:mIoU", "--storage", ran_tiny]
    done = harness(*words, "--json")
    assert done.code == 0
    assert harness(*words[:2], "decoder:MSRC:mIoU ↑", *words[3:], "--json").out == done.out  # the head as it is printed
    found: dict[str, Any] = json.loads(done.out)
    assert (found["row"], found["split"], found["metric"], found["n"]) == ("decoder = msrc", "val", "miou", 1)
    (one,) = found["replicates"]
    result = json.loads((ran_tiny / "trials" / one["trial_id"] / "result.json").read_text())
    value = next(s["value"] for s in result["scores"] if (s["split"], s["metric"]) == ("val", "miou"))
    assert one["value"] == pytest.approx(value)
    assert found["shown"] == f"{100 * value:.2f}"
    assert one["page"].endswith(f"/runs/{one['run_id']}")
    assert Path(one["checkpoint"]).is_file()
    assert Path(one["log"]).read_text() == "this is MAFN\n"
    assert (len(one["commit"]), len(one["code_sha"]), len(one["data_fingerprint"])) == (40, 12, 16)
    assert (found["stale"], one["stale"], one["also"]) == (False, [], [])
    shown = harness(*words).out
    for part in (
        one["trial_id"],
        one["run_id"],
        one["commit"],
        one["checkpoint"],
        one["log"],
        "no change is known since it ran",
    ):
        assert part in shown


def test_weights_of_a_copied_storage_folder_are_named_where_they_are(
    harness: Command, ran_tiny: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(ran_tiny, tmp_path / "copy")
    words = ["explain", copy / "tiny.yaml", "decoder:MSRC:mIoU", "--storage", copy, "--json"]
    (one,) = json.loads(harness(*words).out)["replicates"]
    assert Path(one["checkpoint"]).parent == copy / "trials" / one["trial_id"]
    assert Path(one["checkpoint"]).is_file()
    plan = tiny_plan(ran_tiny, EPOCHS)
    uri = f"sqlite:///{copy / 'mlflow.db'}"
    results = Results(plan, results_frame(uri, (t.id for t in plan.trials)))
    changes = Changes(code_files(), lambda run_id: MlflowArtifacts(uri).document(run_id, "code.json"))
    here, there = (origins(results, changes, storage) for storage in (copy, ran_tiny))
    assert here == there
    assert all(o.checkpoint.startswith(f"trials/{trial_id}/best-") for trial_id, o in here.items())


def test_a_difference_lists_both_sides(ran_tiny: Path) -> None:
    found = asked(ran_tiny, tiny_plan(ran_tiny, EPOCHS), "decoder:arc:delta_miou")
    assert [r.row for r in found.replicates] == ["decoder = arc", "decoder = msrc"]
    assert found.changes == {"model.decoder": "arc"}
    assert '  differs    model.decoder = "arc"  (from decoder = msrc)' in explanation_lines(found)


def test_changed_code_of_the_model_makes_a_cell_stale(ran_tiny: Path, code: Path) -> None:
    plan = tiny_plan(ran_tiny, EPOCHS)
    (code / "models" / "cmx.py").write_text("# another model\n")
    assert not asked(ran_tiny, plan, "decoder:arc:miou", code=code).is_stale
    with (code / "harness" / "train.py").open("a") as file:
        file.write("# longer\n")
    (one,) = asked(ran_tiny, plan, "decoder:arc:miou", code=code).replicates
    assert (one.stale, one.also) == ((), ("code that trains every row: harness/train.py",))
    with (code / "models" / "vision.py").open("a") as file:
        file.write("# longer\n")
    with (code / "harness" / "data" / "rrsis_d.py").open("a") as file:
        file.write("# longer\n")
    found = asked(ran_tiny, plan, "decoder:arc:miou", code=code)
    assert found.is_stale
    assert found.replicates[0].stale == (
        "code of the model: models/vision.py",
        "code of the data: harness/data/rrsis_d.py",
    )
    assert "  STALE      code of the model: models/vision.py" in explanation_lines(found)


def test_a_changed_configuration_or_dataset_makes_a_cell_stale(ran_tiny: Path, tmp_path: Path) -> None:
    plan = tiny_plan(tmp_path, ("  epochs: 3", "  epochs: 5"), ("val: 5", "val: 6"))
    (one,) = asked(ran_tiny, plan, "decoder:arc:miou").replicates
    assert (one.state, one.value) == ("no run", None)
    paths = [text.partition(":")[0] for text in one.stale]
    assert paths == ["data.synthetic.val", "data_fingerprint", "train.epochs"]
    assert "train.epochs: ran with 2, now 5 (run " in one.stale[2]


def changed(recorded: dict[str, str], start: str, code: Path) -> tuple[str, ...]:
    return Changes(code_files(code), lambda _: None).changed(recorded, start)


def test_code_that_is_gone_or_new(code: Path) -> None:
    recorded = dict.fromkeys(code_files(code), "")
    assert changed(recorded, "models/gone.py", code) == ("models/gone.py (gone)",)
    (code / "models" / "layers" / "novel.py").write_text("")
    with (code / "models" / "mafn.py").open("a") as file:
        file.write("\n\ndef later() -> None:\n    from .layers import novel\n")
    found = changed(recorded, "models/mafn.py", code)
    assert "models/layers/novel.py (new)" in found
    assert "models/mafn.py" in found


def test_what_a_model_reaches() -> None:
    found = reached("models/mafn.py", code_files(ROOT))
    assert {"models/__init__.py", "models/base.py", "models/mafn.py", "models/vision.py"} <= set(found)
    assert not [path for path in found if path in ("models/cmx.py", "harness/train.py", "harness/verbs/paper.py")]
    assert reached("models/gone.py", {}) == ()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("decoder", "TABLE:ROW:METRIC, got 'decoder'"),
        ("decodr:arc:miou", "TABLE must be one of the study's, got 'decodr'; did you mean 'decoder'"),
        (
            "decoder:ark:miou",
            "ROW must be a row's label or a part of it, got 'ark'; valid: decoder = arc,",
        ),
        ("decoder:rc:miou", "ROW must stand for one row, 'rc' stands for 2: decoder = arc, decoder = msrc"),
        ("decoder:arc:miu", "METRIC must be one of table 'decoder', got 'miu'; did you mean 'miou'"),
    ],
)
def test_an_address_that_means_nothing(ran_tiny: Path, address: str, message: str) -> None:
    with pytest.raises(HarnessError, match=r"must|named") as caught:
        asked(ran_tiny, tiny_plan(ran_tiny, EPOCHS), address)
    assert message in str(caught.value)


def test_refusals_are_one_line(harness: Command, ran_tiny: Path) -> None:
    words = ["explain", ran_tiny / "tiny.yaml", "decoder:arc:miou", "--split", "vall", "--storage", ran_tiny]
    assert_refused(harness(*words), "--split must be one of this figure's, got 'vall'; did you mean 'val'?")


def test_a_paper_is_checked_against_the_store(harness: Command, ran_tiny: Path, tmp_path: Path) -> None:
    report = ["report", ran_tiny / "tiny.yaml", "--storage", ran_tiny]
    assert harness(*report, "--out", tmp_path / "paper").code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "paper").iterdir()}
    done = harness(*report, "--check", tmp_path / "paper")
    assert (done.code, done.out) == (0, "4 copies, 0 cited numbers, 0 differences\n")
    assert {p: p.read_bytes() for p in (tmp_path / "paper").iterdir()} == before
    (tmp_path / "paper" / "text.tex").write_text("We get \\res{decoder}{arcs}{val}{miou}.\n")
    done = harness(*report, "--check", tmp_path / "paper", "--json")
    assert done.code == 1
    assert json.loads(done.out)["findings"][0]["place"] == "text.tex:1"
    assert r"text.tex:1: \res{decoder}{arcs}{val}{miou}: cited -> there is no such number; row:" in done.err
    assert done.err.endswith("4 copies, 1 cited number, 1 difference\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "paper" / "decoder.tex").rename(tmp_path / "other" / "decoder.tex")
    (tmp_path / "other" / "numbers.tex").write_bytes(b"\\endinput")
    (tmp_path / "other" / "decoder.md").write_text("Of decoders.\n")
    done = harness(*report, "--check", tmp_path / "other")
    assert (done.code, done.out) == (0, "1 copy, 0 cited numbers, 0 differences\n")
    assert done.err == "note: decoder.md is named as a table of the report and holds none\n"
