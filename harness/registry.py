"""Names to objects: `Registry` finds a model or dataset by the name of the file it lives in.

Adding `models/lavt.py` that holds `@MODELS.register("lavt")` is all it takes to make `name: lavt` valid in a study.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from harness.errors import UnknownNameError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A name -> object table that imports the module of a name when the name is first asked for.

    Args:
        kind: What the entries are, for messages ("model", "dataset").
        package: Dotted package whose modules register entries under their own file name; None for entries that are
            registered by code that is already imported.
        private: Module names of the package that hold no entry.
    """

    def __init__(self, kind: str, package: str | None = None, *, private: frozenset[str] = frozenset()) -> None:
        self.kind = kind
        self._package = package
        self._private = private
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under `name`; ValueError if the name is taken."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} name {name!r} must be registered once; it is already taken")
            self._entries[name] = entry
            return entry

        return enter

    def names(self) -> tuple[str, ...]:
        """All valid names, sorted, without importing anything."""
        return tuple(sorted({*self._entries, *self._modules()}))

    def get(self, name: str) -> T:
        """Return the entry of `name`.

        Raises:
            UnknownNameError: No such name; the message gives the nearest ones.
        """
        if name not in self._entries and name in self._modules():
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._entries:
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {nearest(name, self.names())}")
        return self._entries[name]

    def _modules(self) -> frozenset[str]:
        if self._package is None:
            return frozenset()
        paths = importlib.import_module(self._package).__path__
        found = {m.name for m in pkgutil.iter_modules(paths) if not m.ispkg}
        return frozenset(found - self._private)
