"""The page of a report: escaped, self-contained, honest about what is missing, sorted by a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.records import Plan
from reports.answer import answer
from reports.build import build_report
from reports.html import Page, render_page
from reports.origins import Origin
from reports.page_parts import Background, Runs, looks_words
from reports.results import Results
from reports.stale import mark_stale
from reports.tables import build_table
from tests.drawn_study import make_request
from tests.judged_study import make_judged
from tests.report_frame import AWKWARD, make_frame, make_plan

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
NASTY = """<script>alert(1)</script>" onload='x' {{ 7 * 7 }} </style></pre>"""
VOID = {"meta", "link", "img", "br"}


@dataclass
class Read(HTMLParser):
    """A document as a browser would read it: its elements, its text, and whether every element is closed."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    """(innermost element, text)."""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def shown(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


def read(text: str) -> Read:
    found = Read()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


def page(plan: Plan, background: Background | None = None, frame_of: Plan | None = None) -> str:
    frame = make_frame(frame_of or plan)
    tables = [build_table(Results(plan, frame), table) for table in plan.tables]
    known = background or Background()
    return render_page(Page(plan, tables, Runs(Results(plan, frame), known), study_text=known.study_text))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the awkward study, with published rows."""
    plan = make_plan()
    folder = tmp_path_factory.mktemp("page")
    return build_report(Results(plan, make_frame(plan)), folder, published_dir=PUBLISHED_DIR).html


@pytest.fixture(scope="module")
def found(report: Path) -> Read:
    return read(report.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(report: Path, found: Read) -> None:
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in found.elements)
    assert {a["href"][:1] for a in found.all("a")} == {"#"}
    assert [link["href"] for link in found.all("link")] == ["data:,"]
    code = " ".join(text for tag, text in found.texts if tag in ("style", "script"))
    assert not re.search(r"@import|url\(|https?://(?!\")|fetch|XMLHttp", code)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    aims = {a["href"][1:] for a in found.all("a")}
    assert aims | {b["popovertarget"] for b in found.all("button") if "popovertarget" in b} <= set(ids)
    assert "width=device-width" in report.read_text(encoding="utf-8")


def test_everything_a_study_says_is_escaped(found: Read) -> None:
    assert AWKWARD in found.shown
    plan = make_plan()
    table = plan.tables[1]
    rows = tuple(replace(row, label=f"{NASTY} {i}") for i, row in enumerate(table.rows))
    nasty = replace(
        plan,
        question=NASTY,
        study=NASTY,
        data_note=NASTY,
        tables=(replace(table, rows=rows, published=None, caption=NASTY),),
        skipped=(replace(plan.skipped[0], reason=NASTY, variant=NASTY),),
        trials=tuple(replace(trial, variant=NASTY) for trial in plan.trials),
    )
    background = Background(
        lambda _: "javascript:alert(1)", lambda _: NASTY, lambda _: {NASTY: NASTY}, study_text=NASTY
    )
    seen = read(page(nasty, background, frame_of=plan))
    assert len(seen.all("script")) == len(seen.all("style")) == 1
    assert not [a for _, attributes in seen.elements for a in attributes if a.startswith("on")]
    assert not seen.all("a") or all(a["href"].startswith("#") for a in seen.all("a"))
    assert seen.shown.count(" ".join(NASTY.split())) > 20
    assert "{{ 7 * 7 }}" in seen.shown


def test_looks_at_the_test_split_are_counted(tmp_path: Path) -> None:
    plan = make_plan()
    one, two = plan.trials[0].id, plan.trials[1].id
    looks = [("s", one), ("s", two), ("older", one), ("older", "x"), ("older", "y")]
    results = Results(plan, make_frame(plan))
    made = build_report(results, tmp_path, published_dir=PUBLISHED_DIR, background=Background(looks=looks))
    shown = read(made.html.read_text(encoding="utf-8")).shown
    said = "2 trials of the plan, and 2 on the same data that are not (study “older”)"
    assert f"Scored on the test split {said}" in shown
    assert looks_words(plan, looks[:1]) == "1 trial of the plan, and no other on the same data"
    assert looks_words(plan, []) == ""


