"""Where a key stands in the files of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reground.io import compose_yaml

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read, under the name that messages give it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Places:
    """The files of a configuration, each before the one that it extends, and what replaced them."""

    files: Sequence[Source] = ()
    overrides: Sequence[str] = ()

    def of(self, path: KeyPath) -> str:
        """``FILE:LINE: `` of the key at ``path``, or of the innermost section that is there.

        ``FILE: `` where nothing of it is; empty without a file, and for what an override gives.
        """
        key = ".".join(map(str, path))
        given = [each.partition("=")[0].strip() for each in self.overrides]
        if not self.files or any(_is_within(key, each) for each in given):
            return ""
        found = [(source.name, _lines(source.text, path)) for source in self.files]
        name, lines = max(found, key=lambda each: len(each[1]))  # the first of equals
        return f"{name}:{lines[-1]}: " if lines else f"{name}: "


def _is_within(key: str, given: str) -> bool:
    """Whether an override gave a key, or something below it."""
    first, second = f"{key}.", f"{given}."
    return key != "" and (first.startswith(second) or second.startswith(first))


def _lines(text: str, path: KeyPath) -> list[int]:
    """The lines of the keys along ``path``, as far as they are there."""
    node, lines = compose_yaml(text), []
    for part in path:
        line, node = _step(node, part)
        if line is None:
            break
        lines.append(line)
    return lines


def _step(node: Any, part: str | int) -> tuple[int | None, Any]:
    if isinstance(getattr(node, "value", None), list):
        for number, child in enumerate(node.value):
            key, value = child if isinstance(child, tuple) else (child, child)
            if str(part) == (key.value if isinstance(child, tuple) else str(number)):
                return key.start_mark.line + 1, value
    return None, None
