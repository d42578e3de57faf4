"""What the whole suite shares: golden files, settings of hypothesis, a light model to plan with."""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from harness.errors import HarnessError

ROOT = Path(__file__).resolve().parent.parent

# Before torch is imported, here and in processes that tests start: the models are too small for two threads, which on
# busy cores wait for each other, and sums over one thread are the same in every run.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="rewrite the golden files instead of comparing with them")


class ByFile(LoadScopeScheduling):
    """Files run side by side, those that need Ray in one process: two Rays on one machine take each other's time."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _needs_ray(file) else file


@functools.cache  # asked for every test
def _needs_ray(file: str) -> bool:
    return "ray_cluster" in (ROOT / file).read_text(encoding="utf-8")


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Instead of `--dist loadgroup`, which groups nothing with pytest 9.2 (pytest-xdist issue 1386)."""
    return ByFile(config, log)


@dataclass(frozen=True)
class Golden:
    """Texts kept under `tests/golden/`, rewritten by `pytest --regen` and reviewed as diffs."""

    folder: Path
    regen: bool

    def check(self, name: str, text: str) -> None:
        """Compare `text` with the file `name`, or write it there."""
        path = self.folder / name
        if self.regen:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"{path} must exist; write it with: pytest --regen"
        kept = path.read_text(encoding="utf-8")
        diff = difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "found", lineterm="")
        assert kept == text, f"{path} differs; if that is wanted, run: pytest --regen\n" + "\n".join(diff)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; copying it is much faster than making one."""
    from harness.results import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of our own with four GPUs that are none, started once; `RayExecutor` finds the connection."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_FAKE_GPUS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # Ray counts them; nothing in these trials looks at them
        ray.init("local", num_cpus=4, num_gpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Runs `harness ...` in an empty folder, in this process; a `tests.command.Command`."""
    from tests.command import in_empty_folder

    return in_empty_folder(monkeypatch, capsys, tmp_path)


@pytest.fixture(scope="session")
def ran_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder in which the tiny study has run to its end, with the study's file `tiny.yaml` in it."""
    from harness.cli import app
    from harness.trial_folder import trial_folder, write_json
    from tests.tiny import tiny_plan

    storage = tmp_path_factory.mktemp("ran")
    plan = tiny_plan(storage, ("  epochs: 3", "  epochs: 2"))
    words = ["run", str(storage / "tiny.yaml"), "--executor", "local", "--storage", str(storage)]
    with contextlib.redirect_stdout(io.StringIO()):
        app([*words, "--tracking-uri", f"sqlite:///{storage / 'mlflow.db'}"], standalone_mode=False)
    for trial in plan.trials:
        folder = trial_folder(storage, trial)
        write_json(folder / "trial.json", trial.to_json())
        (folder / "log-0.txt").write_text(f"this is {trial.variant}\n", encoding="utf-8")
    return storage


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(ROOT / "tests" / "golden", request.config.getoption("--regen"))


@dataclass(frozen=True)
class ToyEncoder:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    width: int = 8
    depths: tuple[int, ...] = (1, 1)
    drop_path: float = 0.1


@dataclass(frozen=True)
class ToyConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    encoder: ToyEncoder = ToyEncoder()
    fusion: Literal["sum", "correlation"] = "correlation"
    noise: bool = True
    kernels: tuple[int, ...] = (1, 3, 5)
    scale: float = 1
    weights: str | None = None

    def __post_init__(self) -> None:
        if len(self.encoder.depths) > 4:
            raise ValueError(f"encoder must have at most 4 stages, got {len(self.encoder.depths)}")
        if self.encoder.width < 1:
            raise HarnessError(f"encoder.width must be at least 1, got {self.encoder.width}")


@dataclass(frozen=True)
class OtherConfig:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    fusion: Literal["sum"] = "sum"
    width: int = 4


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded samples of the suite stay out of the node's own cache; processes it starts inherit this."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture
def toy_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models `toy`, `other` and `landcover` (of another task), for as long as a test runs."""
    from models.base import MODELS, ModelInfo, SegmentationModel

    def model(config: type[Any], task: str, components: dict[str, Any]) -> type[SegmentationModel]:
        info = ModelInfo(title="Toy", paper="none", task=task, components=components)
        return type("Toy", (SegmentationModel,), {"info": info, "Config": config})

    toy = model(ToyConfig, "referring", {"noise": False, "fusion": "sum", "kernels": (1,)})
    monkeypatch.setitem(MODELS._entries, "toy", toy)
    monkeypatch.setitem(MODELS._entries, "other", model(OtherConfig, "referring", {}))
    monkeypatch.setitem(MODELS._entries, "landcover", model(OtherConfig, "semantic", {}))