def test_cells_say_what_is_behind_them(found: Read) -> None:
    assert found.shown.count("every replicate failed: failed") == 14
    assert "Row LGCE No figure no replicate has this figure Replicates 0 of 3" in found.shown
    mafn = make_plan().tables[0].rows[-1]
    frame = make_frame(make_plan())
    shown = frame[(frame.state == "COMPLETE") & (frame.split == "val") & (frame.metric == "miou")]
    miou = shown[~shown.run_id.str.endswith("complete0")].set_index("trial_id").value * 100
    for replicate, trial in enumerate(mafn.trial_ids):
        assert f"Replicate {replicate}: {miou[trial]:.2f}, trial {trial}" in found.shown
        assert f"Replicate {replicate}, trial {trial} : complete Run {trial}complete1" in found.shown
    assert "Published in MAFN paper (arXiv:2503.11183)" in found.shown
    default = make_plan().tables[1].rows[0].trial_ids[0]
    less = miou[default] - miou[mafn.trial_ids[0]]
    assert f"Replicate 0: {less:+.2f}, trial {default} less trial {mafn.trial_ids[0]}" in found.shown
    assert "Trials without it" in found.shown
    assert "Tests differs from the reference; no test samples took part in the interval" in found.shown
    assert found.shown.count("published ") > 14


def test_a_trial_is_described_once_with_its_origin_and_what_it_differs_in() -> None:
    plan = make_plan()
    ids = plan.tables[1].rows[0].trial_ids
    cause = f"code of the model: {NASTY}"
    known = Origin(commit="a" * 40, code_sha="b" * 12, data_fingerprint="f" * 12, log="log-0.txt", stale=(cause,))
    origins = {
        t: replace(known, run_id=f"{t}complete1", dirty=dirty, checkpoint=f"trials/{t}/best-4.pt")
        for t, dirty in zip(ids, (True, False, None), strict=True)
    }
    frame = make_frame(plan)
    tables = [mark_stale(build_table(Results(plan, frame), table), plan, origins) for table in plan.tables]
    seen = read(render_page(Page(plan, tables, Runs(Results(plan, frame), Background()), origins=origins)))
    assert len([a for _, a in seen.elements if a.get("id", "").startswith("t-")]) == len(plan.trials)
    differs = 'Differs from the reference in model.fusion = "sum"; model.noise = false; model.decoder = "arc"'
    shared = f"Code {'b' * 12} Data {'f' * 12} Log log-0.txt Stale {' '.join(cause.split())}"
    assert f"components/default: 3 trials, stale {differs} {shared} Replicate 0" in seen.shown
    own = f"Commit {'a' * 40}, changed since (code.diff) Weights trials/{ids[0]}/best-4.pt"
    assert f"complete Run {ids[0]}complete1 {own}" in seen.shown
    assert f"Commit {'a' * 40}, not known whether changed" in seen.shown
    assert "kernels/[1, 3, 5]: 3 trials Differs from the reference in nothing Replicate 0" in seen.shown
    assert "comparison/CMPC: 3 trials" in seen.shown
    assert "failed Run" in seen.shown
    assert f"Stale changed since its trials ran: {' '.join(cause.split())}" in seen.shown


def test_a_server_s_runs_are_linked_and_tracebacks_quoted_once_per_cause() -> None:
    asked = []

    def traceback(run_id: str) -> str:
        asked.append(run_id)
        return f"Traceback of {run_id}"

    background = Background(lambda run: f"https://mlflow.example.org/#/runs/{run}", traceback, lambda _: {"torch": "9"})
    seen = read(page(make_plan(), background))
    linked = {a["href"].rpartition("/")[2] for a in seen.all("a") if a["href"].startswith("https:")}
    assert len(linked) == 33, "every trial that has started"
    assert len(asked) == 3
    assert "2 trials: OutOfMemoryError: tried to allocate 24.00 GiB (GPU 0)" in seen.shown
    assert f"Traceback of the first: Traceback of {asked[0]}" in seen.shown
    assert "Commit c0ffee Code (SHA-256) not recorded torch 9" in seen.shown
    assert "Data rrsis_d ffffffffffff" in seen.shown
    assert "3 waiting, 2 running, 26 complete, 5 failed of 36 trials" in seen.shown
    assert "CMPC+ (table comparison): needs GloVe_6B" in seen.shown


def test_figures_are_inside_with_their_captions(tmp_path: Path) -> None:
    request = make_request(figures=("delta",))
    files = build_report(request, tmp_path, published_dir=PUBLISHED_DIR)
    pngs = [path for path in files.figures if path.suffix == ".png"]
    seen = read(files.html.read_text(encoding="utf-8"))
    assert len(seen.all("img")) == len(pngs) > 0
    assert all(image["src"].startswith("data:image/png;base64,iVBOR") for image in seen.all("img"))
    assert "A circle is one replicate" in seen.shown


def judged_answer(*, replicates: int = 3) -> str:
    plan, table, frame, sources = make_judged(replicates=replicates)
    plan = replace(plan, tables=(table,))
    model = build_table(Results(plan, frame, sources), table)
    return answer(plan, [model], finished=len(plan.trials))


