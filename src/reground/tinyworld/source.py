"""The source ``synth``: ``synth:TASK`` are samples, ``synth:TASK/SEED/INDEX/IMAGE`` images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from reground.data.schemes import ENDLESS
from reground.grounding.sample import Sample
from reground.tinyworld.scenes import PREFIX, render, sample

__all__ = ["EXAMPLES", "open", "render"]

EXAMPLES = {
    "a drawn scene": f"{PREFIX}referring",
    "the same object again": f"{PREFIX}refer_grounding",
    "one of several scenes": f"{PREFIX}group_grounding",
}


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
        places = range(self.length)[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        return sample(self.task, seed=self.seed, index=places)


def open(spec: str, *, seed: int, limit: int | None) -> SceneDataset:
    """A task as ``synth:diff`` or ``synth:diff@1-3``; ``DataError`` where there is no such task."""
    samples = SceneDataset(spec.removeprefix(PREFIX), seed, limit or ENDLESS)
    samples[0]  # an unknown task is an error now, not in the middle of a run
    return samples
