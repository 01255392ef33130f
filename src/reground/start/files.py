"""The files that ``reground start`` writes for a person to change: questions, and configs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reground.config import merged
from reground.io import dump_yaml, write_text
from reground.plugins import installed
from reground.recipes import FOLDER

_PLACE = "runs/photos"  # where the recipes look for data and leave their runs
_QUESTIONS = """\
# What is asked about each class: a rule, and the words to ask with. Change the words to what a
# person would say, leave classes and rules out, or add rules: unique, leftmost, rightmost, highest,
# lowest, largest, all, absent. A question is asked where one object is clearly meant.
"""
_OBJECTS = "# What each object is called while the vision tower learns to see it.\n"


def write_questions(folder: Path, classes: Iterable[str]) -> tuple[Path, Path]:
    """Write questions.yaml and objects.yaml for ``classes``, unless they are there."""
    words = {name: re.sub("[-_ ]+", " ", name).strip() for name in classes}
    asked = {
        name: {
            "unique": f"the {word}",
            "leftmost": f"the leftmost {word}",
            "rightmost": f"the rightmost {word}",
        }
        for name, word in words.items()
    }
    named = {name: {"unique": word, "all": word} for name, word in words.items()}
    return (
        _unless_there(folder / "questions.yaml", _QUESTIONS, asked),
        _unless_there(folder / "objects.yaml", _OBJECTS, named),
    )


def write_configs(folder: Path, model: str, steps: int | None) -> list[Path]:
    """Write the recipes of a model with ``folder`` in their paths, unless they are there.

    A model that comes with a package is small and learns to see first; a real checkpoint sees.
    """
    size = "small" if model in installed("checkpoints") else "large"
    written = []
    for number, recipe in enumerate(sorted((FOLDER / "photos" / size).glob("*.yaml"))):
        config = _moved(merged(recipe), folder)
        if number == 0:
            config["model"] = model
        if steps is not None:
            config["steps"] = steps
        head = f"# The recipe photos/{size}/{recipe.stem} with this folder's paths.\n"
        written.append(_unless_there(folder / recipe.name, head, config))
    return written


def _moved(value: Any, folder: Path) -> Any:
    """``value`` with paths below ``folder`` where they were below the recipes' own."""
    if isinstance(value, dict):
        return {_moved(key, folder): _moved(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, folder) for each in value]
    if isinstance(value, str) and value.startswith(f"{_PLACE}/"):
        return f"{folder}{value.removeprefix(_PLACE)}"
    return value


def _unless_there(path: Path, head: str, content: Any) -> Path:
    if not path.exists():
        write_text(path, head + dump_yaml(content))
    return path
