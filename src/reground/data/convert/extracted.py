"""Boxes that others extracted from segmentation sets: a photo, an instruction, boxes in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, plain, read_rows, reading
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target

# VLM-R1's rows hold half of its prompt, which is the prompt profile's business.
_LEAD = "Please provide the bounding box coordinate of the region this sentence describes: "


# How each project names the image, the question and the boxes.
_FIELDS = (
    ("image_path", "instruction", "boxes"),  # UniVG-R1's and Visual-RFT's lisa_{val,test}.json
    ("image_path", "question", "bbox"),  # UniVG-R1's LLMSeg_eval.json
    ("image", "problem", "solution"),  # VLM-R1's lisa_test.json
)


def convert(source: Path, *, images: Path | None = None) -> Iterator[Sample]:
    """One sample per instruction of every row; the task is what the file is named after.

    Boxes are x1, y1, x2, y2 in pixels, one or several; an empty list says that nothing matches. A
    row without boxes is a ``DataError``. Photos are needed, for the rows record no sizes: they lie
    below ``images`` (the file's own folder where it is not given), under as much of the recorded
    path as is there.
    """
    rows = read_rows(source)
    fields = next((each for each in _FIELDS if rows[0].keys() >= {*each}), None)
    if fields is None:
        known = "; or ".join(map(", ".join, _FIELDS))
        raise DataError(f"{source}: row 1 has the fields {', '.join(rows[0])}; expected {known}")
    found = Images(images or source.parent)
    for number, row in enumerate(rows):
        name = f"{source.stem}-{number:05d}"
        with reading(f"{source}: {name}"):
            photo, asked, boxes = (row[each] for each in fields)
            image = found.ref(found.tail(str(photo)))
            targets = _targets(boxes, image, where=f"{name}: {fields[2]}")
            texts = asked if isinstance(asked, list) else [asked]
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(f"{name}: {fields[1]} is {asked!r}; expected a text, or several")
        for place, text in enumerate(texts):
            own = name if len(texts) == 1 else f"{name}-{place}"
            yield Sample(own, (image,), _question(text), targets, source.stem)


def _question(text: str) -> str:
    if text.startswith(_LEAD):
        return plain(text.removeprefix(_LEAD)).removesuffix(".")
    return plain(text)


def _targets(value: Any, image: ImageRef, *, where: str) -> tuple[Target, ...]:
    """The boxes of a row, in pixels of ``image``: one box, a list of boxes, or two corner points.

    An empty list is no target. Raises ``DataError`` where there is no list: no ground truth.
    """
    if not isinstance(value, list):
        raise DataError(f"{where} is {value!r}: no ground truth; expected a list of boxes")
    lengths = [len(each) if isinstance(each, list) else 0 for each in value]
    if lengths == [2, 2]:  # two corner points
        value = [[*value[0], *value[1]]]
    boxes = [value] if 0 in lengths else value
    return tuple(Target(0, Box(*numbers(box, where=where), image.frame)) for box in boxes)
