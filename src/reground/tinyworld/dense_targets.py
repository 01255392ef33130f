"""What every image token of a scene or photo should know: which object is there, and its box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample
from reground.tinyworld import scenes as synth

MIN_SHARE = 0.02  # of a cell's area: less of an object than this cannot be seen


@dataclass(frozen=True, slots=True)
class VisibleObject:
    """An object of one image: its box, and the place of its name in each vocabulary."""

    box: Box
    names: tuple[int, ...]


class Vocabulary:
    """The names that objects have, by kind: colours and shapes of scenes, questions of a file.

    In a file, every row asks for one kind of object and its targets are all of that kind.
    """

    def __init__(self, rows: Iterable[Sample]) -> None:
        questions = list(dict.fromkeys(row.question for row in rows))
        self._scenes = not questions
        self.names: Mapping[str, Sequence[str]] = (
            {"colour": list(synth.COLOURS), "shape": list(synth.SHAPES)}
            if self._scenes
            else {"object": questions}
        )

    def objects(self, image: int, samples: Sequence[Sample]) -> list[VisibleObject]:
        """The objects of an image, from the scene itself or from all samples about it."""
        if self._scenes:
            colours, shapes = (list(names) for names in self.names.values())
            return [
                VisibleObject(item.box, (colours.index(item.colour), shapes.index(item.shape)))
                for item in synth.scene(samples[0].images[image].path).objects
            ]
        (names,) = self.names.values()
        return [
            VisibleObject(target.box, (names.index(sample.question),))
            for sample in samples
            for target in sample.targets
            if target.image == image
        ]


def token_targets(
    objects: Sequence[VisibleObject], image: ImageRef, rows: int, columns: int, *, own_share: bool
) -> tuple[Tensor, Tensor]:
    """For each of rows x columns cells: the object that it shows, and that object's box.

    Of several objects it is the one that covers most of the cell or, with ``own_share``, the one
    of which the cell shows most, so that small ones are not lost. Returns the objects' places in
    ``objects`` (-1: none) [rows * columns] and boxes in 0-1 of the image [rows * columns, 4].
    """
    places = torch.full((rows, columns), -1)
    boxes = torch.full((rows, columns, 4), -1.0)
    best = torch.zeros(rows, columns)
    edges_y = torch.linspace(0, image.height, rows + 1)
    edges_x = torch.linspace(0, image.width, columns + 1)
    cell = image.width * image.height / (rows * columns)
    for place, item in enumerate(objects):
        x1, y1, x2, y2 = item.box.xyxy
        wide = (edges_x[1:].clamp(max=x2) - edges_x[:-1].clamp(min=x1)).clamp(min=0)
        high = (edges_y[1:].clamp(max=y2) - edges_y[:-1].clamp(min=y1)).clamp(min=0)
        area = high[:, None] * wide[None, :]
        score = area / item.box.area if own_share else area
        wins = (score > best) & (area > MIN_SHARE * cell)
        best = torch.where(wins, score, best)
        places[wins] = place
        unit = [x1 / image.width, y1 / image.height, x2 / image.width, y2 / image.height]
        boxes[wins] = torch.tensor(unit)
    return places.view(-1), boxes.view(-1, 4)
