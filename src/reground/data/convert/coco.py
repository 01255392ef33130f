"""COCO instances: one JSON of images, annotations and categories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, read_json, reading
from reground.data.convert.detections import Asker, Labelled, read_questions
from reground.data.images import ImageSize
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample


@dataclass(frozen=True, slots=True)
class Instances:
    """The tables of a COCO file: each by id, the annotations by their image's id too."""

    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, dict[str, Any]]
    by_image: dict[Any, list[dict[str, Any]]]
    classes: dict[Any, str]


def convert(
    source: Path,
    *,
    images: Path | None = None,
    questions: Path | None = None,
    views: int = 0,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of an instances JSON, by :class:`Asker`; ids start with the image's file name.

    ``images`` is the folder of the files, the JSON's own folder where it is not given.
    """
    tables = read_instances(source)
    classes = sorted(set(tables.classes.values()))
    asker = Asker("coco", read_questions(questions, classes), views)
    found = Images(images or source.parent, allow_missing_images)
    for key, image in tables.images.items():
        with reading(f"{source}: image {key}"):
            ref = image_ref(image, found)
            objects = [_labelled(row, ref, tables) for row in tables.by_image.get(key, ())]
        yield from asker.samples(Path(ref.path).stem, ref, objects)


def read_instances(path: Path) -> Instances:
    """The tables of a COCO JSON; raises ``DataError`` where one is absent or has bad rows."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a COCO JSON with 'images' and 'annotations'")
    by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    with reading(f"{path}: a table of this COCO JSON"):
        for row in content["annotations"]:
            by_image[row["image_id"]].append(row)
        return Instances(
            {row["id"]: row for row in content["images"]},
            {row["id"]: row for row in content["annotations"]},
            by_image,
            {row["id"]: str(row["name"]) for row in content.get("categories", ())},
        )


def image_ref(image: dict[str, Any], found: Images) -> ImageRef:
    """An image of a COCO table, with the size recorded there."""
    sides = ImageSize(int(image.get("width", 0)), int(image.get("height", 0)))
    return found.ref(str(image["file_name"]), sides if sides.width and sides.height else None)


def box_xywh(values: Any, image: ImageRef, *, where: str) -> Box:
    """A box recorded as left, upper, width and height in pixels."""
    x, y, width, height = numbers(values, where=where)
    return Box(x, y, x + width, y + height, image.frame)


def _labelled(row: dict[str, Any], image: ImageRef, tables: Instances) -> Labelled:
    where = f"annotation {row.get('id')} of {image.path}"
    label = tables.classes.get(row.get("category_id"))
    if label is None:
        raise DataError(f"{where}: unknown category {row.get('category_id')}")
    box = box_xywh(row.get("bbox"), image, where=where)
    return Labelled(label, box, crowd=bool(row.get("iscrowd", 0)))
