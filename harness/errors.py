"""Every error this package raises on purpose.

A message says what must hold, what was received and what to do, in one line. `HarnessError` is the user's mistake: the
command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """A mistake in what the user gave: a study, an option, a folder, a file."""


class SpecError(HarnessError):
    """A study file that cannot be accepted; the message starts with `file:line:`."""


class UnknownNameError(HarnessError):
    """A name that is not registered; the message lists the nearest names."""


class DataError(HarnessError):
    """A dataset folder or file that is missing, damaged or of another layout."""


class TrackingError(HarnessError):
    """A tracking store that cannot be used."""


class TrialError(Exception):
    """A trial that cannot go on for a reason that is not the user's mistake."""


class DivergedError(TrialError):
    """Training whose loss is no number any more, or exploded."""


class TrialStopped(Exception):  # noqa: N818 -- no error: the trial was asked to
    """A trial that was asked to end and has saved the state to go on from."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the valid names nearest to `name`, or all of them when none is near.

    Args:
        name: What was received.
        known: Valid names.

    Returns:
        For example ``did you mean 'mafn'?`` or ``valid: lavt, mafn, rmsin``.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    return "valid: " + (", ".join(names) if names else "(none)")
