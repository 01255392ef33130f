"""Datasets by name: a JSONL of samples, a benchmark, or SCHEME:REST; and writing one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

from reground.data.benchmarks import open_benchmark
from reground.data.frames import Boxes
from reground.data.images import sides
from reground.data.rows import LARGE, Rows, check_frame
from reground.data.schemes import is_endless, source_of
from reground.data.soundness import Soundness
from reground.errors import ConfigError, DataError
from reground.grounding.paths import Move, by_folder
from reground.grounding.sample import Sample, read_jsonl, write_jsonl


def open_dataset(
    spec: str, *, seed: int = 0, limit: int | None = None, sound: bool = True
) -> Sequence[Sample]:
    """The samples that ``spec`` names: a path that ends in .jsonl, ``SCHEME:REST`` of an installed
    source (as ``synth:diff``), or a benchmark as ``mig_bench``.

    A source may be endless unless ``limit`` is given, and ``seed`` picks what it draws. Files keep
    the order of their rows, whatever the seed. Without ``sound``, rows are taken whose boxes and
    ids are to be mended. Raises ``DataError`` where the file is missing,
    malformed or empty, or holds a row that :func:`validate` sets aside for more than a picture's
    file, what the source is asked for or the benchmark is unknown, or a benchmark's
    files are missing or incomplete.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{spec}: a limit of {limit} samples was asked; it must be at least 1")
    if source := source_of(spec):
        return source.open(spec, seed=seed, limit=limit)
    if not spec.endswith(".jsonl"):
        return open_benchmark(spec, limit=limit)
    path = Path(spec)
    if limit is None and path.is_file() and path.stat().st_size > LARGE:
        return Rows(path, sound=sound)
    soundness, numbers = Soundness(), count(1)

    def check(sample: Sample) -> None:
        soundness.check(sample, f"row {next(numbers)}")

    rows = read_jsonl(path, measure=sides, check=check if sound else lambda sample: None)
    samples = list(islice(rows, limit))
    if not samples:
        raise DataError(f"{spec}: holds no sample; expected one JSON object a line")
    if sound:
        check_frame(spec, Boxes.of(samples))
    return samples


def read_dataset(
    spec: str, *, seed: int = 0, limit: int | None = None, sound: bool = True
) -> list[Sample]:
    """All samples that ``spec`` names; raises ``ConfigError`` where they have no end."""
    samples = open_dataset(spec, seed=seed, limit=limit, sound=sound)
    if is_endless(samples):
        raise ConfigError(
            f"{spec} is endless; say how many samples with --limit", help="endless-data"
        )
    return list(samples)


def save_dataset(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples as a JSONL, image paths relative to its folder; returns how many.

    The inverse of ``open_dataset(path)``, so that a folder of images and JSONL can be moved.
    """
    # Resolved, so that ".." leaves the folder itself and not a link to it.
    folder = path.parent.resolve()
    return write_jsonl(path, samples, named=paths_from(folder))


def path_from(folder: Path, path: str) -> str:
    """The way from ``folder``, which is resolved, to a file of the working directory.

    ``..`` behind a link leads up from where the link points, so the file's folder is resolved too.
    """
    return _way_from(folder, os.getcwd())(path)


def paths_from(folder: Path) -> Move:
    """:func:`path_from` for many files, of the working directory that is now."""
    return _way_from(folder, os.getcwd())


@lru_cache(maxsize=16)
def _way_from(folder: Path, here: str) -> Move:
    return by_folder(
        lambda where: os.path.relpath(os.path.realpath(os.path.join(here, where)), folder)
    )
