"""States are copied to another file system and to a real S3 server, and a trial goes on from there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer
from pyarrow import fs
from torch import nn

import harness.mirror
from harness.checkpoint import Progress, load_state, save_best, save_state
from harness.errors import HarnessError, TrialStopped
from harness.mirror import Mirror
from harness.records import Checkpointing
from tests.tiny import Context, build, fit, tiny_trial, trainer_of


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket behind the S3 protocol on this machine, as a URI to put a path into."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        _, port = server.get_host_and_port()
        uri = f"s3://bucket/%s?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        files, _ = fs.FileSystem.from_uri(uri.replace("%s", "x") + "&allow_bucket_creation=true")
        files.create_dir("bucket")
        yield uri
    server.stop()


@pytest.fixture(params=["file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/mirror"
    place: str = request.getfixturevalue("s3")
    return place % tmp_path.name


def names(uri: str, trial: str = "trial") -> list[str]:
    files, path = fs.FileSystem.from_uri(uri)
    found = files.get_file_info(fs.FileSelector(f"{path}/{trial}", allow_not_found=True))
    return sorted(info.base_name for info in found)


def save(folder: Path, epoch: int, *, best: int) -> Progress:
    """A state after some epochs of ten steps, whose best epoch is `best`."""
    folder.mkdir(exist_ok=True)
    progress = Progress(epoch=epoch, step=10 * epoch, best_epoch=best, best_score=best / 10)
    if best == epoch:
        save_best(folder, nn.Linear(2, 1), epoch)
    states = {"model": {"weight": torch.full((3000,), float(epoch))}, "optimizer": {}}
    save_state(folder, states, progress, keep=2)
    return progress


def mirrored(uri: str, folder: Path) -> None:
    """Four states, the best of them the second, copied one after the other."""
    mirror = Mirror(uri, "trial", keep=2)
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        mirror.copy(folder, save(folder, epoch, best=best))
        assert mirror._changed.acquire()
        mirror._changed.wait_for(lambda: not mirror._waiting and not mirror._is_busy, timeout=20)
        mirror._changed.release()
    assert mirror.close() is None


def test_the_mirror_keeps_what_the_folder_keeps(uri: str, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    mirrored(uri, folder)
    assert names(uri) == sorted(path.name for path in folder.iterdir())
    assert names(uri) == ["best-2.pt", "state-3-30.pt", "state-4-40.pt"]


def test_the_newest_intact_state_is_fetched(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mirrored(uri, tmp_path / "trial")
    other = tmp_path / "other"
    other.mkdir()
    assert Mirror(uri, "trial", keep=2).fetch(other)
    found = load_state(other)
    assert found is not None
    assert (found.progress.epoch, found.progress.best_epoch) == (4, 2)
    assert torch.equal(found.states["model"]["weight"], torch.full((3000,), 4.0))

    files, path = fs.FileSystem.from_uri(uri)
    with files.open_input_stream(f"{path}/trial/state-4-40.pt") as stream:
        content = bytearray(stream.read())
    content[len(content) // 2] ^= 1
    with files.open_output_stream(f"{path}/trial/state-4-40.pt") as stream:
        stream.write(bytes(content))
    third = tmp_path / "third"
    third.mkdir()
    assert Mirror(uri, "trial", keep=2).fetch(third)
    assert sorted(p.name for p in third.iterdir()) == ["best-2.pt", "state-3-30.pt"]
    assert "state-4-40.pt is damaged; trying the state before" in caplog.text
    assert not Mirror(uri, "another", keep=2).fetch(third)


def test_a_trial_goes_on_from_the_mirror_on_a_machine_that_has_nothing(s3: str, tmp_path: Path) -> None:
    uri = s3 % "study"
    trial = replace(tiny_trial(tmp_path, epochs=2), checkpoints=Checkpointing(mirror=uri))
    first = Context(tmp_path / "first", trial)
    expected, _ = fit(trial, first)
    taken = Context(tmp_path / "taken", trial, taken_at=3)  # start, epoch 1, epoch 2
    fs.FileSystem.from_uri(uri)[0].delete_dir(f"{fs.FileSystem.from_uri(uri)[1]}/{trial.id}")
    with pytest.raises(TrialStopped, match="another driver"):
        fit(trial, taken)
    elsewhere = Context(tmp_path / "elsewhere", trial)
    model, _ = fit(trial, elsewhere)
    assert elsewhere.reports == {2: first.reports[2]}
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


# Failures


def test_a_slow_copy_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    def slow(_: Mirror, job: Any) -> None:
        time.sleep(0.2)
        copied.append(job.progress.epoch)

    monkeypatch.setattr(Mirror, "_put_all", slow)
    mirror = Mirror(f"file://{tmp_path}/mirror", "trial", keep=2)
    started = time.perf_counter()
    for epoch in range(1, 9):
        mirror.copy(tmp_path, Progress(epoch=epoch))
        time.sleep(0.01)
    assert time.perf_counter() - started < 0.2
    assert mirror.close() is None
    assert copied == [1, 8], "of those that waited, the newest"


def test_a_failed_copy_is_a_warning_and_the_last_one_is_reported(
    tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(s3.replace("bucket", "nowhere") % "x", "trial", keep=2)
    mirror.copy(tmp_path / "trial", save(tmp_path / "trial", 1, best=1))
    failure = mirror.close()
    assert failure is not None
    assert "state-1-10.pt was not copied to s3://nowhere/x" in failure
    assert "bucket does not exist" in failure
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "\n" not in caplog.records[0].getMessage()


def test_a_failed_copy_is_noted_and_the_trial_ends_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trial = replace(tiny_trial(tmp_path, epochs=1), checkpoints=Checkpointing(mirror=f"file://{tmp_path}/file"))
    context = Context(tmp_path, trial)
    trainer = trainer_of(trial, context, *build(trial, tmp_path))
    assert trainer.fit(trial.resources, trial.checkpoints).epoch == 1
    assert "state-1-2.pt was not copied to file://" in trainer.notes["mirror"]


def test_a_copy_that_takes_too_long_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.mirror, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(Mirror, "_put_all", lambda *_: time.sleep(0.3))
    mirror = Mirror(f"file://{tmp_path}/mirror", "trial", keep=2)
    mirror.copy(tmp_path, Progress())
    assert "was not copied" in (mirror.close() or "")


def test_what_is_no_storage(tmp_path: Path, s3: str) -> None:
    with pytest.raises(HarnessError, match=r"checkpoints\.mirror must be a URI like .* got 'ftp://x': Unrecognized"):
        Mirror("ftp://x", "trial", keep=2)
    with pytest.raises(HarnessError, match=r"checkpoints\.mirror must be in a bucket that exists, 'nowhere' does not"):
        Mirror(s3.replace("bucket", "nowhere") % "x", "trial", keep=2).fetch(tmp_path)


def test_a_server_that_is_away_is_no_reason_to_begin_anew(tmp_path: Path, s3: str) -> None:
    away = s3.replace("127.0.0.1:", "127.0.0.1:1&x=").partition("&x=")
    uri = away[0] % "x" + "&scheme=http&region=us-east-1"
    with pytest.raises(ConnectionError, match=r"checkpoints\.mirror .* could not be reached"):
        Mirror(uri, "trial", keep=2).fetch(tmp_path)
