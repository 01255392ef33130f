"""The recipes: configs that come with the package, found by name wherever it is installed."""

from __future__ import annotations

import os
from pathlib import Path

from reground.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).with_name("configs")
"""Their one home; ``configs`` at the root of the repository is a link to it."""


def names() -> list[str]:
    """All recipes: their paths below the folder, without ``.yaml``.

    >>> "bccd/sft" in names()
    True
    """
    return sorted(
        path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")
    )


def recipe(name: str) -> Path:
    """The file of a recipe, by its name or by its path in the repository.

    Raises ``ConfigError`` for an unknown name.

    >>> recipe("configs/bccd/sft.yaml") == recipe("bccd/sft")
    True
    """
    short = _short(name)
    if short not in names():
        raise ConfigError(
            f"no recipe is called {name!r}; "
            + did_you_mean(short, names(), otherwise="`reground recipes` lists them")
        )
    return FOLDER / f"{short}.yaml"


def located(path: Path) -> Path:
    """``path``, or the recipe of that name where there is no such file."""
    if not os.path.lexists(path) and _short(str(path)) in names():
        return recipe(str(path))
    return path


def _short(name: str) -> str:
    return name.removeprefix("configs/").removesuffix(".yaml")
