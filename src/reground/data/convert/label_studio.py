"""Label Studio's exports, JSON and JSON-MIN: boxes in percent, turned about their first corner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import bounds, read_json, turned
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import SUFFIXES, plain_name
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import ImageSize
from reground.errors import DataError

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")


def photos(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of an export, and all labels.

    Of several annotations of a photo the one marked as ground truth counts, else the first that was
    not cancelled. A turned box becomes its upright bounds.
    """
    tasks = read_json(source)
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if (
        not isinstance(tasks, list)
        or not tasks
        or not all(isinstance(each, dict) for each in tasks)
    ):
        raise DataError(f"{source}: expected a list of tasks, as Label Studio exports JSON")
    read = []
    for number, task in enumerate(tasks):
        name = f"task {task.get('id', number)}"
        with tally.row(source, name):
            values = list(_values(task, name, tally))
            image = _image(task)
            marks, sizes = [], set()
            for value in values:
                if mark := _mark(value, image, tally):
                    marks.append(mark)
                    sizes.add(_size(value))
            known = sizes - {None}
            if len(known) > 1:
                raise Unusable("regions that record different sizes", image)
            read.append(Photo(image, tuple(marks), next(iter(known), None)))
    if not read:
        raise DataError(f"{source}: no task can be read; expected Label Studio's JSON or JSON-MIN")
    return read, sorted({mark.label for photo in read for mark in photo.marks})


def _values(task: dict[str, Any], name: str, tally: Tally) -> Iterator[dict[str, Any]]:
    """The regions of a task, each with its value's fields beside those around it."""
    if "annotations" not in task and "completions" not in task:  # JSON-MIN
        for value in task.values():
            if isinstance(value, list):
                yield from (each for each in value if isinstance(each, dict))
        return
    done = task.get("annotations", task.get("completions")) or []
    done = [each for each in done if not each.get("was_cancelled")]
    done.sort(key=lambda each: not each.get("ground_truth"))
    if len(done) > 1:
        tally.note("tasks annotated more than once, one annotation taken", name)
    for region in done[0]["result"] if done else ():
        yield {**region, **region["value"]}


def _image(task: dict[str, Any]) -> str:
    data = task.get("data") or task
    texts = [value for value in data.values() if isinstance(value, str)]
    for text in texts:
        name = plain_name(text)
        if "." in name and f".{name.rpartition('.')[2].lower()}" in SUFFIXES:
            return text
    raise Unusable("task without an image", f"data has {', '.join(data)}")


def _size(value: dict[str, Any]) -> ImageSize | None:
    width, height = value.get("original_width"), value.get("original_height")
    return ImageSize(int(width), int(height)) if width and height else None


def _mark(value: dict[str, Any], image: str, tally: Tally) -> Mark | None:
    labels = next((value[key] for key in _LABELS if value.get(key)), None)
    if labels is None:
        if "x" in value or "points" in value:
            tally.note("regions without a label, left out", image)
        return None
    label = str(labels[0] if isinstance(labels, list) else labels).strip()
    size = _size(value) or ImageSize(1, 1)
    edges = _edges(value, size, image, tally)
    if quarter := int(value.get("image_rotation") or 0) % 360:
        tally.note("photos turned while they were labelled, boxes turned back", image)
        edges = _turned_back(edges, quarter)
    return Mark(label, edges, shares=True)


def _edges(
    value: dict[str, Any], size: ImageSize, image: str, tally: Tally
) -> tuple[float, float, float, float]:
    """Left, upper, right, lower in shares of the photo."""
    if "points" in value:
        return _divided(bounds(value["points"]), 100, 100)
    if "radiusX" in value:
        x, y, across, down = (float(value[key]) for key in ("x", "y", "radiusX", "radiusY"))
        return _divided((x - across, y - down, x + across, y + down), 100, 100)
    x, y, width, height = (float(value[key]) for key in ("x", "y", "width", "height"))
    edges = (x, y, x + width, y + height)
    if not (degrees := float(value.get("rotation") or 0)):
        return _divided(edges, 100, 100)
    tally.note("rotated boxes, their upright bounds taken", image)
    wide, high = size.width / 100, size.height / 100  # pixels of a percent
    pixels = (x * wide, y * high, (x + width) * wide, (y + height) * high)
    return _divided(turned(pixels, degrees, pixels[:2]), size.width, size.height)


def _divided(
    edges: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    return (edges[0] / width, edges[1] / height, edges[2] / width, edges[3] / height)


def _turned_back(
    edges: tuple[float, float, float, float], degrees: int
) -> tuple[float, float, float, float]:
    """Shares of a photo that was shown turned clockwise, as shares of the photo as it is."""
    x1, y1, x2, y2 = edges
    if degrees == 90:
        return (y1, 1 - x2, y2, 1 - x1)
    if degrees == 180:
        return (1 - x2, 1 - y2, 1 - x1, 1 - y1)
    if degrees == 270:
        return (1 - y2, x1, 1 - y1, x2)
    raise Unusable("photo turned by no quarter", f"image_rotation {degrees}")
