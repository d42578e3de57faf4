"""A paper's copies of tables and numbers against the store: what differs is named, what does not is not."""

from __future__ import annotations

import re
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


# Where copies stand, and how they were saved

STALE = ("41.07", "42.07")
MAIN = "\\documentclass{article}\n\\begin{document}\n"
LINE = re.compile(r"table components, row default, (?:val miou|mIoU ↑.*): 42.07 ± 0.82 -> 41.07 ± 0.82")

Change = Callable[[Path, str], object]


def linked(folder: Path, text: str) -> None:
    (folder.parent / "shared").mkdir()
    (folder.parent / "shared" / "components.tex").write_text(text)
    (folder.parent / "shared" / "round").symlink_to(folder.parent / "shared")
    (folder / "linked").symlink_to("../shared")


def pasted(folder: Path, text: str) -> None:
    (folder / "main.tex").write_text(f"{MAIN}Some prose.\n{text}\nMore prose.\n\\end{{document}}\n")


def pasted_and_cleaned(folder: Path, text: str) -> None:
    pasted(folder, re.sub(r"(?<!\\)%.*", "%", text))


def cleaned(folder: Path, text: str) -> None:
    """As `arxiv_latex_cleaner` and `latexpand` do."""
    lines = (re.sub(r"(?<!\\)%.*", "%", line) for line in text.split("\n") if not line.startswith("%"))
    (folder / "components.tex").write_text("\n".join(lines))


def reflowed(folder: Path, text: str) -> None:
    """Comments gone with their signs, a row per line, and the caption broken."""
    plain = re.sub(r"(?<!\\)%.*", "", text)
    plain = re.sub(r"\n +& *", " & ", plain).replace("\n    \\\\", " \\\\").replace("Bold marks", "Bold\n  marks")
    assert len(plain.splitlines()) < 60
    (folder / "components.tex").write_text(plain)


def partly_cleaned(folder: Path, text: str) -> None:
    (folder / "components.tex").write_text(re.sub(r"(?<!\\)%.*", "", text, count=7))


def below_another_line(folder: Path, text: str) -> None:
    (folder / "renamed.tex").write_text(f"% !TeX root = main.tex\n{text}")


