"""Writes what a converter gives: one JSONL, or one for each part of the photos."""

from __future__ import annotations

import math
import os
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from reground.data.convert import converted
from reground.data.convert.auto import recognised
from reground.data.convert.tally import Tally
from reground.data.images import split_view
from reground.data.source import paths_from
from reground.errors import ConfigError
from reground.grounding.sample import Sample
from reground.io import BUFFER, json_line, locked, whole, without_collection

AUTO = "auto"  # the format that is found out
PARTS = ("train", "val", "test")


def write(
    name: str,
    source: Path,
    *,
    out: Path,
    split_by: str | None = None,
    seed: int = 0,
    strict: bool = False,
    **options: Any,
) -> tuple[dict[Path, int], Tally]:
    """Convert ``source`` into ``out``; returns how many samples each file holds, and the counts.

    The format "auto" is found out.
    ``split_by`` ("0.8,0.1,0.1") puts the photos by chance into ``out`` with .train, .val and .test
    before its ending, all samples of a photo into one. Paths of images are relative to the folder
    of ``out``. What was set aside is written beside it. Files are written whole or not at all.
    Raises ``ConfigError`` for shares that are none, and what :func:`converted` does.
    """
    paths = [out]
    part_of: Callable[[Sample], int] = lambda sample: 0  # noqa: E731
    if split_by is not None:
        shares = _shares(split_by)
        names = PARTS[: len(shares)]
        paths = [out.with_name(f"{out.stem}.{part}{out.suffix}") for part in names]
        part_of = _by_photo(shares, seed)
    tally = Tally(strict)
    if name == AUTO:
        name, source = recognised(source)
        tally.note(f"recognised as {name} (reground data convert {name} ...)", str(source))
    counts = [0] * len(paths)
    named = paths_from(out.parent.resolve())

    def placed(sample: Sample) -> tuple[int, bytes]:
        return part_of(sample), json_line(sample.to_json(named=named))

    if source.resolve() in {path.resolve() for path in (*paths, tally.rejected(out))}:
        raise ConfigError(f"--out {out}: is what is converted; name another file")
    with suppress(_NothingLeft), without_collection(), ExitStack() as stack:
        for path in {out, *paths}:
            stack.enter_context(locked(path))
        files = [stack.enter_context(_written(path)) for path in paths]
        for part, line in converted(placed, name, source, tally=tally, **options):
            files[part].write(line)
            counts[part] += 1
        tally.found["questions"] = sum(counts)
        for file in files:  # a full disk is found before anything is in its place
            file.flush()
            os.fsync(file.fileno())
        tally.write(out)
        if not tally.found["questions"]:
            raise _NothingLeft
    return dict(zip(paths, counts, strict=True)), tally


class _NothingLeft(Exception):
    """Everything was set aside: what was begun is taken back, and no file is written."""


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    with whole(path) as partial, partial.open("wb", buffering=BUFFER) as file:
        yield file


def _shares(text: str) -> list[float]:
    try:
        shares = [float(each) for each in text.split(",")]
    except ValueError:
        shares = []
    if not 2 <= len(shares) <= len(PARTS) or min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ConfigError(f"--split-by {text}: expected two or three shares that add up to 1")
    return shares


def _by_photo(shares: Sequence[float], seed: int) -> Callable[[Sample], int]:
    """The part of a sample: drawn for its photos' names, so that other photos change nothing."""

    ends = list(accumulate(shares))

    def part(sample: Sample) -> int:
        photo = split_view(sample.images[0].path)[0]
        drawn = random.Random(f"{seed}:{Path(photo).name}").random()
        return min(bisect_right(ends, drawn), len(shares) - 1)

    return part
