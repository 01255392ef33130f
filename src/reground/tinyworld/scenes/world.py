"""The scene world: coloured shapes on a plain ground, sampled from a seeded generator.

A scene is the whole truth about one image. Questions, answers, chains and pixels are all derived
from it, so that every answer can be checked against what is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from reground.grounding.boxes import Box, Frame

SIZE: Final = 112
"""Width and height of every image, in pixels."""

FRAME: Final = Frame.pixels(SIZE, SIZE)
"""The pixel frame of every image."""

WHOLE: Final = Box(0, 0, SIZE, SIZE, FRAME)
"""A whole image."""

MARGIN: Final = 2  # free pixels between an object and the edge: room for the outline of a mark
GAP: Final = 4  # free pixels between two objects, on one axis at least
SIDES: Final = (16, 43)  # shortest and longest side: boxes fill 2.0 to 14.7 % of the image
ASPECT: Final = 1.5  # longer to shorter side; 1.6 at most after rounding to whole pixels

RGB = tuple[int, int, int]
Share = Literal["colour", "shape"]
Style = Literal["plain", "gradient", "stripes"]

COLOURS: Final[dict[str, RGB]] = {
    "red": (215, 35, 40),
    "green": (35, 160, 60),
    "blue": (45, 80, 225),
    "yellow": (240, 210, 25),
    "purple": (140, 50, 195),
    "orange": (245, 130, 20),
    "cyan": (20, 190, 215),
    "pink": (250, 110, 185),
}
"""Name and mean RGB of each colour; no black or white, so that all show on any background."""

SHAPES: Final = ("circle", "square", "triangle", "cross", "diamond", "ring")
"""The shapes, each drawn so that it touches all four edges of its box."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an object is, or as much of it as is said: colour and shape, empty where left open."""

    colour: str = ""
    shape: str = ""

    @property
    def name(self) -> str:
        """The kind in words.

        >>> Kind("red", "circle").name, Kind("red").name, Kind().name
        ('red circle', 'red one', 'shape')
        """
        if not self.colour:
            return self.shape or "shape"
        return f"{self.colour} {self.shape or 'one'}"

    def fits(self, other: Kind) -> bool:
        """Whether the other is of this colour and shape."""
        return self.colour in ("", other.colour) and self.shape in ("", other.shape)