PLACES: dict[str, Change] = {
    "a link to a folder": linked,
    "pasted": pasted,
    "pasted and cleaned": pasted_and_cleaned,
    "below another line": below_another_line,
    "a mark of byte order": lambda folder, text: (folder / "renamed.tex").write_text(text, encoding="utf-8-sig"),
    "utf-16": lambda folder, text: (folder / "renamed.tex").write_text(text, encoding="utf-16"),
    "latin-1": lambda folder, text: (folder / "a.tex").write_text(f"{text}\n% Häuser", encoding="latin-1"),
    "line ends": lambda folder, text: (folder / "renamed.TEX").write_text(text, newline="\r\n"),
    "cleaned": cleaned,
    "reflowed": reflowed,
    "partly cleaned": partly_cleaned,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_is_found_and_compared(
    paper: Callable[..., Path], written: Path, current: Current, tmp_path: Path, place: str
) -> None:
    folder = paper("numbers.tex")
    text = (written / "components.tex").read_text()
    PLACES[place](folder, text)
    done = check_paper(folder, current)
    assert (done.findings, len(done.checked), done.notes) == ((), 2, ())
    other = tmp_path / "stale" / "paper"
    other.mkdir(parents=True)
    PLACES[place](other, text.replace(*STALE, 1))
    (finding,) = check_paper(other, current).findings
    assert LINE.fullmatch(f"{finding.what}: {finding.old} -> {finding.new}")


@pytest.mark.parametrize("name", ["components.md", "components.csv"])
def test_other_copies_may_have_a_mark_of_byte_order(paper: Callable[..., Path], current: Current, name: str) -> None:
    folder = paper(name)
    path = folder / "tables" / name
    right = path.read_text(encoding="utf-8")
    path.write_text(right, encoding="utf-8-sig")
    done = check_paper(folder, current)
    assert (done.findings, done.checked) == ((), (f"tables/{name}",))
    path.write_text(
        right.replace("default,val,p50,0.8256666667", "default,val,p50,0.9").replace(*STALE, 1), "utf-8-sig"
    )
    assert len(found(folder, current)) == 1


def test_several_tables_of_one_file_are_copies_each(
    paper: Callable[..., Path], written: Path, current: Current
) -> None:
    components, kernels, numbers = ((written / f"{n}.tex").read_text() for n in ("components", "kernels", "numbers"))
    numbers = numbers.replace(f"{KEY[4:]}{{40.67}}", f"{KEY[4:]}{{41.99}}")
    other = kernels.replace("of study mafn ? friends", "of study other").replace("kernels", "nothing")
    theirs = numbers.replace("of study mafn ? friends", "of study other").replace("+ MSRC", "+ ELSE")
    tables = f"{components.replace(*STALE, 1)}\n{KEY}\n{other}\n{kernels}"
    text = f"{MAIN}{numbers}\n{theirs}\nProse.\n{tables}\\end{{document}}"
    done = check_paper(paper(text=text), current)
    assert (done.checked, done.others, done.cited) == (("main.tex",) * 3, ("main.tex",), 1)
    assert [finding.what for finding in done.findings] == [KEY, "table components, row default, val miou"]


def test_numbers_without_a_first_line_are_compared(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("numbers.tex", change=(f"{KEY[4:]}{{40.67}}", f"{KEY[4:]}{{41.99}}"))
    path = folder / "tables" / "numbers.tex"
    path.write_text("\n".join(line.rstrip("%") for line in path.read_text().split("\n") if line[:1] != "%"))
    assert found(folder, current) == [f"tables/numbers.tex: {KEY}: 41.99 -> 40.67"]
    path.write_text(re.sub(r"(harnessnumber\{\w+\})\{\w+\}", r"\1{theirs}", path.read_text()))
    assert check_paper(folder, current).others == ("tables/numbers.tex",)


@pytest.mark.parametrize(
    "command",
    [
        r"\input tables/components",
        r"\input{tables/components.tex}",
        r"\input{ tables/components }",
        r'\input{"tables/components"}',
        r'\input "tables/components" ',
        r"\include{tables/components}",
        r"\import{tables/}{components}",
        r"\import*{tables}{components.tex}",
        r"\subimport{./tables/}{components}",
        r"\subfile{tables/components}",
        r"\InputIfFileExists{tables/components.tex}{}{}",
        r"\input{tables/inner}",
        r"\subimport{tables/}{inner}",
    ],
)
def test_a_file_brings_what_it_inputs_however_that_is_written(
    paper: Callable[..., Path], current: Current, command: str
) -> None:
    folder = paper("components.tex", "kernels.tex", change=STALE, text=f"Text. {command}\n")
    (folder / "tables" / "inner.tex").write_text("\\input{components}\n\\input{../main}")
    done = check_paper(folder / "main.tex", current)
    assert (done.checked, len(done.findings), done.notes) == (("tables/components.tex",), 1, ())


def test_a_file_brings_tables_that_packages_read(paper: Callable[..., Path], current: Current) -> None:
    text = "\\csvautotabular{tables/components.csv} \\markdownInput{tables/kernels.md}"
    folder = paper("components.csv", "kernels.md", text=text)
    assert check_paper(folder / "main.tex", current).checked == ("tables/components.csv", "tables/kernels.md")


def test_a_folder_brings_what_it_inputs_from_elsewhere(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("components.tex", change=STALE, text="\\input{../components}")
    (folder / "tables" / "components.tex").rename(folder.parent / "components.tex")
    assert found(folder, current)[0].startswith("../components.tex: table components, row default")


def test_inputs_that_cannot_be_followed_are_named(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("components.tex", text="\\input{\\where/components} \\input{gone} \\newcommand\\x[1]{\\input{a/#1}}")
    done = check_paper(folder / "main.tex", current)
    assert [str(finding) for finding in done.findings] == [
        "main.tex: input \\where/components: no such file -> compare the folder that holds it"
    ]
    assert done.notes == ("main.tex inputs a/#1, which only LaTeX can find; --check of the folder reads every file",)
    done = check_paper(folder, current)
    assert (done.findings, done.notes) == ((), ())


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("components.csv", b"a;b\n1;2\n", "no copy that can be read"),
        ("components.md", b"| a | b |\n|---|---|\n| 1 | 2 |\n", "no copy that can be read"),
        (
            "components.tex",
            b"\\begin{tabular}{ll}\na & b \\\\\n\\end{tabular}\n",
            "no rows of figures that can be read",
        ),
        (
            "a.tex",
            b"% harness table components of study mafn ? friends, sha 1;\n",
            "no rows of figures that can be read",
        ),
        ("components.tex", b"\\begin{tabular}\0\0", "it is no text in UTF-8 or Latin-1"),
        ("components.csv", None, "No such file or directory"),
    ],
)
def test_what_is_named_as_a_copy_and_is_none_is_named(
    paper: Callable[..., Path], current: Current, name: str, data: bytes | None, why: str
) -> None:
    folder = paper("numbers.tex")
    if data is None:
        (folder / name).symlink_to("gone.csv")
    else:
        (folder / name).write_bytes(data)
    (finding,) = check_paper(folder, current).findings
    assert (finding.place, finding.old) == (name, why)


def test_a_section_by_the_name_of_a_table_is_noted(paper: Callable[..., Path], current: Current) -> None:
    folder = paper("numbers.tex")
    (folder / "components.tex").write_text("Of \\res{components}{none}{val}{miou}.\n% \\begin{tabular}\n")
    done = check_paper(folder, current)
    assert done.notes == ("components.tex is named as a table of the report and holds none",)
    assert [finding.place for finding in done.findings] == ["components.tex:1"]


def test_files_that_are_no_texts_do_not_stop_a_check(paper: Callable[..., Path], current: Current) -> None:
    text = "\\section{Prose}\n\\input{old}\n"
    folder = paper("components.tex", "numbers.tex", change=STALE, text=text)
    (folder / "data.csv").write_bytes(b"\xff\xfe\xfd\0\1")
    (folder / "notes.md").write_bytes("Größe".encode("latin-1"))
    (folder / "old.tex").write_bytes(f"Größe: {KEY.replace('MSRC', 'MSCR')}".encode("latin-1"))
    (folder / "picture.tex").write_bytes(b"\0\1\2\xff")
    (folder / "itself.csv").symlink_to("itself.csv")
    (folder / "circle.tex").symlink_to("circle.tex")
    for path in (folder, folder / "main.tex"):
        done = check_paper(path, current)
        assert ("old.tex:1", "cited") in [(finding.place, finding.old) for finding in done.findings]
    assert len(check_paper(folder, current).findings) == 2
    assert check_paper(folder, current).notes == (
        "circle.tex cannot be read: Too many levels of symbolic links",
        "picture.tex cannot be read: it is no text in UTF-8 or Latin-1",
    )


def test_a_paper_that_is_not_there(tmp_path: Path, current: Current) -> None:
    with pytest.raises(HarnessError, match=r"--check must be the folder of a paper or its .tex file, got .*gone"):
        check_paper(tmp_path / "gone", current)
    (tmp_path / "main.tex").write_bytes(b"\0")
    with pytest.raises(HarnessError, match=r"main.tex must be a readable text: it is no text in UTF-8 or Latin-1"):
        check_paper(tmp_path / "main.tex", current)
