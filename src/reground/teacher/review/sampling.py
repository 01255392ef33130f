"""Which chains people look at: a share of every task, the same ones for the same seed."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping

from reground.errors import ConfigError


def choose(tasks: Mapping[str, str], *, share: float, seed: int) -> tuple[str, ...]:
    """At least ``share`` of the samples of each task (id -> task), and one of every task.

    The choice and its order follow a hash of seed and id: whatever the order of ``tasks``, a larger
    share holds a smaller one, and tasks come mixed, so that a review which stops early has still
    seen a random part. Raises ``ConfigError`` for a share that is not above 0 and at most 1.

    >>> choose({"a": "diff", "b": "diff", "c": "region"}, share=0.5, seed=1)
    ('a', 'c')
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: found {share}, expected a number above 0 and at most 1")
    by_task: dict[str, list[str]] = defaultdict(list)
    for sample_id in sorted(tasks, key=lambda sample_id: _hash(sample_id, seed)):
        by_task[tasks[sample_id]].append(sample_id)
    chosen = [
        sample_id
        for ids in by_task.values()
        for sample_id in ids[: math.ceil(share * len(ids) - 1e-9)]  # 0.07 * 100 is above 7
    ]
    return tuple(sorted(chosen, key=lambda sample_id: _hash(sample_id, seed)))


def _hash(sample_id: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
