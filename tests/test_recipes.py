"""The recipes of the package: listed, copied to edit, found by name, all of them in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reground.cli import app
from reground.config import merged
from reground.errors import ConfigError
from reground.recipes import located, names, recipe

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_list_says_what_how_long_and_on_what() -> None:
    lines = run("recipes").output.splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == names()
    sft = lines[2 * names().index("bccd/sft") + 1]
    assert sft.split("; ") == [
        "    reground train bccd/sft",
        "1000 steps of sft",
        "on runs/bccd/chains/sft.jsonl",
        "takes 15 minutes on two cores",
    ]


@pytest.mark.parametrize("name", names())
def test_a_copy_says_the_same_wherever_it_is(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "deep" / "mine.yaml"
    done = run("recipes", "copy", name, "--out", str(copy))
    assert done.exit_code == 0, done.output
    text = copy.read_text(encoding="utf-8")
    assert "\nextends:" not in text and text.startswith("# ")
    assert merged(copy) == merged(recipe(name))


def test_a_recipe_is_found_by_name_but_a_file_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dry = run("train", "bccd/sft", "--dry-run", "steps=7")
    assert "steps: 7" in dry.output and "out: runs/bccd/sft" in dry.output
    assert run("train", "configs/bccd/sft.yaml", "--dry-run", "steps=7").output == dry.output
    assert run("recipes", "copy", "bccd/sft").output == "sft.yaml: bccd/sft\n"
    own = tmp_path / "bccd" / "sft"
    own.parent.mkdir()
    own.write_text("method: rl\n")
    assert located(Path("bccd/sft")) == Path("bccd/sft")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["recipes", "copy", "bccd/sfd"], "no recipe is called 'bccd/sfd'; did you mean"),
        (["recipes", "copy", "../../pyproject"], "`reground recipes` lists them"),
        (["recipes", "copy", "bccd/sft", "--out", "."], "is there already; name another file"),
        (["train", "bccd/sfd"], "a name that `reground recipes` lists"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], problem: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, ConfigError) and problem in str(error) and "\n" not in str(error)


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_package_holds(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src/reground", tree / "src/reground", ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path, tree], check=True)
    (built,) = tmp_path.glob("reground-*.whl")
    files = [path for path in (tree / "src/reground").rglob("*") if path.is_file()]
    expected = {path.relative_to(tree / "src").as_posix() for path in files}
    assert expected - set(zipfile.ZipFile(built).namelist()) == set()
    assert {"reground/py.typed", "reground/configs/bccd/sft.yaml"} <= expected
