"""The direction of imports, read from the source: what may know of what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# From top to bottom: a layer imports only from those below it, and from itself.
LAYERS = (
    {"__main__", "cli"},
    {"start"},
    {"serving"},
    {"integrations"},
    {"api"},
    {"tinyworld"},
    {"teacher"},
    {"hub"},
    {"evaluation"},
    {"training"},
    {"rollout"},
    {"model"},
    {"protocols"},
    {"data"},
    {"grounding"},
    {
        *("config", "config_places", "config_problems", "errors", "io", "parallel", "patience"),
        *("plugins", "provenance", "recipes", "runs"),
    },
)

HEAVY = {
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "peft",
    "safetensors",
    "vllm",
}
MAY_BE_HEAVY = (
    "reground.model",
    "reground.rollout",
    "reground.training",
    "reground.tinyworld",
)
MAY_BE_HEAVY_TOO = (  # a model in this process answers
    "reground.evaluation.predicting.local",
    "reground.integrations.chatting",
    "reground.integrations.lmms_model",
)
# These import a harness, which is installed in an environment of its own.
OF_A_HARNESS = ("reground.integrations.lmms_m", "reground.integrations.inspect_")
# These reach heavy modules, but inside functions only: importing them costs nothing.
HEAVY_WHEN_CALLED = (
    "reground.cli",
    "reground.api",
    "reground.__main__",
    "reground.evaluation.evaluate",
    "reground.evaluation.predicting.predict",
    "reground.evaluation.predicting.remote",
    "reground.evaluation.predicting.tools",
    "reground.evaluation.reproducing.plan",
    "reground.integrations",
    "reground.evaluation.reproducing.verdict",
    "reground.serving.app",
    "reground.serving.remote",
    "reground.serving.chat",
    "reground.serving.detector",
    "reground.serving.label_studio",
    "reground.serving.run",
    "reground.serving.service",
    "reground.teacher.rethink",
)


class When(Enum):
    """When an import statement runs."""

    AT_IMPORT = auto()
    WHEN_CALLED = auto()
    NEVER = auto()  # under `if TYPE_CHECKING`


@dataclass(frozen=True, slots=True)
class Import:
    """One import of a module, of this package or another."""

    target: str
    when: When


Imports = dict[str, list[Import]]


def read_imports(source: Path, package: str = "reground") -> Imports:
    """The imports of every module under ``source/package``, by dotted name."""
    files = {_name(path.relative_to(source)): path for path in (source / package).rglob("*.py")}
    return {
        name: list(_imports(ast.parse(path.read_text(encoding="utf-8")), files))
        for name, path in sorted(files.items())
    }


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(
    node: ast.AST, modules: Iterable[str], when: When = When.AT_IMPORT
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, when) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            submodule = f"{base}.{alias.name}"
            yield Import(submodule if submodule in modules else base, when)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        when = When.WHEN_CALLED if when is When.AT_IMPORT else when
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(node, ast.If) and _is_type_checking(node.test)
        in_body = typing_only and isinstance(node, ast.If) and child in node.body
        yield from _imports(child, modules, When.NEVER if in_body else when)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def upward_imports(imports: Imports) -> list[str]:
    """Imports that point to a higher layer, or from or to a module of no layer."""
    rank = {name: -index for index, names in enumerate(LAYERS) for name in names}
    found = []
    for module, statements in imports.items():
        if module == "reground":  # the root imports nothing; see test_the_root_imports_nothing
            continue
        layer = module.split(".")[1]
        if layer not in rank:
            found.append(f"{module} belongs to no layer")
            continue
        targets = {item.target for item in statements if item.target.startswith("reground.")}
        for target in sorted(targets):
            if rank.get(target.split(".")[1], 1) > rank[layer]:
                found.append(f"{module} imports {target}")
    return found


def cycle(imports: Imports) -> list[str]:
    """Modules that import each other in a circle, whenever they do it; empty if there is none."""
    graph = {
        module: {item.target for item in statements if item.target in imports} - {module}
        for module, statements in imports.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def special_cases(source: Path) -> list[str]:
    """Where the tiny world is named outside its own folder, but in words for readers.

    It plugs in by entry points; only the verb ``demo`` calls it.
    """
    found = []
    for path in sorted((source / "reground").rglob("*.py")):
        name = _name(path.relative_to(source))
        if name.startswith("reground.tinyworld") or name == "reground.cli.demo":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _names_the_tiny_world(node):
                found.append(f"{name}: {ast.unparse(node)}")
    return found


def _names_the_tiny_world(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        text = str(node.value)
        return text.startswith(("synth", "oracle", "dense", "reground.tinyworld"))
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "reground.tinyworld" in ast.unparse(node)
    return isinstance(node, ast.Name | ast.Attribute) and "synth" in ast.unparse(node)


def may_be_heavy(module: str) -> bool:
    return module in MAY_BE_HEAVY_TOO or module.startswith(MAY_BE_HEAVY)


def heavy_imports(imports: Imports) -> list[str]:
    """Modules that must do without torch and transformers, yet reach them, with the way there."""
    found = []
    for module in imports:
        if not may_be_heavy(module):
            at_import_only = module == "reground" or module.startswith(HEAVY_WHEN_CALLED)
            if way := _way_to_heavy(module, imports, at_import_only=at_import_only):
                found.append(" -> ".join(way))
    return found


def _way_to_heavy(module: str, imports: Imports, *, at_import_only: bool) -> list[str]:
    ways = [[module]]
    seen = {module}
    while ways:
        way = ways.pop()
        for target in _reached(way[-1], imports, at_import_only=at_import_only):
            if target.partition(".")[0] in HEAVY:
                return [*way, target]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def _reached(module: str, imports: Imports, *, at_import_only: bool) -> Iterator[str]:
    yield from _packages_of(module)
    for item in imports.get(module, []):
        if item.when is When.AT_IMPORT or (item.when is When.WHEN_CALLED and not at_import_only):
            yield item.target


def _packages_of(module: str) -> Iterator[str]:
    """Importing ``a.b.c`` runs ``a`` and ``a.b`` too."""
    parts = module.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


@pytest.fixture(scope="module")
def imports() -> Imports:
    return read_imports(SOURCE)


def test_imports_point_downwards(imports: Imports) -> None:
    assert upward_imports(imports) == []


def test_no_modules_import_each_other_in_a_circle(imports: Imports) -> None:
    assert cycle(imports) == []


def test_the_tiny_world_is_no_special_case() -> None:
    assert special_cases(SOURCE) == []


def test_imports_are_absolute(imports: Imports) -> None:
    relative = {name for name, items in imports.items() for i in items if i.target[:1] == "."}
    assert relative == set()


def test_only_some_packages_know_torch(imports: Imports) -> None:
    assert heavy_imports(imports) == []


def test_the_root_imports_nothing(imports: Imports) -> None:
    """Importing any module runs the root first."""
    at_import = {item.target for item in imports["reground"] if item.when is When.AT_IMPORT}
    assert at_import <= {"__future__"}


def test_the_walk_sees_the_modules(imports: Imports) -> None:
    assert Import("reground.errors", When.AT_IMPORT) in imports["reground.config"]
    assert Import("reground.config", When.WHEN_CALLED) in imports["reground.runs"]
    assert Import("pydantic", When.AT_IMPORT) in imports["reground.config"]


def package(folder: Path, files: dict[str, str]) -> Imports:
    for name, text in files.items():
        path = folder / "reground" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_imports(folder)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"data/a.py": "from reground.grounding import boxes"}, []),
        ({"data/a.py": "import reground.data.b"}, []),
        (
            {"data/a.py": "def f():\n    from reground.evaluation import score"},
            ["reground.data.a imports reground.evaluation"],
        ),
        (
            {"evaluation/score.py": "", "data/a.py": "from reground.evaluation import score"},
            ["reground.data.a imports reground.evaluation.score"],
        ),
        ({"errors.py": "import reground.odd"}, ["reground.errors imports reground.odd"]),
        ({"stray.py": ""}, ["reground.stray belongs to no layer"]),
    ],
)
def test_the_walk_finds_upward_imports(
    tmp_path: Path, files: dict[str, str], found: list[str]
) -> None:
    assert upward_imports(package(tmp_path, files)) == found


@pytest.mark.parametrize(
    ("back", "circle"),
    [("import reground.data.a", True), ("def f():\n    import reground.data.a", True), ("", False)],
)
def test_the_walk_finds_circles(tmp_path: Path, back: str, circle: bool) -> None:
    files = {"data/a.py": "from reground.data.b import x", "data/b.py": back}
    assert bool(cycle(package(tmp_path, files))) is circle


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"""A JSONL, or synth:TASK."""', 0),
        ("def f():\n    from reground.tinyworld import scenes", 1),
        ("f(path.startswith('synth:'))", 1),
        ("synth.scene(path)", 2),
        ("method == 'dense'", 1),
    ],
)
def test_the_walk_finds_special_cases(tmp_path: Path, text: str, found: int) -> None:
    package(tmp_path, {"data/a.py": text})
    assert len(special_cases(tmp_path)) == found


LOCAL = {
    "evaluation/__init__.py": "",
    "evaluation/predicting/__init__.py": "",
    "evaluation/predicting/local.py": "import torch",
}
LOAD = {"model/load.py": "import torch"}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"data/a.py": "if True:\n    import torch.nn"}, ["reground.data.a -> torch.nn"]),
        ({"data/a.py": "def f():\n    import torch"}, ["reground.data.a -> torch"]),
        ({"data/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import torch"}, []),
        (
            LOCAL | {"evaluation/score.py": "from reground.evaluation.predicting import local"},
            ["reground.evaluation.score -> reground.evaluation.predicting.local -> torch"],
        ),
        (
            {"evaluation/__init__.py": "import transformers", "evaluation/score.py": ""},
            [
                "reground.evaluation -> transformers",
                "reground.evaluation.score -> reground.evaluation -> transformers",
            ],
        ),
        (LOAD | {"cli/train.py": "def f():\n    from reground.model import load"}, []),
        (
            LOAD | {"cli/train.py": "from reground.model import load"},
            ["reground.cli.train -> reground.model.load -> torch"],
        ),
    ],
)
def test_the_walk_finds_ways_to_torch(
    tmp_path: Path, files: dict[str, str], found: list[str]
) -> None:
    assert heavy_imports(package(tmp_path, files)) == found


def run_python(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_libraries() -> None:
    run_python(
        "import sys, reground.cli\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'yaml', 'numpy', 'PIL', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )


def test_what_must_do_without_torch_can_be_imported_without_it(imports: Imports) -> None:
    """The proof by running: every such module is imported where torch cannot be."""
    light = [
        name for name in imports if not may_be_heavy(name) and not name.startswith(OF_A_HARNESS)
    ]
    run_python(
        "import importlib, sys\n"
        "sys.modules.update(torch=None, transformers=None)\n"
        f"for name in {light!r}: importlib.import_module(name)"
    )
