"""Data sets of labelled boxes: Pascal VOC (an XML per image) and COCO instances (one JSON)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, left_out, numbers, read_json, read_text, reading
from reground.data.convert.questions import Asker, Labelled, read_questions
from reground.data.images import ImageSize
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample


def voc(
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    questions: Path | None = None,
    views: int = 0,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of a VOC folder (Annotations, ImageSets/Main, JPEGImages), by :class:`Asker`.

    ``split`` names a list in ImageSets/Main; without it every annotated image is read. VOC counts
    pixels from 1 and includes the last, so a box's left and upper edge lie one below the
    recorded ``xmin`` and ``ymin``.
    """
    folder = source / "Annotations"
    trees = {path.stem: _parse(path) for path in sorted(folder.glob("*.xml"))}
    if not trees:
        raise DataError(f"{folder}: no XML files; expected a Pascal VOC folder as source")
    classes = sorted({_label(item) for tree in trees.values() for item in tree.iter("object")})
    phrases = read_questions(questions, classes)
    found = Images(images or source / "JPEGImages", allow_missing_images)
    with left_out(source) as counts:
        asker = Asker("voc", phrases, views, counts)
        for name in _names(source, split, list(trees)):
            if name not in trees:
                raise DataError(f"{folder / name}.xml: no such file, but split {split!r} lists it")
            with reading(f"{folder / name}.xml"):
                image = _image(trees[name], name, found)
                objects = list(_objects(trees[name], image))
            yield from asker.samples(name, image, objects)


def coco(
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
    phrases = read_questions(questions, sorted(set(tables.classes.values())))
    found = Images(images or source.parent, allow_missing_images)
    with left_out(source) as counts:
        asker = Asker("coco", phrases, views, counts)
        for key, image in tables.images.items():
            with reading(f"{source}: image {key}"):
                ref = image_ref(image, found)
                objects = [_labelled(row, ref, tables) for row in tables.by_image.get(key, ())]
            yield from asker.samples(Path(ref.path).stem, ref, objects)


# ---- the tables of COCO ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Instances:
    """The tables of a COCO file: each by id, the annotations by their image's id too."""

    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, dict[str, Any]]
    by_image: dict[Any, list[dict[str, Any]]]
    classes: dict[Any, str]


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
    return found.ref(
        str(image["file_name"]), _recorded(image.get("width", 0), image.get("height", 0))
    )


def box_xywh(values: Any, image: ImageRef) -> Box:
    """A box recorded as left, upper, width and height in pixels."""
    x, y, width, height = numbers(values)
    return Box(x, y, x + width, y + height, image.frame)


def _recorded(width: Any, height: Any) -> ImageSize | None:
    size = ImageSize(int(width), int(height))
    return size if size.width and size.height else None


def _labelled(row: dict[str, Any], image: ImageRef, tables: Instances) -> Labelled:
    label = tables.classes.get(row.get("category_id"))
    with reading(f"annotation {row.get('id')} of {image.path}"):
        if label is None:
            raise DataError(f"unknown category {row.get('category_id')}")
        box = box_xywh(row.get("bbox"), image)
        return Labelled(label, box, crowd=bool(row.get("iscrowd", 0)))


# ---- the files of VOC --------------------------------------------------------------------------


def _parse(path: Path) -> ET.Element:
    try:
        return ET.parse(path).getroot()
    except ET.ParseError as error:
        raise DataError(f"{path}: broken XML ({error}); mend the file") from None


def _names(source: Path, split: str | None, annotated: Sequence[str]) -> Sequence[str]:
    if split is None:
        return annotated
    lists = source / "ImageSets" / "Main"
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in lists.glob("*.txt"))) or "none"
        raise DataError(f"{path}: no such split; {lists} has {known}")
    # Class-wise lists hold "name -1" lines; the name is the first word.
    return [line.split()[0] for line in read_text(path).splitlines() if line]


def _image(tree: ET.Element, name: str, found: Images) -> ImageRef:
    filename = tree.findtext("filename") or f"{name}.jpg"
    width, height = (tree.findtext(f"size/{side}") or 0 for side in ("width", "height"))
    return found.ref(filename, _recorded(width, height))


def _objects(tree: ET.Element, image: ImageRef) -> Iterator[Labelled]:
    for item in tree.iter("object"):
        edges = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        xmin, ymin, xmax, ymax = numbers(edges)
        one = 1 if xmax > xmin and ymax > ymin else 0  # an empty box stays empty
        yield Labelled(_label(item), Box(xmin - one, ymin - one, xmax, ymax, image.frame))


def _label(item: ET.Element) -> str:
    return (item.findtext("name") or "").strip()
