"""Ranks that lose one another: each of the others stops, and says so in one sentence.

Whoever launched them (torchrun, ``accelerate launch``) ends the others where one is gone; a rank
that is stuck is noticed after ``collective_timeout_s``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import DistError

from reground.errors import TrainingError


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
            f"with --resume: the checkpoints in {out} are whole"
        ) from error
