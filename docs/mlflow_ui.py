"""Takes the pictures of `mlflow_ui.md`: a study's pages in the MLflow UI, as headless Chromium shows them.

python -m docs.mlflow_ui --storage runs --study demo
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from harness.results import connect, runs_page
from tests.servers import MlflowServer

WIDTH, HEIGHT = 1900, 760
ASSISTANT = 488
"""Pixels at the right that MLflow's assistant takes."""
PAGES = {
    "variants": ("variants", ""),
    "charts": ("means", "&compareRunsMode=CHART"),
    "images": ("pictures", "&compareRunsMode=CHART"),
}
"""Picture -> the view, and what is added to the address of a study's runs."""
COLOURS = {"images": 256}
"""Picture -> colours that are kept, where they are not 64."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VIEW = "viewStateShareKey=variants"


def browse(address: str, *what: str) -> subprocess.CompletedProcess[str]:
    """Open a page in Chromium once all of it is there, and do something with it.

    Args:
        address: Of the page.
        what: Options of Chromium, for example `--dump-dom`.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit("error: Chromium must be on PATH (Debian: apt-get install chromium)")
    with TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        options += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=90000"]
        command = [program, *options, f"--window-size={WIDTH},{HEIGHT}", *what, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def main() -> None:
    """Start a server on a storage's store, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", type=Path, default=Path("runs"))
    parser.add_argument("--study", default="demo")
    given = parser.parse_args()
    store = f"sqlite:///{(given.storage / 'mlflow.db').absolute()}"
    connect(store)
    with TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder), store)
        server.start()
        try:
            server.wait()
            address = runs_page(server.uri, given.study)
            for name, (view, more) in PAGES.items():
                picture = Path(__file__).with_name(f"mlflow_ui_{name}.png")
                browse(address.replace(VIEW, f"viewStateShareKey={view}") + more, f"--screenshot={picture}")
                whole = Image.open(picture).convert("RGB").crop((0, 0, WIDTH - ASSISTANT, HEIGHT))
                whole.quantize(COLOURS.get(name, 64)).save(picture, optimize=True)
                print(f"{picture}  {picture.stat().st_size / 1000:.0f} kB")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
