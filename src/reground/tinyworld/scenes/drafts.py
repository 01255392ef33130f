"""What a task makes before it is given a name and a seed: scenes, a question, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reground.grounding.boxes import Box
from reground.tinyworld.scenes import chains
from reground.tinyworld.scenes.world import Scene, SceneObject


@dataclass(frozen=True, slots=True)
class Draft:
    """One question over scenes; ``boxes`` are the answer, in pixels of ``scenes[image]``."""

    scenes: tuple[Scene, ...]
    question: str
    boxes: tuple[Box, ...]
    kind: str
    think: str | None = None
    image: int = 0
    relational: bool = False
    distractor: bool = False

    @property
    def difficulty(self) -> float:
        """How hard the question is, in [0, 1].

        0.4 x min(1, (n - 1) / 5) + 0.2 x distractor + 0.4 x relational, where n is the number of
        objects in the target image, distractor says whether another object there shares the
        target's colour or shape, and relational whether two objects or images must be compared.
        """
        crowd = min(1.0, (len(self.scenes[self.image].objects) - 1) / 5)
        return round(0.4 * crowd + 0.2 * self.distractor + 0.4 * self.relational, 3)


def seek(
    target: SceneObject,
    scenes: tuple[Scene, ...],
    image: int,
    *,
    expression: str,
    kind: str,
    think: str,
) -> Draft:
    """The draft that asks for ``target`` of ``scenes[image]``, by comparing images."""
    return Draft(
        scenes=scenes,
        question=chains.ask_in(expression, image),
        boxes=(target.box,),
        kind=kind,
        think=f"{think} {chains.locate_in(target.name, target.box, image)}",
        image=image,
        relational=True,
        distractor=has_distractor(target, scenes[image].objects),
    )


def has_distractor(target: SceneObject, objects: Sequence[SceneObject]) -> bool:
    """Whether another object shares the target's colour or shape."""
    return any(
        each is not target and (each.colour == target.colour or each.shape == target.shape)
        for each in objects
    )
