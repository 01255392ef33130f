"""Algorithms of reinforcement learning: credit for a group of rollouts, then a loss for its tokens.

An algorithm knows nothing of batches, ranks or models: ``credit`` turns what the rollouts of one
prompt earned into numbers for their tokens, ``loss`` turns tokens into a sum, which the trainer
divides by the global sum of ``Credit.divisor``. A user's own is any class with these members
(:class:`Algorithm`), named by its file: ``{path: my_algorithms.py:Mine, settings: {...}}``.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Tag

from reground.config import by_type, config
from reground.errors import ConfigError
from reground.plugins import from_path
from reground.training.algorithms.clipped import Dapo, DrGrpo, Grpo, Gspo
from reground.training.algorithms.parts import Algorithm
from reground.training.algorithms.reinforce import Cispo, RejectionSampling, Rloo


@config
class OwnAlgorithm:
    """A class of the user's: ``path`` is FILE.py:NAME, ``settings`` its keyword arguments."""

    path: str
    type: Literal["own"] = "own"
    settings: dict[str, Any] = field(default_factory=dict)


AlgorithmSettings = Annotated[
    Annotated[Grpo, Tag("grpo")]
    | Annotated[DrGrpo, Tag("dr_grpo")]
    | Annotated[Dapo, Tag("dapo")]
    | Annotated[Rloo, Tag("rloo")]
    | Annotated[Gspo, Tag("gspo")]
    | Annotated[Cispo, Tag("cispo")]
    | Annotated[RejectionSampling, Tag("rejection_sampling")]
    | Annotated[OwnAlgorithm, Tag("own")],
    by_type("grpo"),
]
"""What ``algorithm:`` holds in a config: told apart by its ``type``, or by its ``path``."""

_MEMBERS = ("credit", "loss", "kl", "dynamic_sampling")


def algorithm_of(settings: AlgorithmSettings) -> Algorithm:
    """The algorithm that a config names.

    Raises ``ConfigError`` where a user's own cannot be made of its settings, or lacks a member.
    """
    if not isinstance(settings, OwnAlgorithm):
        return settings
    found = from_path(settings.path)
    try:
        made: Algorithm = found(**settings.settings)
    except Exception as error:
        raise ConfigError(
            f"algorithm {settings.path}: cannot be made of its settings "
            f"({type(error).__name__}: {error}); expected a class that takes "
            f"{', '.join(settings.settings) or 'no arguments'}"
        ) from error
    if lacking := [name for name in _MEMBERS if not hasattr(made, name)]:
        raise ConfigError(
            f"algorithm {settings.path}: has no {lacking[0]}; expected {', '.join(_MEMBERS)}"
        )
    return made
