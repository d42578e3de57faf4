"""Optuna's side of a search: its database, its studies, and what its numbers mean in a configuration."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import OptunaError
from optuna.trial import TrialState as Ended
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from harness.canonical import canonical_json
from harness.errors import HarnessError
from harness.metrics import METRICS
from harness.plan import expand
from harness.records import Plan
from harness.spec import StudySpec
from harness.tuning import Outcome, Search, Spent

optuna.logging.set_verbosity(optuna.logging.WARNING)

ABOUT = "harness"
"""Attribute of a trial in Optuna: `trial_id`, `hours`, `gpu_hours`, `cause` of a failure, the one that it `repeats`."""
ATTEMPTS = 5
"""Two drivers that create a database at the same moment hinder each other; the loser tries again."""
KEEP = 3
"""`asha` keeps one trial in this many at each of its two halts."""
MIN_TRIALS = 4
"""Complete trials that `median` compares with."""


def default_url(storage: Path) -> str:
    """The sqlite database of a storage folder."""
    return f"sqlite:///{storage / 'optuna.db'}"


def read_outcomes(searches: Iterable[Search], url: str) -> dict[str, Outcome]:
    """Key of each search that has begun -> how far it is; a database that does not exist is not made.

    Raises:
        HarnessError: The database cannot be read.
    """
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return {}
    with storage_errors(url):
        storage = open_storage(url)
        known = set(optuna.get_all_study_names(storage))
        found = {}
        for search in searches:
            if (name := study_name(search)) in known:
                study = optuna.load_study(study_name=name, storage=storage)
                found[search.key] = outcome_of(search, study.get_trials(deepcopy=False))
        return found


def expand_tuned(study: StudySpec, *, fingerprint: str, data_root: str = "", url: str) -> Plan:
    """The plan of a study with what its searches have found so far.

    Args:
        study: A checked study.
        fingerprint: Hash of the samples and splits.
        data_root: Folder of the dataset.
        url: Optuna's database; a sqlite file that does not exist is not made.

    Raises:
        SpecError: As `expand`.
        HarnessError: The database cannot be read.
    """
    plan = expand(study, fingerprint=fingerprint, data_root=data_root)
    if not plan.searches:
        return plan
    return expand(study, fingerprint=fingerprint, data_root=data_root, outcomes=read_outcomes(plan.searches, url))


def study_name(search: Search) -> str:
    """Name of the Optuna study of a search."""
    return f"search-{search.key}"


def sampler_of(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """What draws the trial of that number: seeded anew for each, so that one process draws what another would."""
    digest = hashlib.sha256(canonical_json([search.key, search.seed, number]).encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if search.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def pruner_of(search: Search) -> optuna.pruners.BasePruner:
    """Epochs count from 1; both leave the first ninth of a training alone."""
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    first = max(1, search.template.train["epochs"] // KEEP**2)
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=MIN_TRIALS, n_warmup_steps=first)
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=KEEP)


def distribution_of(search: Search, path: str) -> BaseDistribution:
    """What Optuna draws for a path; a grid is made of choices only."""
    dimension = search.space[path]
    if dimension.choices or search.sampler == "grid":
        return CategoricalDistribution([label_of(value) for value in dimension.each() or ()])
    if dimension.is_whole:
        step = int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def suggest(trial: optuna.trial.Trial, path: str, over: BaseDistribution) -> Any:
    """Draw a value for a path, or find the one that was drawn before."""
    if isinstance(over, CategoricalDistribution):
        return trial.suggest_categorical(path, over.choices)
    if isinstance(over, IntDistribution):
        return trial.suggest_int(path, over.low, over.high, step=over.step, log=over.log)
    return trial.suggest_float(path, over.low, over.high, step=over.step, log=over.log)


def label_of(value: Any) -> Any:
    """A value as Optuna keeps choices: text and numbers as they are, lists as JSON."""
    return value if isinstance(value, str | int | float | bool | None) else canonical_json(value)


def values_of(search: Search, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna drew as the configuration wants it."""
    found = {}
    for path, dimension in search.space.items():
        if dimension.choices or search.sampler == "grid":
            named = {canonical_json(label_of(value)): value for value in dimension.each() or ()}
            found[path] = named[canonical_json(drawn[path])]
        else:
            found[path] = dimension.typed(drawn[path])
    return found


def outcome_of(search: Search, trials: Iterable[optuna.trial.FrozenTrial]) -> Outcome:
    """What a search has spent and found; of equal scores the first wins."""
    ended = [t for t in trials if t.state.is_finished()]
    told = [t.user_attrs.get(ABOUT, {}) for t in ended]
    counts = {state: sum(t.state is state for t in ended) for state in (Ended.COMPLETE, Ended.PRUNED, Ended.FAIL)}
    spent = Spent(
        complete=counts[Ended.COMPLETE],
        pruned=counts[Ended.PRUNED],
        failed=counts[Ended.FAIL],
        repeated=sum("repeats" in about for about in told),
        hours=sum(about.get("hours", 0.0) for about in told),
        gpu_hours=sum(about.get("gpu_hours", 0.0) for about in told),
    )
    sign = 1 if METRICS[search.metric].higher_is_better else -1
    complete = [t for t in ended if t.state is Ended.COMPLETE and t.value is not None]
    best = max(complete, key=lambda t: (sign * t.value, -t.number), default=None)
    if best is None:
        causes = [about["cause"] for about in told if "cause" in about]
        return Outcome(spent, cause=causes[-1] if causes else "")
    return Outcome(spent, values_of(search, best.params), best.value)


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The database at a URL, made if it is missing."""
    is_sqlite = url.startswith("sqlite:")
    engine = {"connect_args": {"timeout": 60}} if is_sqlite else {"pool_pre_ping": True}
    for attempt in range(ATTEMPTS):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=engine)
        except SQLAlchemyError:
            if not is_sqlite or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.2)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn whatever a database raises into a `HarnessError` of one line, without the password."""
    try:
        yield
    except (OptunaError, SQLAlchemyError, ImportError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise HarnessError(f"the Optuna database {_shown(url)} must be reachable and writable; got: {first}") from error


def _shown(url: str) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "given"