def test_the_answer_tells_the_useful_from_the_useless() -> None:
    said = judged_answer()
    start, differ, alike = re.split(r"points: |differ from it, ", said.replace("validation: ", "validation points: "))
    assert start == "In table parts, against “full” in mIoU on validation "
    assert re.match(r"“without fusion” \(−\d\.\d\d points, 95 % interval −\d.\d\d to −\d.\d\d\) and “other", differ)
    assert alike.startswith("“without noise” (")
    assert alike.endswith(" cannot be told from it.")
    assert said.count(".") - len(re.findall(r"\d\.\d", said)) == 1, "one sentence"


def test_one_replicate_gives_no_claim() -> None:
    said = judged_answer(replicates=1)
    assert said.endswith(" are untested (one replicate).")
    assert "interval" not in said
    assert "differ" not in said


def test_the_answer_says_what_is_best_and_what_is_not_there() -> None:
    plan = make_plan()
    frame = make_frame(plan)
    compared = replace(plan, tables=plan.tables[:1])
    tables = [build_table(Results(compared, frame), compared.tables[0])]
    said = answer(compared, tables, finished=26)
    assert said == (
        "In table comparison, “MAFN” (40.67 %) has the best mIoU on validation and can be told from every other row "
        "that was tested; all this rests on 26 of 36 trials, the others have no result."
    )
    empty = [build_table(Results(compared, frame.head(0)), compared.tables[0])]
    assert answer(compared, empty, finished=0).startswith("In table comparison, no row has mIoU on validation yet; ")


def browse(path: Path, script: str = "", fragment: str = "") -> str:
    """The page as Chromium has it after a script; every complaint on its console is a failure."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("chromium is not on PATH")
    copy = path.with_name("browsed.html")
    text = path.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    words = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    words += ["--enable-logging=stderr", f"--user-data-dir={path.parent / 'profile'}", f"{copy.as_uri()}{fragment}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    return done.stdout


def labels(text: str, name: str) -> list[str]:
    """Labels of a table's rows in the order in which they stand."""
    table = text[text.index(f'data-name="{name}"') :]
    return [unescape(label) for label in re.findall(r'data-text="([^"]*)"', table[: table.index("</table>")])]


def test_a_browser_sorts_by_numbers_inside_blocks(report: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(report, tmp_path))
    plain = labels(page.read_text(encoding="utf-8"), "kernels")
    assert plain[:4] == ["[1]", "[1, 3]", "[1, 3, 5]", "[1, 3, 5, 7]"]
    down = labels(browse(page, fragment="#sort=kernels:6"), "kernels")
    assert down[:4] == ["[1, 3, 5, 7]", "[1, 3]", "[1]", "[1, 3, 5]"]
    quoted = ["kernels [1, 3, 5, 7]", "kernels [1]", "kernels [1, 3]", "kernels [1, 3, 5]"]
    assert down[4:] == quoted, (
        "published rows stay in their block; -0.28, -1.09, -1.49 and the reference, which has none"
    )
    click = (
        "const heads = document.querySelectorAll('[data-name=comparison] thead th button');"
        "heads[1].click(); heads[1].click(); document.querySelector('td button').click();"
    )
    dom = browse(page, click)
    assert labels(dom, "comparison")[:6] == ["LAVT", "RMSIN", AWKWARD, "MAFN", "LGCE", "CMPC"]
    assert dom.count('class="number" aria-sort="ascending"') == dom.count('" aria-sort=') == 1


def test_a_link_behind_a_figure_opens_the_trial_it_leads_to(report: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(report, tmp_path))
    trial = make_plan().tables[1].rows[0].trial_ids[0]
    click = (
        "const cell = [...document.querySelectorAll('[data-name=components] td')].find((c) => c.dataset.value);"
        "cell.querySelector('button').click(); const box = cell.querySelector('[popover]');"
        "const was = box.matches(':popover-open'); box.querySelector('a').click();"
        "const opened = () => document.querySelectorAll('#trials details[open]').length;"
        "addEventListener('hashchange', () => document.title = [was, box.matches(':popover-open'), "
        "location.hash, document.activeElement.id, opened()].join(' '));"
    )
    found = re.search(r"<title>([^<]+)", browse(page, click))
    assert found is not None
    assert found[1] == f"true false #t-{trial} t-{trial} 1"


def test_nothing_is_wider_than_a_phone(report: Path, tmp_path: Path) -> None:
    page = Path(shutil.copy(report, tmp_path))
    framed = (
        f'<iframe width="390" srcdoc="{escape(page.read_text(encoding="utf-8"))}"></iframe><script>'
        "const inner = document.querySelector('iframe'); const root = () => inner.contentDocument.documentElement;"
        "addEventListener('load', () => document.title = `${root().clientWidth} ${root().scrollWidth}`);</script>"
    )
    page.write_text(f"<title>none</title><body>{framed}</body>", encoding="utf-8")
    found = re.search(r"<title>([^<]+)", browse(page))
    assert found is not None
    assert found[1] == "390 390"
