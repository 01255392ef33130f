"""Datasets by name: a JSONL of samples, a benchmark, a task of the scene world; and writing one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import overload

from reground.data import synth
from reground.data.benchmarks import open_benchmark
from reground.data.images import SYNTH_PREFIX
from reground.errors import ConfigError, DataError
from reground.grounding.sample import Sample, read_jsonl, write_jsonl

_ENDLESS = 2**31 - 1


def open_dataset(spec: str, *, seed: int = 0, limit: int | None = None) -> Sequence[Sample]:
    """The samples that ``spec`` names: a path that ends in .jsonl, ``synth:TASK`` (or
    ``synth:TASK@1-3``), or a benchmark as ``mig_bench``.

    A scene-world task is lazy and endless (2**31 - 1 samples) unless ``limit`` is given; ``seed``
    picks its scenes. Files keep the order of their rows, whatever the seed. Raises ``DataError``
    where the file is missing, malformed or empty, the task or benchmark is unknown, or a
    benchmark's files are missing or incomplete.
    """
    if limit is not None and limit < 1:
        raise DataError(f"{spec}: a limit of {limit} samples was asked; it must be at least 1")
    if spec.startswith(SYNTH_PREFIX):
        scenes = SynthDataset(spec.removeprefix(SYNTH_PREFIX), seed, limit or _ENDLESS)
        scenes[0]  # an unknown task is an error now, not in the middle of a run
        return scenes
    if not spec.endswith(".jsonl"):
        return open_benchmark(spec, limit=limit)
    samples = list(islice(read_jsonl(Path(spec)), limit))
    if not samples:
        raise DataError(f"{spec}: holds no sample; expected one JSON object a line")
    return samples


def read_dataset(spec: str, *, seed: int = 0, limit: int | None = None) -> list[Sample]:
    """All samples that ``spec`` names; raises ``ConfigError`` where they have no end."""
    if limit is None and spec.startswith(SYNTH_PREFIX):
        raise ConfigError(f"{spec} is endless; say how many samples with --limit")
    return list(open_dataset(spec, seed=seed, limit=limit))


@dataclass(frozen=True, slots=True)
class SynthDataset(Sequence[Sample]):
    """A task of the scene world as a lazy sequence: item i is scene i of ``seed``."""

    task: str
    seed: int
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        position = index + self.length if index < 0 else index
        if not 0 <= position < self.length:
            raise IndexError(f"sample {index} of {self.length}")
        return synth.sample(self.task, seed=self.seed, index=position)


def save_dataset(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples as a JSONL, image paths relative to its folder; returns how many.

    The inverse of ``open_dataset(path)``, so that a folder of images and JSONL can be moved.
    """
    # Resolved, so that ".." leaves the folder itself and not a link to it.
    folder = path.parent.resolve()
    return write_jsonl(path, (relative_to(sample, folder) for sample in samples))


def relative_to(sample: Sample, folder: Path) -> Sample:
    """The sample with paths of images relative to ``folder``, which is resolved; scenes stay."""
    images = tuple(
        image
        if image.path.startswith(SYNTH_PREFIX)
        else replace(image, path=path_from(folder, image.path))
        for image in sample.images
    )
    return replace(sample, images=images)


def path_from(folder: Path, path: str) -> str:
    """The way from ``folder``, which is resolved, to a file of the working directory.

    ``..`` behind a link leads up from where the link points, so the file's folder is resolved too.
    """
    where, name = os.path.split(path)
    return Path(
        os.path.relpath(os.path.join(_resolved(os.path.join(os.getcwd(), where)), name), folder)
    ).as_posix()


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> str:
    return os.path.realpath(folder)
