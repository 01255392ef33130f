"""The source ``synth``: ``synth:TASK`` are samples, ``synth:TASK/SEED/INDEX/IMAGE`` images."""

from __future__ import annotations

from dataclasses import dataclass

from reground.data.schemes import ENDLESS, LazySamples
from reground.grounding.sample import Sample
from reground.tinyworld.scenes import PREFIX, render, sample

__all__ = ["EXAMPLES", "open", "render"]

EXAMPLES = {
    "a drawn scene": f"{PREFIX}referring",
    "the same object again": f"{PREFIX}refer_grounding",
    "one of several scenes": f"{PREFIX}group_grounding",
}


@dataclass(frozen=True, slots=True)
class SceneDataset(LazySamples):
    """A task of the scene world as a lazy sequence: item i is scene i of ``seed``."""

    task: str
    seed: int
    length: int

    def __len__(self) -> int:
        return self.length

    def at(self, number: int) -> Sample:
        """Scene ``number``."""
        return sample(self.task, seed=self.seed, index=number)


def open(spec: str, *, seed: int, limit: int | None) -> SceneDataset:
    """A task as ``synth:diff`` or ``synth:diff@1-3``; ``DataError`` where there is no such task."""
    samples = SceneDataset(spec.removeprefix(PREFIX), seed, limit or ENDLESS)
    samples[0]  # an unknown task is an error now, not in the middle of a run
    return samples
