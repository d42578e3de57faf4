"""What an archive for others must not hold: folders of the machine that it is made on, and where its data lies."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.records import Trial

BINARY = (".parquet", ".png", ".pdf")


@dataclass(frozen=True)
class Private:
    """Folders that are known by another name outside of this machine."""

    names: Mapping[str, str]
    """Absolute path -> what stands for it; the longest first."""

    @classmethod
    def of(cls, storage: Path, spec: Path, data_roots: Iterable[str]) -> Private:
        """The folders that the records of a study may name.

        Args:
            storage: Of its runs.
            spec: Its file.
            data_roots: Folders of datasets, empty where they are generated.
        """
        found = {str(Path(root).absolute()): "${DATA_ROOT}" for root in data_roots if root}
        found |= {str(spec.absolute().parent): "STUDY", str(storage.absolute()): "STORAGE"}
        found |= {str(Path(__file__).resolve().parent.parent): "CODE", sys.prefix: "PYTHON"}
        found |= {str(Path.cwd()): "HERE", str(Path.home()): "~"}
        long = (path for path in found if path.count("/") > 1 or path == str(Path.home()) != "/")
        return cls({path: found[path] for path in sorted(long, key=len, reverse=True)})

    def text(self, text: str) -> str:
        """A text without them."""
        for path, name in self.names.items():
            text = text.replace(path, name)
        return text

    def value(self, value: Any) -> Any:
        """JSON without them."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    @staticmethod
    def trial(trial: Trial) -> Trial:
        """A trial without its data's folder and its mirror; its identity stays what it was."""
        return replace(trial, data_root="", checkpoints=replace(trial.checkpoints, mirror=None))

    def left_in(self, folder: Path) -> list[str]:
        """A line for each text file that still names one of them, for example weights that a trial's identity names."""
        found = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in BINARY):
            text = path.read_text(encoding="utf-8", errors="ignore")
            for place in (p for p in self.names if f"{p}/" in text):
                found.append(f"{path.relative_to(folder)} names {place}, a folder of this machine; look at it")
                break
        return found
