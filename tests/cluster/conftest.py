"""Hosts for the tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.nodes import Hosts, unavailable


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """A network of hosts, so far with its gate only; skips where namespaces are not permitted."""
    if reason := unavailable():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="hosts"))
    with Hosts(folder) as made:
        yield made
    shutil.rmtree(folder)