KINDS: Final = tuple(Kind(colour, shape) for colour in COLOURS for shape in SHAPES)
"""Every colour with every shape."""


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object: what it is, its box in whole pixels, the exact colour drawn."""

    kind: Kind
    box: Box
    rgb: RGB

    @property
    def name(self) -> str:
        """Colour and shape in words, as in "red circle"."""
        return self.kind.name


@dataclass(frozen=True, slots=True)
class Background:
    """The ground under the objects: ``base`` alone, or fading into or striped with ``other``."""

    style: Style
    base: RGB
    other: RGB
    horizontal: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """One image of the world; ``mark`` is a box around which a thin red outline is drawn."""

    background: Background
    objects: tuple[SceneObject, ...]
    mark: Box | None = None

    def at(self, boxes: Iterable[Box]) -> Scene:
        """The same objects, in other places."""
        objects = zip(self.objects, boxes, strict=True)
        return replace(self, objects=tuple(replace(own, box=box) for own, box in objects))


class Sampler(random.Random):
    """A seeded generator that also draws what scenes are made of."""

    def kinds(self, count: int, *, without: Sequence[Kind] = ()) -> list[Kind]:
        """``count`` different kinds, none of them in ``without``."""
        return self.sample([kind for kind in KINDS if kind not in without], count)

    def kin(self, kind: Kind, *, share: Share | None = None, without: Sequence[Kind] = ()) -> Kind:
        """Another kind with the same colour or shape (``share``, or either), not in ``without``."""
        if (share or self.choice(("colour", "shape"))) == "colour":
            kin = [Kind(kind.colour, shape) for shape in SHAPES]
        else:
            kin = [Kind(colour, kind.shape) for colour in COLOURS]
        return self.choice([each for each in kin if each != kind and each not in without])

    def kinds_alike(
        self, count: int, *, first: Kind | None = None, without: Sequence[Kind] = ()
    ) -> list[Kind]:
        """Different kinds: ``first`` or any, then one that shares its colour or shape, then any."""
        first = first or self.kinds(1, without=without)[0]
        if count == 1:
            return [first]
        second = self.kin(first, without=without)
        return [first, second, *self.kinds(count - 2, without=(first, second, *without))]

    def scene(self, kinds: Sequence[Kind], *, background: Background | None = None) -> Scene:
        """A scene with one object of each kind, in that order, at random places and sizes."""
        boxes = self._boxes(len(kinds))
        objects = [self.paint(kind, box) for kind, box in zip(kinds, boxes, strict=True)]
        return Scene(background or self.background(), tuple(objects))

    def _boxes(self, count: int) -> list[Box]:
        """``count`` boxes with whole-pixel edges, :data:`GAP` apart and :data:`MARGIN` inside."""
        while True:
            boxes: list[Box] = []
            while len(boxes) < count and (spot := self.spot(boxes)) is not None:
                boxes.append(spot)
            if len(boxes) == count:
                self.shuffle(boxes)  # later ones come out smaller: no rank may give an object away
                return boxes

    def spot(self, taken: Sequence[Box]) -> Box | None:
        """A free place for one more object, apart from the boxes ``taken``; None: not found."""
        shortest, longest = SIDES
        for _ in range(30):
            side = shortest + self.random() * (longest - shortest)
            stretch = ASPECT ** (0.5 * (2 * self.random() - 1) ** 3)  # mostly near 1:1
            width = min(max(round(side * stretch), shortest), longest)
            height = min(max(round(side / stretch), shortest), longest)
            x = MARGIN + int(self.random() * (SIZE - 2 * MARGIN - width + 1))
            y = MARGIN + int(self.random() * (SIZE - 2 * MARGIN - height + 1))
            box = Box(x, y, x + width, y + height, FRAME)
            if all(apart(box, other) for other in taken):
                return box
        return None

    def paint(self, kind: Kind, box: Box) -> SceneObject:
        """An object of this kind at this box, in a slightly jittered colour."""
        red, green, blue = (
            min(max(channel + int(self.random() * 25) - 12, 0), 255)
            for channel in COLOURS[kind.colour]
        )
        return SceneObject(kind, box, (red, green, blue))

    def background(self, *, plain: bool = False) -> Background:
        """A greyish background, light (three of four) or dark, on which every colour shows."""
        low = 212 if self.random() < 0.75 else 18
        base, other = self._greyish(low), self._greyish(low)
        style: Style = "plain" if plain else self.choice(("plain", "gradient", "stripes"))
        return Background(style, base, other, self.random() < 0.5)

    def _greyish(self, low: int) -> RGB:
        grey = low + self.random() * 26
        red, green, blue = (int(grey + self.random() * 12) for _ in range(3))
        return (red, green, blue)


def apart(first: Box, second: Box, *, gap: int = GAP) -> bool:
    """Whether at least ``gap`` pixels lie between the boxes, on one axis or the other."""
    x = max(first.x1 - second.x2, second.x1 - first.x2)
    y = max(first.y1 - second.y2, second.y1 - first.y2)
    return max(x, y) >= gap


def holds(outer: Box, inner: Box, *, margin: int) -> bool:
    """Whether ``inner`` is wholly in the other box, ``margin`` pixels from its edges or more."""
    start = min(inner.x1 - outer.x1, inner.y1 - outer.y1)
    return min(start, outer.x2 - inner.x2, outer.y2 - inner.y2) >= margin


def moved(box: Box, x: float, y: float, *, scale: float = 1.0) -> Box:
    """The box scaled about the origin and then shifted, in whole pixels."""
    left, top = round(scale * box.x1 + x), round(scale * box.y1 + y)
    return Box(left, top, left + round(scale * box.width), top + round(scale * box.height), FRAME)
