"""The site: built strictly, whole without a network, and true about commands and errors."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from reground import errors
from reground.cli import app

pytestmark = pytest.mark.slow  # the site takes ten seconds
ROOT = Path(__file__).parents[1]
GROUP = typer.main.get_command(app)
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` builds it: a broken link or anchor is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>"
    )
    found = [tag for page in site.rglob("*.html") for tag in loading.findall(page.read_text())]
    assert [tag for tag in found if 'rel="canonical"' not in tag] == []


def test_pages_and_search_work_from_a_disk_without_a_network(site: Path, page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("no reward variance")
    page.wait_for_selector("a.md-search-result__link[href*='no-reward-variance']")
    assert asked and all(url.startswith(("file:", "data:", "about:")) for url in asked)


def test_llms_txt_lists_every_page_of_the_site(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert re.match(r"# ReGround\n\n> \S.*\n\n## ", text)
    rows = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \S.+$", text, re.MULTILINE)
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html"}
    assert len(rows) == len(pages) == len({*rows})
    assert {row.replace(".md", ".html") for row in rows} == pages
    assert all((site / row).is_file() for row in rows)


def test_the_reference_is_that_of_the_code(site: Path) -> None:
    verbs = {name for name, _ in commands(GROUP, "reground")}
    headings = set(
        re.findall(r"^#+ (reground [a-z -]+)$", (site / "reference/cli.md").read_text(), re.M)
    )
    assert verbs and verbs <= headings
    settings = (site / "reference/config.md").read_text()
    assert re.search(r"### optim\n[^#]*\| `lr` \| number above 0 \| `1e-05` \|", settings)
    assert 'id="reground.api.Grounder.ground"' in (site / "reference/api.html").read_text()


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every verb below a group, and its command."""
    for child, own in getattr(command, "commands", {}).items():
        yield from commands(own, f"{name} {child}")
    if not hasattr(command, "commands"):
        yield name, command


def helps() -> Iterator[tuple[str, str]]:
    """Where the code names a part of the page about errors, and the part."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                for line in map(ast.unparse, node.body):
                    yield from ((where, part) for part in re.findall(r"^help = '(.+)'$", line))
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                words = {word.arg: word.value for word in node.exc.keywords}
                if "help" in words:
                    yield where, ast.literal_eval(words["help"])
    command_line = (ROOT / "src/reground/cli/__init__.py").read_text(encoding="utf-8")
    yield from (("cli", part) for part in re.findall(r'"([a-z]+(?:-[a-z]+)+)"', command_line))


def test_every_error_names_a_part_of_the_page_that_exists(site: Path) -> None:
    parts = set(re.findall(r'<h2 id="([^"]+)"', (site / "troubleshooting.html").read_text()))
    named = list(helps())
    assert [(where, part) for where, part in named if part not in parts] == []
    assert parts - {part for _, part in named} == {"wrong-boxes"}
    classes = {name: each for name, each in vars(errors).items() if name.endswith("Error")}
    assert len({vars(each)["help"] for each in classes.values()}) == len(classes) > 5


def spoken() -> Iterator[tuple[str, str]]:
    """Every command of ours that README and the pages show, with the page's name."""
    for path in (ROOT / "README.md", *PAGES):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        lines += [line.strip() for line in text.splitlines() if line.startswith("    reground ")]
        yield from ((path.name, line) for line in lines if line.startswith("reground "))


@pytest.mark.parametrize(
    ("page", "line"), [pytest.param(*each, id=each[1][:60]) for each in spoken()]
)
def test_commands_of_the_pages_are_understood(page: str, line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    command: Any = GROUP
    while words and (inner := getattr(command, "commands", {}).get(words[0])):
        command, words = inner, words[1:]
    assert not hasattr(command, "commands") or words == ["--help"], f"{page}: no such verb"
    if "--help" not in words and "|" not in words:
        command.make_context(line, words).close()


def test_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *PAGES)]
    named = {
        name for text in texts for name in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text)
    }
    assert {one or other for one, other in named} <= targets


def test_the_citation_names_this_version() -> None:
    card = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "type"} <= {*card}
    assert card["authors"] == [{"name": "The ReGround authors"}]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert (
        f'version = "{card["version"]}"' in project and f'license = "{card["license"]}"' in project
    )


FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_what_is_needed(path: Path) -> None:
    """The fields are those of GitHub's syntax for issue forms."""
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= {*form}
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= kinds
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked) > 1
    assert all(part["attributes"]["label"] for part in asked)
    assert "run.json" in path.read_text(encoding="utf-8") or path.stem == "question"
