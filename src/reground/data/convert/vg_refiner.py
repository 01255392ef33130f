"""VG-Refiner's rows: a referring expression, its true box, and what a detector found for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, read_rows, reading
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target


def convert(source: Path, *, images: Path | None = None) -> Iterator[Sample]:
    """Samples of rows in JSON or JSONL, with the name of a file as ``image``; it must be there.

    The data set as its authors publish it holds the photos themselves:
    :mod:`reground.data.convert.hub` reads that.
    """
    found = Images(images or source.parent)
    for number, row in enumerate(read_rows(source, "image", "question", "ground_truth")):
        name = str(row["image"])
        yield of_row(row, found.ref(found.tail(name)), number=number, task=source.stem)


def of_row(row: dict[str, Any], image: ImageRef, *, number: int, task: str) -> Sample:
    """The sample of one row, whose photo is ``image``; boxes are in its pixels.

    ``ground_truth`` and ``tool_results`` are JSON texts: an object with ``bbox_2d``, or a list of
    such (the detector's may also be a list of bare boxes). An empty list of true boxes says that
    nothing matches, one of the detector's that it found nothing. The expression is put in lower
    case, without marks around it, as their evaluation asks it. Raises ``DataError`` where
    ``ground_truth`` is absent, null or no such JSON: their evaluation passes over such rows.
    """
    name = f"{task}-{number:05d}-{row.get('image_id')}-{row.get('ann_id')}"
    with reading(name):
        tools = row.get("tool_results", _ABSENT)
        return Sample(
            id=name,
            images=(image,),
            question=" ".join(str(row["question"]).lower().strip('."?! \n').split()),
            targets=_targets(row["ground_truth"], image, f"{name}: ground_truth"),
            task=task,
            tool_results=None
            if tools is _ABSENT
            else _detections("[]" if tools is None else tools, image, f"{name}: tool_results"),
        )


_ABSENT = object()


def _detections(text: Any, image: ImageRef, where: str) -> tuple[Detection, ...]:
    items = _items(text, where)
    labels = [item.get("label") if isinstance(item, dict) else None for item in items]
    return tuple(
        Detection(0, box, None if label is None else str(label))
        for box, label in zip(_boxes(items, image, where), labels, strict=True)
    )


def _targets(text: Any, image: ImageRef, where: str) -> tuple[Target, ...]:
    return tuple(Target(0, box) for box in _boxes(_items(text, where), image, where))


def _boxes(items: Iterable[Any], image: ImageRef, where: str) -> list[Box]:
    quads = [item["bbox_2d"] if isinstance(item, dict) else item for item in items]
    return [Box(*numbers(quad, where=where), image.frame) for quad in quads]


def _items(text: Any, where: str) -> list[Any]:
    try:
        content = json.loads(text)
    except (TypeError, ValueError):
        content = None
    if not isinstance(content, dict | list):
        raise DataError(f"{where} is {text!r}; expected JSON with bbox_2d")
    return [content] if isinstance(content, dict) else content
