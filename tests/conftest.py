"""What every test shares: quiet, repeatable property tests."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import httpx2

    from reground.api import Grounder
    from reground.runs import RunDir
    from worlds import World

# The machines of a continuous integration are slow and uneven: no deadline for one example.
# Examples are derived from the test itself, so that a failure is the same everywhere.
settings.register_profile("reground", deadline=None, derandomize=True)
settings.load_profile("reground")

# What brings torch along: such files are left out with --fast, and so are not even imported.
_HEAVY = re.compile(
    r"^\s*(import|from) "
    r"(torch|transformers|worlds|scripted|reground\.(model|rollout|training|tinyworld))\b",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out what imports torch, or is slow")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    return True if _HEAVY.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A small tokenizer for tiny models; a module's own, for tokenizers keep state."""
    from reground.tinyworld import (
        models as tiny,  # torch: tests of the layers without it start sooner
    )

    return tiny.make_tokenizer(tiny.corpus(samples_per_task=20))


@pytest.fixture
def add_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a package for one test: its name, its module's text, its entry_points.txt."""
    from reground.data import benchmarks
    from reground.plugins import installed

    def read_anew() -> None:
        installed.cache_clear()
        benchmarks.table.cache_clear()

    def add(name: str, text: str, entry_points: str) -> None:
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        read_anew()

    yield add
    read_anew()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Runs that are compared figure by figure are made by one thread."""
    from worlds import single_thread

    with single_thread():
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Four samples, a model of random weights and one that was taught a little."""
    from worlds import make_world, single_thread

    with single_thread():
        return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def whole(world: World) -> Mapping[str, RunDir]:
    """Undisturbed runs, by case."""
    from worlds import CASES, single_thread

    with single_thread():
        return {name: world.run(f"whole-{name}", case(world)) for name, case in CASES.items()}


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium on the PATH")
    with api.sync_playwright() as playwright:
        # Chromium's sandbox does not run as root, as which containers run tests.
        root = ["--no-sandbox"] if os.getuid() == 0 else []
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on which no script fails and no policy is broken."""
    opened = browser.new_page(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(15_000)
    said: list[str] = []
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
    yield opened
    opened.close()
    assert [line for line in said if not line.startswith("Failed to load resource")] == []


@pytest.fixture(scope="module")
def tiny() -> Grounder:
    """The shipped tiny model."""
    from reground.api import Grounder

    return Grounder.from_pretrained("tiny")


@pytest.fixture(scope="module")
def client(tiny: Grounder) -> Iterator[httpx2.Client]:
    """A client of a server of the HTTP API over the tiny model."""
    from asking import served

    with served(tiny, tiny) as client:
        yield client
