"""By which settings the rows of a database were made, and what is said where they changed since."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reground.protocols.prompts import PromptProfile


def noted(settings: Mapping[str, Any]) -> str:
    """Settings as they stand in the database, beside what they made."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def prompt(profile: PromptProfile) -> str:
    """A prompt by its name and the begin of its hash: a file may be written anew."""
    return f"{profile.name}@{profile.sha256[:8]}"


def told(settings: str) -> str:
    """What :func:`noted` wrote, as on the command line.

    >>> told(noted({"min_words": 5, "prompt": "judge"}))
    'min_words=5 prompt=judge'
    """
    return _listed(json.loads(settings))


def changes(made: Mapping[str, int], now: str) -> Iterator[tuple[int, str, str]]:
    """Of rows that other settings made than those of ``now``: how many, by which, and which now.

    Only what differs is told, of settings that both have.

    >>> old, new = noted({"min_words": 5, "min_iou": 0.5}), noted({"min_words": 60, "min_iou": 0.5})
    >>> list(changes({old: 12, new: 3}, new))
    [(12, 'min_words=5', 'min_words=60')]
    """
    wanted = json.loads(now)
    for settings, count in made.items():
        old = json.loads(settings)
        keys = [key for key in old if key in wanted and old[key] != wanted[key]]
        if keys:
            before, after = ({key: each[key] for key in keys} for each in (old, wanted))
            yield count, _listed(before), _listed(after)


def _listed(settings: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    )
