"""The rules of the house, checked on source text: layers, homes of heavy packages, sizes, docstrings, no stray paths.

A rule is a function from `{path: text}` to findings of the form `path:line: what must hold`. To place a new module, add
its name to `LAYERS`; to give a heavy package a home, add it to `HOMES`.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("harness/", "models/", "reports/")

Files = Mapping[str, str]
Rule = Callable[[Files], list[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef

# Lowest first. A module imports its own layer and those above it in this list; a package stands for all its modules.
LAYERS = (
    ("harness", "harness.errors", "harness.registry", "harness.canonical"),
    (
        *("harness.records", "harness.tuning", "harness.seeding"),
        *("harness.environment", "harness.faults", "harness.claims"),
    ),
    (
        *("harness.trial_folder", "harness.trial_lookup", "harness.placement", "harness.schedule", "harness.retry"),
        *("harness.stopping", "harness.frozen_code", "harness.isolation", "harness.spool"),
    ),
    ("harness.trial_log", "harness.trial_diff", "harness.garbage", "harness.code_reach"),
    ("harness.metrics", "harness.confusion", "harness.data.base", "harness.error_picture", "harness.pictures"),
    (
        *("harness.spec", "harness.spec_part", "harness.spec_recipe", "harness.spec_protocol", "harness.spec_report"),
        *("harness.spec_search", "harness.spec_errors"),
        *("harness.yaml_lines", "harness.overrides"),
    ),
    (
        *("models", "harness.data", "harness.losses", "harness.sliding_window", "harness.distributed"),
        "harness.batch_parts",
    ),
    (
        *("harness.semantic_task", "harness.semantic_pictures", "harness.tasks", "harness.train", "harness.evaluate"),
        *("harness.checkpoint", "harness.mirror", "harness.watch", "harness.cost", "harness.system_metrics"),
    ),
    ("harness.feature_maps",),
    (
        *("harness.resolve", "harness.designs", "harness.plan_search", "harness.plan", "harness.plan_view"),
        *("harness.search_view", "harness.data_view", "harness.results", "harness.results_sql"),
    ),
    ("harness.artifacts",),
    ("harness.trial", "harness.convert"),
    (
        *("harness.attempt", "harness.executor", "harness.search_store", "harness.search", "harness.progress"),
        *("harness.tracking", "harness.courier", "harness.delivery", "harness.sync"),
        *("harness.run_note", "harness.run_objects", "harness.run_views"),
    ),
    ("harness.study_status", "harness.status_view", "harness.doctor"),
    ("harness.local_executor", "harness.ray_worker", "harness.ray_check"),
    ("harness.ray_jobs",),
    ("harness.ray_executor",),
    ("harness.study", "harness.search_phase"),
    ("reports",),
    (
        *("harness.panels", "harness.origins", "harness.explain", "harness.explain_view"),
        *("harness.private_paths", "harness.packed", "harness.rebuild", "harness.pack", "harness.retrain"),
    ),
    ("harness.verbs",),
    ("harness.cli",),
    ("harness.__main__",),
)
PACKAGES = ("models", "harness.data", "reports", "harness.verbs")
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What `reports` may see of `harness`: numbers, their names and how errors are painted, nothing that computes them.
REPORTS_SEE = (
    "harness.errors",
    "harness.registry",
    "harness.canonical",
    "harness.records",
    "harness.metrics",
    "harness.error_picture",
    "harness.results",
    "harness.yaml_lines",
    "harness.spec_errors",
)

# The only files under `CODE` that import a heavy package, at module level or inside a function.
HOMES = {
    "ray": (*(f"harness/ray_{name}.py" for name in ("executor", "jobs", "worker", "check")),),
    "optuna": ("harness/search.py", "harness/search_store.py"),
    "mlflow": ("harness/results.py", "harness/delivery.py", "harness/run_objects.py"),
    "rasterio": ("harness/data/raster.py",),
    "timm": ("models/vision.py",),
    "transformers": ("models/text.py",),
    "tokenizers": ("models/text.py",),
}

# Packages that take seconds to import; plans and reports, which build no model, do not wait for them.
LATE = ("timm", "transformers", "torchvision")

# Importing one of these must not import torch, neither itself nor through another module of ours.
LIGHT = (
    *(f"harness.{m}" for m in ("errors", "registry", "records", "seeding", "environment", "metrics", "confusion")),
    *(f"harness.{m}" for m in ("faults", "claims", "trial_folder", "trial_lookup", "placement", "schedule", "retry")),
    *(f"harness.{m}" for m in ("trial_log", "trial_diff", "garbage", "study_status", "status_view", "doctor")),
    *(f"harness.{m}" for m in ("spool", "tracking", "sync", "tuning", "attempt", "executor", "study")),
    *(f"harness.{m}" for m in ("ray_jobs", "ray_executor")),
    *(f"harness.{m}" for m in ("spec", "spec_part", "spec_recipe", "spec_protocol", "spec_report", "spec_search")),
    *(f"harness.{m}" for m in ("spec_errors", "yaml_lines", "overrides", "canonical")),
    *(f"harness.{m}" for m in ("plan_view", "results", "artifacts", "panels", "origins", "explain", "verbs", "cli")),
    *(f"harness.{m}" for m in ("pack", "packed", "private_paths", "rebuild", "error_picture", "pictures")),
    "reports",
)

MAX_LINES = {"harness/": 400, "reports/": 400, "models/": 500, "tests/": 700}
MAX_BODY = 60
MAX_ARGUMENTS = 6
BANNED_STEMS = ("utils", "helpers", "common", "manager", "engine", "core")

# Bases that bring no documented methods of their own; a method of any other subclass may inherit its docstring.
PLAIN_BASES = ("Protocol", "Generic", "ABC", "NamedTuple", "TypedDict", "Enum", "StrEnum", "IntEnum", "object")

PERSONAL_PATH = re.compile(r"(?<![\w.~}$-])/(?:home|root|work|Users)/\w")
REGISTRY_HOST = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.(?:org|com)|pypi\.nvidia\.com)"
)


class Import(NamedTuple):
    """One imported name, for example `harness.records.Trial`."""

    name: str
    line: int
    at_import: bool
    """Whether it happens when the module itself is imported."""


# Reading sources


@functools.cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


def code(files: Files, *prefixes: str) -> Iterator[tuple[str, ast.Module]]:
    for path, text in files.items():
        if path.endswith(".py") and path.startswith(prefixes or CODE):
            yield path, parse(text)


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.Module) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        found.extend(Import(name, node.lineno, at_import) for name in imported_names(node))  # type: ignore[attr-defined]
        inner = at_import and not isinstance(node, Function | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
            visit(child, inner and not typing_only)

    visit(tree, True)
    return found


def imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            return [name] if ast.unparse(func) in ("importlib.import_module", "import_module", "__import__") else []
    return []


def longest_prefix(name: str, known: Mapping[str, object]) -> str | None:
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def rank(module: str) -> int | None:
    if module in RANKS:
        return RANKS[module]
    return next((RANKS[package] for package in PACKAGES if module.startswith(f"{package}.")), None)


def graph(files: Files) -> dict[str, dict[str, int]]:
    """Module -> modules of ours that run when it is imported -> line of that import."""
    trees = {module_name(path): tree for path, tree in code(files)}
    edges: dict[str, dict[str, int]] = {module: {} for module in trees}
    for module, tree in trees.items():
        for found in imports(tree):
            target = longest_prefix(found.name, trees)
            if not found.at_import or target is None:
                continue
            parts = target.split(".")
            for end in range(1, len(parts) + 1):
                package = ".".join(parts[:end])
                if package in trees and (package == target or not f"{module}.".startswith(f"{package}.")):
                    edges[module].setdefault(package, found.line)
    return edges


def path_of(module: str, files: Files) -> str:
    stem = module.replace(".", "/")
    return f"{stem}.py" if f"{stem}.py" in files else f"{stem}/__init__.py"


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def is_command(path: str, node: Function) -> bool:
    """Whether it is a Typer command, whose arguments are command line options."""
    names = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    return path.startswith("harness/verbs/") and any(n.endswith((".command", ".callback")) for n in names)


# Rules


def every_module_has_a_layer(files: Files) -> list[str]:
    return [
        f"{path}:1: {module_name(path)} must have a layer: add it to LAYERS in tests/test_house_rules.py"
        for path, _ in code(files)
        if rank(module_name(path)) is None
    ]


def lower_layers_never_import_higher(files: Files) -> list[str]:
    findings = []
    for path, tree in code(files):
        own = rank(module_name(path))
        for found in imports(tree):
            target = longest_prefix(found.name, RANKS)
            if own is not None and target is not None and RANKS[target] > own:
                findings.append(f"{path}:{found.line}: {module_name(path)} must not import the higher layer {target}")
    return findings


def reports_see_only_results(files: Files) -> list[str]:
    return [
        f"{path}:{found.line}: reports see only {', '.join(REPORTS_SEE)}; got {found.name}"
        for path, tree in code(files, "reports/")
        for found in imports(tree)
        if found.name.split(".")[0] in ("harness", "models") and not f"{found.name}.".startswith(_dotted(REPORTS_SEE))
    ]


def _dotted(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in names)


def heavy_packages_have_one_home(files: Files) -> list[str]:
    return [
        f"{path}:{found.line}: {package} is imported only by {' and '.join(HOMES[package])}"
        for path, tree in code(files)
        for found in imports(tree)
        if (package := found.name.split(".")[0]) in HOMES and path not in HOMES[package]
    ]


def late_packages_are_imported_in_functions(files: Files) -> list[str]:
    return [
        f"{path}:{found.line}: {found.name} takes seconds and is imported in the function that uses it"
        for path, tree in code(files)
        for found in imports(tree)
        if found.at_import and found.name.split(".")[0] in LATE
    ]


def light_modules_do_not_load_torch(files: Files) -> list[str]:
    edges = graph(files)
    loads = {
        module_name(path): found.line
        for path, tree in code(files)
        for found in imports(tree)
        if found.at_import and found.name.split(".")[0] in ("torch", "torchvision")
    }
    findings = []
    for start in (m for m in edges if f"{m}.".startswith(_dotted(LIGHT))):
        trail = {start: start}
        queue = [start]
        for module in queue:
            if module in loads:
                first = path_of(start, files)
                findings.append(f"{first}:1: importing it must not load torch; it does by {trail[module]}")
                break
            new = [m for m in edges[module] if m not in trail]
            trail.update({m: f"{trail[module]} -> {m}" for m in new})
            queue.extend(new)
    return findings


def reports_never_import_torch(files: Files) -> list[str]:
    return [
        f"{path}:{found.line}: reports are functions of stored numbers and must not import {found.name}"
        for path, tree in code(files, "reports/")
        for found in imports(tree)
        if found.name.split(".")[0] in ("torch", "torchvision")
    ]


def no_import_cycles(files: Files) -> list[str]:
    edges = graph(files)
    findings: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            cycle = [*trail[trail.index(module) :], module]
            line = edges[cycle[0]][cycle[1]]
            findings.append(f"{path_of(cycle[0], files)}:{line}: import cycle {' -> '.join(cycle)}")
            return
        if module not in done:
            for target in edges[module]:
                visit(target, [*trail, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return findings


def files_are_short(files: Files) -> list[str]:
    return [
        f"{path}:{count}: at most {cap} lines under {prefix}, got {count}; split it by idea"
        for path, text in files.items()
        for prefix, cap in MAX_LINES.items()
        if path.startswith(prefix) and path.endswith(".py") and (count := len(text.splitlines())) > cap
    ]


def functions_are_short(files: Files) -> list[str]:
    findings = []
    for path, tree in code(files):
        for node in functions(tree):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            count = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if count > MAX_BODY:
                findings.append(f"{path}:{node.lineno}: {node.name} has {count} lines, at most {MAX_BODY}")
    return findings


def functions_have_few_arguments(files: Files) -> list[str]:
    findings = []
    for path, tree in code(files):
        for node in functions(tree):
            a = node.args
            named = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
            count = len([name for name in named if name not in ("self", "cls")])
            if count > MAX_ARGUMENTS and not is_command(path, node):
                findings.append(f"{path}:{node.lineno}: {node.name} takes {count} arguments, at most {MAX_ARGUMENTS}")
    return findings


def module_names_say_what_is_inside(files: Files) -> list[str]:
    return [
        f"{path}:1: a module is named after what it holds, not {Path(path).stem!r}"
        for path in files
        if path.endswith(".py") and any(part in BANNED_STEMS for part in Path(path).with_suffix("").parts)
    ]


def public_names_have_docstrings(files: Files) -> list[str]:
    findings = []
    for path, tree in code(files):
        if ast.get_docstring(tree) is None:
            findings.append(f"{path}:1: the module needs a docstring")
        findings += [
            f"{path}:{node.lineno}: {node.name} is public and needs a docstring"
            for node in public_definitions(tree)
            if ast.get_docstring(node) is None
        ]
    return findings


def public_definitions(scope: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    for node in scope.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if any(ast.unparse(d).endswith(("overload", ".setter", ".deleter")) for d in node.decorator_list):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(b).partition("[")[0].rpartition(".")[2] for b in node.bases]
            if all(base in PLAIN_BASES for base in bases):
                yield from public_definitions(node)


def no_bare_except(files: Files) -> list[str]:
    return [
        f"{path}:{node.lineno}: name the exception that is expected here"
        for path, tree in code(files, "")
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def raises_have_match(files: Files) -> list[str]:
    return [
        f"{path}:{node.lineno}: pytest.raises needs match=, so that another error does not pass for this one"
        for path, tree in code(files, "tests/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("pytest.raises", "raises")
        and "match" not in [keyword.arg for keyword in node.keywords]
    ]


def no_personal_paths_or_registries(files: Files) -> list[str]:
    return [
        f"{path}:{number}: {found.group()!r} belongs to one machine or one package registry; leave it out"
        for path, text in files.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if (found := PERSONAL_PATH.search(line) or REGISTRY_HOST.search(line))
    ]


# Every rule with a file that breaks it.
RULES: tuple[tuple[Rule, str, str], ...] = (
    (every_module_has_a_layer, "harness/novelty.py", '"""New."""'),
    (lower_layers_never_import_higher, "harness/records.py", "from harness.plan import expand"),
    (reports_see_only_results, "reports/tables.py", "from harness.train import fit"),
    (heavy_packages_have_one_home, "harness/cli.py", "def run():\n    import ray.train"),
    (late_packages_are_imported_in_functions, "models/vision.py", "from timm.models import resnet"),
    (light_modules_do_not_load_torch, "harness/seeding.py", "import torch"),
    (reports_never_import_torch, "reports/figures.py", "def draw():\n    from torch import Tensor"),
    (no_import_cycles, "harness/plan.py", "from harness.plan import expand"),
    (files_are_short, "harness/plan.py", "\n" * 401),
    (functions_are_short, "harness/plan.py", "def f():\n" + "    x = 1\n" * 61),
    (functions_have_few_arguments, "harness/plan.py", "def f(a, b, c, *, d, e, f, g): ..."),
    (module_names_say_what_is_inside, "harness/data/utils.py", ""),
    (public_names_have_docstrings, "harness/plan.py", '"""Plan."""\n\n\ndef expand(): ...'),
    (no_bare_except, "harness/plan.py", "try:\n    f()\nexcept:\n    g()"),
    (raises_have_match, "tests/test_plan.py", "import pytest\n\nwith pytest.raises(ValueError):\n    f()"),
    (no_personal_paths_or_registries, "docs/x.md", "see /" + "home/me/data"),
)


@pytest.fixture(scope="module")
def tree() -> dict[str, str]:
    """Text of every file that is part of the repository, or would be once added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = {ROOT / name for name in listed.stdout.split("\0") if name}
    else:
        hidden = (".venv", "runs", "build", "dist", "__pycache__")
        paths = {p for p in ROOT.rglob("*") if not any(x in p.relative_to(ROOT).parts for x in hidden)}
    return {p.relative_to(ROOT).as_posix(): text for p in sorted(paths) if (text := read_text(p)) is not None}


