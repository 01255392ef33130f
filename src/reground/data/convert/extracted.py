"""Boxes that others extracted from segmentation sets: a photo, an instruction, boxes in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, plain, read_rows, reading
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target

# VLM-R1's rows hold half of its prompt, which is the prompt profile's business.
_LEAD = "Please provide the bounding box coordinate of the region this sentence describes: "


@dataclass(frozen=True, slots=True)
class Form:
    """How one project names the three fields."""

    image: str
    question: str
    boxes: str


FORMS = (
    Form("image_path", "instruction", "boxes"),  # UniVG-R1's and Visual-RFT's lisa_{val,test}.json
    Form("image_path", "question", "bbox"),  # UniVG-R1's LLMSeg_eval.json
    Form("image", "problem", "solution"),  # VLM-R1's lisa_test.json
)


def convert(source: Path, *, images: Path | None = None) -> Iterator[Sample]:
    """One sample per instruction of every row; the task is what the file is named after.

    Boxes are x1, y1, x2, y2 in pixels, one or several; an empty list says that nothing matches. A
    row without boxes is a ``DataError``. Photos are needed, for the rows record no sizes: they lie
    below ``images`` (the file's own folder where it is not given), under as much of the recorded
    path as is there.
    """
    rows = read_rows(source)
    form = _form(rows[0], source)
    found = Images(images or source.parent)
    for number, row in enumerate(rows):
        name = f"{source.stem}-{number:05d}"
        with reading(f"{source}: {name}"):
            samples = _samples(row, form, name, source.stem, found)
        yield from samples


def _form(row: dict[str, Any], source: Path) -> Form:
    for form in FORMS:
        if {form.image, form.question, form.boxes} <= row.keys():
            return form
    known = "; or ".join(f"{form.image}, {form.question}, {form.boxes}" for form in FORMS)
    raise DataError(f"{source}: row 1 has the fields {', '.join(row)}; expected {known}")


def _samples(row: dict[str, Any], form: Form, name: str, task: str, found: Images) -> list[Sample]:
    asked = row[form.question]
    texts = asked if isinstance(asked, list) else [asked]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{name}: {form.question} is {asked!r}; expected a text, or several")
    image = found.ref(found.tail(str(row[form.image])))
    targets = _targets(row[form.boxes], image, where=f"{name}: {form.boxes}")
    return [
        Sample(
            id=name if len(texts) == 1 else f"{name}-{number}",
            images=(image,),
            question=_question(text),
            targets=targets,
            task=task,
        )
        for number, text in enumerate(texts)
    ]


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
    lengths = [len(item) if isinstance(item, list) else 0 for item in value]
    if lengths == [2, 2]:  # two corner points
        value = [[*value[0], *value[1]]]
    boxes = [value] if 0 in lengths else value
    return tuple(Target(0, Box(*numbers(box, where=where), image.frame)) for box in boxes)
