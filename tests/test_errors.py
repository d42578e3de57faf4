"""The exception tree, and hints that name what is near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import (
    DataError,
    HarnessError,
    SpecError,
    TrackingError,
    TrialError,
    UnknownNameError,
    nearest,
)


@pytest.mark.parametrize("kind", [SpecError, UnknownNameError, DataError, TrackingError])
def test_mistakes_of_the_user_have_one_base(kind: type[Exception]) -> None:
    assert issubclass(kind, HarnessError)


def test_a_failing_trial_is_not_a_mistake_of_the_user() -> None:
    assert not issubclass(TrialError, HarnessError)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("mafm", ["mafn", "lavt"], "did you mean 'mafn'?"),
        ("iou", ["oiou", "miou"], "did you mean 'oiou' or 'miou'?"),
        ("x", ["b", "a", "a"], "valid: a, b"),
        ("x", [], "valid: (none)"),
    ],
)
def test_hints(name: str, known: list[str], hint: str) -> None:
    assert nearest(name, known) == hint


@given(name=st.text(min_size=1, max_size=9), known=st.lists(st.text(min_size=1, max_size=9), max_size=9))
def test_hints_do_not_depend_on_order_or_repetition(name: str, known: list[str]) -> None:
    assert nearest(name, known) == nearest(name, [*reversed(known), *known])
