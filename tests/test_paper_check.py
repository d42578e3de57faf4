"""A paper's copies of tables and numbers against the store: what differs is named, what does not is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import HarnessError
from reports.build import build_report, fill_tables
from reports.latex import Origin
from reports.paper_check import Current, check_paper
from reports.results import Results
from tests.report_frame import make_frame, make_plan

PUBLISHED_DIR = Path(__file__).parent.parent / "experiments" / "published"
KEY = r"\res{components}{+ MSRC}{val}{miou}"


@pytest.fixture(scope="module")
def current() -> Current:
    plan = make_plan()
    tables = fill_tables(Results(plan, make_frame(plan)), published_dir=PUBLISHED_DIR)
    return Current(Origin(plan.study, plan.spec_sha), {t.name: t for t in tables.shown}, tables.csv)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, from which a paper takes its copies."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        build_report(Results(make_plan(), make_frame(make_plan())), folder, published_dir=PUBLISHED_DIR)
    return folder


@pytest.fixture
def paper(written: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a paper of some copies, of which the first has one text replaced, and a main file."""

    def write(*names: str, change: tuple[str, str] = ("", ""), text: str = "") -> Path:
        folder = tmp_path / "paper"
        (folder / "tables").mkdir(parents=True)
        for name in names:
            content = (written / name).read_text(encoding="utf-8")
            if name == names[0]:
                assert change[0] in content
                content = content.replace(*change, 1)
            (folder / "tables" / name).write_text(content, encoding="utf-8")
        (folder / "main.tex").write_text(text, encoding="utf-8")
        return folder

    return write


def found(path: Path, current: Current) -> list[str]:
    return [str(finding) for finding in check_paper(path, current).findings]


def test_copies_that_are_up_to_date(paper: Callable[..., Path], current: Current) -> None:
    names = [f"{name}.{kind}" for name in current.tables for kind in ("tex", "md", "csv")]
    text = rf"We get {KEY} and \resp{{components}}{{+" + "\n" + r"correlation fusion}{val}{miou} % \res{a}{b}{c}{d}"
    done = check_paper(paper(*names, "numbers.tex", text=text), current)
    assert done.findings == ()
    assert (len(done.checked), done.others, done.cited) == (len(names) + 1, (), 2)


def test_runs_may_differ_and_nothing_else(paper: Callable[..., Path], current: Current) -> None:
    old = "58f34044fac3complete1 1bfbf2c78a2bcomplete1"
    assert found(paper("components.tex", change=(old, "others")), current) == []


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        (
            "components.tex",
            ("41.07", "42.07"),
            "tables/components.tex: table components, row default, val miou: 42.07 ± 0.82 -> 41.07 ± 0.82",
        ),
        (
            "components.tex",
            (r"\textsuperscript{{*}} % delta", r"\textsuperscript{n.s.} % delta"),
            "tables/components.tex: table components, row default, delta val miou: "
            "+0.40 ± 0.03 [n.s.] -> +0.40 ± 0.03 [*]",
        ),
        (
            "components.tex",
            ("n = 3 replicates", "n = 5 replicates"),
            "tables/components.tex: table components, text: …Mean $\\pm$ std over n = 5 replicates. Bold marks",
        ),
        (
            "components.tex",
            ("    + adaptive noise\n", "    + magic\n"),
            "tables/components.tex: table components, row + magic: in the paper -> not in the store's table",
        ),
        (
            "components.md",
            ("41.07 ±", "40.07 ±"),
            "tables/components.md: table components, row default, mIoU ↑: 40.07 ± 0.82 -> 41.07 ± 0.82",
        ),
        (
            "components.csv",
            ("default,val,p50,0.8256666667", "default,val,p50,0.9"),
            "tables/components.csv: table components, row default, val p50: mean=0.9 ",
        ),
        ("numbers.tex", (f"{KEY[4:]}{{40.67}}", f"{KEY[4:]}{{41.99}}"), f"tables/numbers.tex: {KEY}: 41.99 -> 40.67"),
        (
            "components.tex",
            ("table components of", "table components_v1 of"),
            "tables/components.tex: table components_v1: a copy -> "
            "the study has no such table; did you mean 'components'",
        ),
    ],
)
def test_what_differs_is_named(
    paper: Callable[..., Path], current: Current, name: str, change: tuple[str, str], line: str
) -> None:
    lines = found(paper(name, change=change), current)
    assert [text for text in lines if text.startswith(line)] == [lines[0]]
    assert len(lines) == (2 if "magic" in line else 1)


def test_numbers_that_prose_cites_must_exist(paper: Callable[..., Path], current: Current) -> None:
    keys = (r"{components}{+ MSCR}{val}{miou}", r"{comparison}{CMPC}{val}{miou}", r"{components}{+ MSRC}{val}{miou}")
    text = "\n" + rf"\res{keys[0]} \resstd{keys[1]} \resp{keys[2]} \resn{keys[2]}"
    assert found(paper(text=text), current) == [
        rf"main.tex:2: \res{keys[0]}: cited -> there is no such number; row: did you mean '+ MSRC'?",
        rf"main.tex:2: \resstd{keys[1]}: cited -> there is no figure: failed",
        rf"main.tex:2: \resp{keys[2]}: cited -> there is no figure: ref.",
    ]


def test_other_studies_are_left_alone(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("numbers.tex", "components.tex", text=KEY.replace("MSRC", "ELSE"))
    for path in (folder / "tables").iterdir():
        text = path.read_text().replace("of study mafn ? friends", "of study other").replace("+ MSRC", "+ ELSE")
        path.write_text(text)
    done = check_paper(folder, current)
    assert done.findings == ()
    assert (done.checked, done.cited) == ((), 1)
    assert sorted(done.others) == ["tables/components.tex", "tables/numbers.tex"]


def test_a_file_brings_what_it_inputs(paper: Callable[..., Path], current: Current) -> None:
    text = "\\input{tables/components}\n% \\input{tables/kernels}\n\\include{gone}\n"
    folder = paper("components.tex", "kernels.tex", change=("41.07", "42.07"), text=text)
    done = check_paper(folder / "main.tex", current)
    assert (done.checked, len(done.findings)) == (("tables/components.tex",), 1)


def test_an_older_copy_is_known_by_its_name(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("components.tex", change=("41.07", "42.07"))
    path = folder / "tables" / "components.tex"
    path.write_text(path.read_text().partition("\n")[2])
    assert len(found(folder, current)) == 1
    path.write_text("A section on components without a table of numbers.\n")
    assert check_paper(folder, replace(current)).checked == ()


def test_a_paper_that_is_not_there(tmp_path: Path, current: Current) -> None:
    with pytest.raises(HarnessError, match=r"--check must be the folder of a paper or its .tex file, got .*gone"):
        check_paper(tmp_path / "gone", current)
