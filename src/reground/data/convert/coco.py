"""COCO instances, and what other tools write in their form: LVIS, Roboflow, CVAT."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.convert.common import bounds, numbers, read_json
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import Images, plain_name
from reground.data.convert.tally import Tally, Unusable, What
from reground.data.images import ImageSize
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef

Row = Mapping[str, Any]
# Says that a box stands for several objects, or that there are more: COCO, Open Images.
_GROUPS = ("iscrowd", "ignore", "IsGroupOf", "isgroupof", "is_group_of")


@dataclass(frozen=True, slots=True)
class Instances:
    """The tables of a COCO file: each by id, the annotations by their image's id too."""

    images: dict[Any, Row]
    annotations: dict[Any, Row]
    by_image: dict[Any, list[Row]]
    classes: dict[Any, str]


def read_instances(path: Path, tally: Tally) -> Instances:
    """The tables of a COCO JSON, without what stands under an id that is not its own.

    Two photos under one id cannot say whose a box is: both are set aside, and so are classes.
    Raises ``DataError`` where a table is absent or has no rows of its form.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "images" not in content:
        raise DataError(f"{path}: expected a COCO JSON with 'images' and 'annotations'")
    rows = _rows(content, "annotations", path, tally, "box")
    if rows and "segments_info" in rows[0]:
        raise DataError(f"{path}: panoptic annotations hold no boxes; convert the instances file")
    images = _by_id(_rows(content, "images", path, tally, "photo"), path, tally, "photo")
    classes = _by_id(_rows(content, "categories", path, tally, "class"), path, tally, "class")
    by_image: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        with tally.row(path, f"annotation {row.get('id')}", "box"):
            by_image[_key(row["image_id"])].append(row)
    return Instances(
        images,
        {_key(row.get("id")): row for row in rows},
        by_image,
        {key: str(row.get("name")).strip() for key, row in classes.items()},
    )


def photos(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of an instances JSON, and all its classes."""
    tables = read_instances(source, tally)
    read = []
    for key, row in tables.images.items():
        with tally.row(source, f"image {key}", "photo"):
            read.append(_photo(row, tables.by_image.get(key, []), tables, source, tally))
    for key in tables.by_image.keys() - tables.images.keys():
        for row in tables.by_image[key]:
            with tally.row(source, f"annotation {row.get('id')} of image {key}", "box"):
                raise Unusable("annotation of no photo", f"none has image_id {key} to itself")
    return read, sorted(set(tables.classes.values()))


def image_ref(image: Row, found: Images) -> ImageRef:
    """An image of a COCO table, with the size recorded there."""
    return found.ref(_name(image), recorded_size(image))


def box_xywh(values: Any, image: ImageRef) -> Box:
    """A box recorded as left, upper, width and height in pixels."""
    x, y, width, height = numbers(values)
    return Box(x, y, x + width, y + height, image.frame)


def recorded_size(row: Row) -> ImageSize | None:
    """The sides that a row records; None where one is absent, null or 0."""
    try:
        width, height = (float(row.get(side) or 0) for side in ("width", "height"))
    except (TypeError, ValueError):
        raise Unusable(
            "a size that is no number", f"{row.get('width')!r}, {row.get('height')!r}"
        ) from None
    return ImageSize(int(width), int(height)) if width >= 1 and height >= 1 else None


def _rows(content: Row, name: str, path: Path, tally: Tally, what: What) -> list[Row]:
    rows = content.get(name)
    if rows is None and name != "images":
        rows = []
    if not isinstance(rows, list) or (rows and not any(isinstance(row, dict) for row in rows)):
        raise DataError(f"{path}: {name!r} is no list of objects; expected COCO's tables")
    if not rows and name == "annotations" and name not in content:
        raise DataError(f"{path}: field 'annotations' is missing; expected COCO's tables")
    for number, row in enumerate(rows):
        with tally.row(path, f"{name}[{number}]", what):
            if not isinstance(row, dict):
                raise Unusable("row that is no object", f"{row!r:.80}")
    return [row for row in rows if isinstance(row, dict)]


def _key(value: Any) -> Any:
    """An id as a key: 7, 7.0 and "7" are one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, Hashable) else repr(value)


def _by_id(rows: Iterable[Row], path: Path, tally: Tally, what: What) -> dict[Any, Row]:
    """Rows by their ids; those under one id that differ in their name are set aside."""
    field = "file_name" if what == "photo" else "name"
    every: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        with tally.row(path, f"{what} {row.get(field)}", what):
            every[_key(row["id"])].append(row)
    own = {}
    for key, alike in every.items():
        names = Counter(str(row.get(field)) for row in alike)
        if len(names) == 1:
            own[key] = alike[0]
        for name in names if len(names) > 1 else ():
            with tally.row(path, name, what):
                others = ", ".join(other for other in names if other != name)
                raise Unusable(
                    f"{what} id that is not unique", f"id {key} is also that of {others}"
                )
    return own


def _name(row: Row) -> str:
    """The file's name: LVIS has the last parts of the photo's address in its place."""
    if name := row.get("file_name"):
        if not isinstance(name, str | int):
            raise Unusable("a name that is no text", f"file_name {name!r:.80}")
        return str(name)
    if not (address := row.get("coco_url") or row.get("flickr_url")):
        raise KeyError("file_name")
    return plain_name(str(address))


def _photo(
    row: Row, annotations: Iterable[Row], tables: Instances, source: Path, tally: Tally
) -> Photo:
    name = _name(row)
    marks = []
    for each in annotations:
        with tally.row(source, f"annotation {each.get('id')} of {name}", "box"):
            label = tables.classes.get(_key(each.get("category_id")))
            if label is None:
                raise Unusable("unknown category", f"category_id {each.get('category_id')}")
            is_whole = not any(each.get(key) for key in _GROUPS)
            marks.append(Mark.of(label, partial(_edges, each, tally, name), whole=is_whole))
    unsure = set(_classes(row.get("not_exhaustive_category_ids"), tables))
    checked = None
    if "neg_category_ids" in row:
        checked = frozenset(_classes(row["neg_category_ids"], tables))
    return Photo(name, tuple(marks), recorded_size(row), unsure=frozenset(unsure), checked=checked)


def _classes(keys: Any, tables: Instances) -> Iterator[str]:
    for key in keys if isinstance(keys, list) else ():
        if label := tables.classes.get(_key(key)):
            yield label


def _edges(row: Row, tally: Tally, name: str) -> tuple[float, float, float, float]:
    """Left, upper, right, lower: of the box, or the bounds of the polygons where there is none."""
    if row.get("bbox"):
        x, y, width, height = numbers(row["bbox"])
        return (x, y, x + width, y + height)
    polygons = row.get("segmentation")
    flat = [value for each in polygons for value in each] if isinstance(polygons, list) else []
    if len(flat) < 6 or len(flat) % 2:
        raise Unusable("annotation without a box", f"bbox {row.get('bbox')!r}, no polygon")
    tally.note("polygons without a box, their bounds taken", name)
    return bounds(zip(flat[::2], flat[1::2], strict=True))
