"""The source ``synth``: ``synth:TASK`` are samples, ``synth:TASK/SEED/INDEX/IMAGE`` images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from PIL import Image

from reground.data.schemes import ENDLESS
from reground.grounding.sample import Sample
from reground.tinyworld import scenes

PREFIX = "synth:"


@dataclass(frozen=True, slots=True)
class SceneDataset(Sequence[Sample]):
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
        return scenes.sample(self.task, seed=self.seed, index=position)


def open(spec: str, *, seed: int, limit: int | None) -> SceneDataset:
    """A task as ``synth:diff`` or ``synth:diff@1-3``; ``DataError`` where there is no such task."""
    samples = SceneDataset(spec.removeprefix(PREFIX), seed, limit or ENDLESS)
    samples[0]  # an unknown task is an error now, not in the middle of a run
    return samples


def render(path: str) -> Image.Image:
    """The image of a scene; raises ``DataError`` for a path that names none."""
    return scenes.render(path)
