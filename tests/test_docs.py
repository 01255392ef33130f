"""The documents say what the results say, and name what exists."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = runpy.run_path(str(ROOT / "scripts/figures.py"))


@pytest.mark.parametrize("path", FIGURES["DOCUMENTS"], ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("<!-- figures: ") == text.count("<!-- end -->") > 0
    assert FIGURES["filled"](text) == text, "run python scripts/figures.py"


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_files_that_documents_name_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"(?:configs|benchmarks|scripts|docs)/[\w/]+\.(?:yaml|py|md|json|png)", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
