"""A benchmark in parts: which samples a shard asks, and many shards' answers as one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from reground.errors import ConfigError, DataError
from reground.evaluation.coverage import check_cover
from reground.evaluation.records import (
    RUN,
    RunInfo,
    differing,
    read_predictions,
    read_run,
    write_predictions,
)
from reground.grounding.sample import row_digest
from reground.rollout.tools.results import results_digest

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Every ``count``-th sample, from the ``index``-th on; both count from 1.

    >>> Shard.of("2/3").take([10, 11, 12, 13, 14])
    [11, 14]
    """

    index: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """The shard called ``text``, as 2/4; raises ``ConfigError`` for anything else."""
        parts = text.split("/")
        if len(parts) == 2 and all(part.isdecimal() for part in parts):
            shard = cls(int(parts[0]), int(parts[1]))
            if 1 <= shard.index <= shard.count:
                return shard
        raise ConfigError(f"shard {text!r}; expected i/n with i from 1 to n, as 2/4")

    def take(self, samples: Sequence[_T]) -> list[_T]:
        """The shard's own."""
        return list(samples[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def merge(folders: Sequence[Path], *, out: Path) -> int:
    """Write the predictions of all shards of a run into ``out``, in the benchmark's order.

    Returns how many. Raises ``DataError`` where a shard is missing or there twice, where the runs
    differ in anything else, or where a shard lacks a sample.
    """
    runs = [read_run(folder) for folder in folders]
    shards = [_shard_of(folder, run) for folder, run in zip(folders, runs, strict=True)]
    _check_alike(folders, runs)
    _check_complete(shards)
    rows = {
        shard.index: list(read_predictions(folder))
        for folder, shard in zip(folders, shards, strict=True)
    }
    turns = zip_longest(*(rows[index] for index in sorted(rows)))
    merged = [row for row in chain.from_iterable(turns) if row is not None]
    boxes = results_digest(row.sample for row in merged)
    whole = dataclasses.replace(runs[0], shard=None, tool_sha256=boxes)
    check_cover([row_digest(row.sample) for row in merged], whole)
    if (out / RUN).exists() and read_run(out) != whole:
        raise DataError(
            f"{out}: holds another run; choose another --out, or delete that folder",
            help="a-folder-that-is-taken",
        )
    return write_predictions(out, merged, run=whole)


def _shard_of(folder: Path, run: RunInfo) -> Shard:
    if run.shard is None:
        raise DataError(f"{folder}: holds a whole run; only parts of `--shard i/n` can be merged")
    return Shard.of(run.shard)


def _check_alike(folders: Sequence[Path], runs: Sequence[RunInfo]) -> None:
    first = runs[0]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        for name in differing(first, run, apart_from=("shard", "tool_sha256")):
            raise DataError(
                f"{folders[0]} and {folder} are parts of different runs: {name} is "
                f"{getattr(first, name)} and {getattr(run, name)}; merge shards of one run"
            )


def _check_complete(shards: Sequence[Shard]) -> None:
    counts = {shard.count for shard in shards}
    if len(counts) > 1:
        raise DataError(
            f"shards {', '.join(map(str, shards))} come from different cuts; merge one cut's"
        )
    found = [shard.index for shard in shards]
    wanted = range(1, shards[0].count + 1)
    if twice := [index for index in wanted if found.count(index) > 1]:
        raise DataError(f"shard {Shard(twice[0], len(wanted))} is there twice; name each once")
    if gaps := [str(Shard(index, len(wanted))) for index in wanted if index not in found]:
        raise DataError(f"shard {', '.join(gaps)} is missing; predict it, then merge all of them")