def read_text(path: Path) -> str | None:
    """Its text; None for a folder, a file that has just gone, or one that is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return None


@pytest.mark.parametrize("rule", [rule for rule, _, _ in RULES], ids=lambda rule: rule.__name__)
def test_tree_keeps(rule: Rule, tree: dict[str, str]) -> None:
    findings = dict.fromkeys(rule(tree))
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize(("rule", "path", "text"), RULES, ids=[rule.__name__ for rule, _, _ in RULES])
def test_rule_notices(rule: Rule, path: str, text: str) -> None:
    findings = rule({path: text})
    assert findings
    assert all(re.match(rf"{re.escape(path)}:\d+: ", finding) for finding in findings)


def test_cycle_through_two_files_is_found_and_a_late_import_is_not() -> None:
    a, b = "from harness.evaluate import run", "from harness import train"
    assert no_import_cycles({"harness/train.py": a, "harness/evaluate.py": b})
    late = f"def f():\n    {b}"
    assert not no_import_cycles({"harness/train.py": a, "harness/evaluate.py": late})


def test_torch_is_found_through_another_module_and_not_inside_a_function() -> None:
    files = {"reports/tables.py": "import models.base", "models/base.py": "import torch"}
    assert "reports.tables -> models.base" in light_modules_do_not_load_torch(files)[0]
    assert not light_modules_do_not_load_torch({"harness/cli.py": "def run():\n    import torch"})


def test_imports_for_type_checkers_count_for_layers_but_not_at_run_time() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from harness.train import fit\n"
    assert lower_layers_never_import_higher({"harness/records.py": text})
    assert not no_import_cycles({"harness/records.py": text, "harness/train.py": "import harness.records"})


def test_what_is_allowed_passes() -> None:
    options = ", ".join(f"o{i}" for i in range(9))
    verb = f'@app.command()\ndef run({options}):\n    """Run."""\n    import models.base\n'
    files = {
        "harness/verbs/study.py": f'"""Verbs."""\n{verb}',
        "harness/plan.py": '"""Plan."""\nfrom models.base import MODELS\n\ndef _f():\n    pass\n',
        "models/mafn.py": '"""MAFN."""\nclass A(nn.Module):\n    """A."""\n    def forward(self, batch): ...\n',
        "tests/test_plan.py": "import pytest\nwith pytest.raises(ValueError, match='x'):\n    f()\n",
        "docs/x.md": "https://example.com/" + "home/x and ~/" + "work/x",
    }
    assert [finding for rule, _, _ in RULES for finding in rule(files)] == []


def test_method_of_a_contract_needs_a_docstring() -> None:
    text = '"""D."""\nclass D(Protocol):\n    """D."""\n    def records(self): ...\n'
    assert public_names_have_docstrings({"harness/data/base.py": text}) == [
        "harness/data/base.py:4: records is public and needs a docstring"
    ]
