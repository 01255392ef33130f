"""Label Studio's exports, JSON and JSON-MIN: boxes in percent, turned about their first corner."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.convert.common import bounds, read_json, turned
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import SUFFIXES, plain_name
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import Edges, ImageSize
from reground.errors import DataError

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")


def photos(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of an export, and all labels.

    Of several annotations of a photo the one marked as ground truth counts, else the first that was
    not cancelled. A turned box becomes its upright bounds.
    """
    tasks = read_json(source)
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list) or not any(isinstance(each, dict) for each in tasks):
        raise DataError(f"{source}: expected a list of tasks, as Label Studio exports JSON")
    read = []
    for number, task in enumerate(tasks):
        image = None
        name = f"task {task.get('id', number) if isinstance(task, dict) else number}"
        with tally.row(source, name, "photo"):
            if not isinstance(task, dict):
                raise Unusable("task that is no object", f"{task!r:.80}")
            image = _image(task)
        if image is not None:
            with tally.row(source, image, "photo"):
                read.append(_photo(task, image, tally))
    if not read:
        raise DataError(f"{source}: no task can be read; expected Label Studio's JSON or JSON-MIN")
    return read, sorted({mark.label for photo in read for mark in photo.marks})


def _photo(task: dict[str, Any], image: str, tally: Tally) -> Photo:
    marks, sizes = [], set()
    for value in _values(task, image, tally):
        if mark := _mark(value, image, tally):
            marks.append(mark)
            sizes.add(_size(value))
    known = sizes - {None}
    if len(known) > 1:
        raise Unusable("regions that record different sizes", ", ".join(map(str, known)))
    return Photo(image, tuple(marks), next(iter(known), None))


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
    for region in (done[0]["result"] or ()) if done else ():
        if region.get("type") != "relation":
            yield {**region, **(region.get("value") or {})}


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
    if labels is None and not {"x", "points"} & value.keys():
        return None  # a choice, a rating, a brush
    label = labels[0] if isinstance(labels, list) else labels
    return Mark.of(
        "" if label is None else str(label).strip(),
        partial(_upright, value, image, tally),
        shares=True,
    )


def _upright(value: dict[str, Any], image: str, tally: Tally) -> Edges:
    """The region in shares of the photo as it is, not as it was turned to be labelled."""
    edges = _edges(value, _size(value) or ImageSize(1, 1), image, tally)
    if quarter := int(value.get("image_rotation") or 0) % 360:
        tally.note("photos turned while they were labelled, boxes turned back", image)
        return _turned_back(edges, quarter)
    return edges


def _edges(value: dict[str, Any], size: ImageSize, image: str, tally: Tally) -> Edges:
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


def _divided(edges: Edges, width: float, height: float) -> Edges:
    return (edges[0] / width, edges[1] / height, edges[2] / width, edges[3] / height)


def _turned_back(edges: Edges, degrees: int) -> Edges:
    """Shares of a photo that was shown turned clockwise, as shares of the photo as it is."""
    x1, y1, x2, y2 = edges
    if degrees == 90:
        return (y1, 1 - x2, y2, 1 - x1)
    if degrees == 180:
        return (1 - x2, 1 - y2, 1 - x1, 1 - y1)
    if degrees == 270:
        return (1 - y2, x1, 1 - y1, x2)
    raise Unusable("photo turned by no quarter", f"image_rotation {degrees}")
