"""`python -m harness`, and the script to give to `ray submit`, which copies it to the head of a cluster and runs it.

The copy stands alone in the home folder: it goes on with the interpreter and the code that `cluster.yaml` put there.
"""

import os
import sys
from itertools import takewhile
from pathlib import Path

INSTALLED = Path.home() / "rs-ablation-harness"
"""Where `cluster.yaml` puts this repository on every host."""


def run_installed(words: list[str]) -> None:
    """Become `harness` of the installed repository, in its folder, on the Ray that runs on this host.

    Args:
        words: Its arguments, after any number of `NAME=VALUE` for its environment.
    """
    python = INSTALLED / ".venv" / "bin" / "python"
    if not python.exists():
        sys.exit(f"error: {python} must exist on the head, as cluster.yaml sets it up; run: ray up cluster.yaml")
    given = list(takewhile(lambda word: "=" in word and not word.startswith("-"), words))
    for word in given:
        name, _, value = word.partition("=")
        os.environ[name] = value
    os.environ.setdefault("RAY_ADDRESS", "auto")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.chdir(INSTALLED)
    os.execv(python, [str(python), "-m", "harness", *words[len(given) :]])


if __name__ == "__main__":
    if not __package__:
        run_installed(sys.argv[1:])
    from harness.cli import main

    main()
