"""What a task makes before it is given a name and a seed: scenes, a question, and its answer.

Reasoning chains are templated from the scene: no digits, and about 25 words at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reground.data.convert.mentions import ORDINALS
from reground.grounding.boxes import Box, place
from reground.tinyworld.scenes.world import Scene, SceneObject


@dataclass(frozen=True, slots=True)
class Draft:
    """One question over scenes, answered by the boxes of ``targets`` in ``scenes[image]``.

    Where there is a ``region``, it alone is the answer, and the targets are what it shows.
    """

    scenes: tuple[Scene, ...]
    question: str
    targets: tuple[SceneObject, ...]
    kind: str
    think: str
    image: int = 0
    region: Box | None = None

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The answer, in pixels of ``scenes[image]``."""
        return (self.region,) if self.region else tuple(each.box for each in self.targets)

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        """All objects of the image that is asked about."""
        return self.scenes[self.image].objects

    @property
    def distractor(self) -> bool:
        """Whether another object of that image shares a target's colour or shape."""
        return any(
            each is not target
            and (each.kind.colour == target.kind.colour or each.kind.shape == target.kind.shape)
            for target in self.targets
            for each in self.objects
        )

    @property
    def difficulty(self) -> float:
        """How hard the question is, in [0, 1].

        0.4 x min(1, (n - 1) / 5) + 0.2 x distractor + 0.4 x relational, where n is the number of
        objects in the target image, and relational says whether two objects or images must be
        compared.
        """
        crowd = min(1.0, (len(self.objects) - 1) / 5)
        relational = len(self.scenes) > 1 or self.kind == "relation"
        return round(0.4 * crowd + 0.2 * self.distractor + 0.4 * relational, 3)


def seek(
    scenes: tuple[Scene, ...],
    image: int,
    *,
    expression: str,
    kind: str,
    think: str,
    index: int = 0,
) -> Draft:
    """The draft that asks for object ``index`` of ``scenes[image]``, by comparing images."""
    target = scenes[image].objects[index]
    think = f"{think} {locate(target.name, target.box, image)}"
    return Draft(scenes, ask_in(expression, image), (target,), kind, think, image)


def ask_in(expression: str, image: int) -> str:
    """A question about one of several images.

    >>> ask_in("the object that all images share", 1)
    'the object that all images share. find it in the second image'
    """
    return f"{expression}. find it in the {ORDINALS[image]} image"


def locate(name: str, box: Box, image: int | None = None) -> str:
    """A sentence as "in the second image the red circle is at the top left."."""
    where = "" if image is None else f"in the {ORDINALS[image]} image "
    return f"{where}the {name} is at the {place(box)}."


def left_to_right(objects: Iterable[SceneObject]) -> list[SceneObject]:
    """The objects by their left edges, and by their upper edges where those agree."""
    return sorted(objects, key=lambda each: (each.box.x1, each.box.y1))


def with_article(noun: str) -> str:
    """The noun with "a" or "an".

    >>> with_article("orange ring")
    'an orange ring'
    """
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
