"""Ranks that lose one another: each of the others stops, and says so in one sentence.

Whoever launched them (torchrun, ``accelerate launch``) ends the others where one is gone; a rank
that is stuck is noticed after ``collective_timeout_s``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import gather_object
from torch.distributed import DistError

from reground.errors import TrainingError

T = TypeVar("T")


def place() -> tuple[int, int]:
    """This rank, and how many there are."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)


def gathered(own: list[T]) -> list[T]:
    """What all ranks hold, in their order; every rank must call."""
    return list(gather_object(own)) if place()[1] > 1 else own


@contextmanager
def together(out: Path, *, timeout_s: float) -> Iterator[None]:
    """Train as one of several ranks; ``out`` is the run, and a collective waits ``timeout_s``.

    Raises ``TrainingError`` where a collective fails.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and "gloo/transport" not in str(error):
            raise
        raise TrainingError(
            f"another rank is gone, or did not come for {timeout_s:g} seconds; expected all ranks "
            "to go on together; see in its output why it stopped, then start all of them again "
            f"with --resume: the checkpoints in {out} are whole",
            help="another-rank-is-gone",
        ) from error
