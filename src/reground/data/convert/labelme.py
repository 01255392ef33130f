"""labelme (a JSON for each photo) and VGG Image Annotator (one JSON or CSV for all)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.convert.common import bounds, numbers, read_json
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import Edges, ImageSize
from reground.errors import DataError

SHAPES = ("rect", "circle", "ellipse", "polygon")  # of VIA's, those with bounds
_CLASS_FIELDS = ("class", "label", "name", "type", "category", "object", "class_name")


def labelme(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of labelme's files below a folder, and all labels.

    Rectangles, polygons and circles are boxes; lines and points are not.
    """
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    read = []
    for path in files:
        with tally.row(path, path.stem, "photo"):
            row = read_json(path)
            if not isinstance(row, dict) or "shapes" not in row:
                raise Unusable("no labelme file", "expected an object with 'shapes'")
            marks = tuple(_shapes(row["shapes"], path, tally))
            size = _size(row.get("imageWidth"), row.get("imageHeight"))
            name = str(row.get("imagePath") or path.with_suffix(".jpg").name)
            read.append(Photo(name, marks, size, stem=path.stem))
    if not read:
        raise DataError(f"{source}: no labelme files; expected JSONs with 'shapes'")
    return read, _labels(read)


def via(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of a VIA project or export (JSON), and all labels.

    A region's label is its attribute called class, label, name, type, category or object, or the
    only one that it has.
    """
    content = read_json(source)
    if isinstance(content, dict):
        content = content.get("_via_img_metadata", content)
    if not isinstance(content, dict) or not any(isinstance(row, dict) for row in content.values()):
        raise DataError(f"{source}: expected a project or export of VIA, by photos")
    read = []
    for key, row in content.items():
        with tally.row(source, key, "photo"):
            regions = row["regions"]
            listed = regions.values() if isinstance(regions, dict) else regions
            name = str(row["filename"])
            read.append(Photo(name, tuple(_regions(listed, name, tally))))
    if not read:
        raise DataError(f"{source}: names no photo; expected a project or export of VIA")
    return read, _labels(read)


def _labels(read: Iterable[Photo]) -> list[str]:
    return sorted({mark.label for photo in read for mark in photo.marks})


def _size(width: Any, height: Any) -> ImageSize | None:
    return ImageSize(int(width), int(height)) if width and height else None


def _shapes(shapes: Any, path: Path, tally: Tally) -> Iterator[Mark]:
    for shape in shapes:
        with tally.row(path, f"{path.stem}: {shape}"[:80], "box"):
            kind = shape.get("shape_type") or "polygon"
            if kind not in ("rectangle", "polygon", "rotation", "mask", "circle"):
                tally.note(f"shapes that are no boxes ({kind}), left out", path.name)
                continue
            yield Mark.of(str(shape["label"]).strip(), partial(_bounds, shape, kind))


def _bounds(shape: dict[str, Any], kind: str) -> Edges:
    if kind != "circle":
        return bounds(shape["points"])
    (x, y), (x2, y2) = shape["points"]
    radius = math.hypot(x2 - x, y2 - y)
    return (x - radius, y - radius, x + radius, y + radius)


def _regions(regions: Iterable[Any], name: str, tally: Tally) -> Iterator[Mark]:
    for region in regions:
        with tally.row(name, f"{name}: {region}"[:80], "box"):
            shape, attributes = region["shape_attributes"], region["region_attributes"]
            if shape.get("name") in SHAPES:
                yield Mark.of(class_of(attributes), partial(via_edges, shape))
            else:
                tally.note(f"shapes that are no boxes ({shape.get('name')}), left out", name)


def via_edges(shape: dict[str, Any]) -> Edges:
    """Left, upper, right, lower of a region, which is one of ``SHAPES``."""
    kind = shape["name"]
    if kind == "rect":
        x, y, width, height = numbers([shape[key] for key in ("x", "y", "width", "height")])
        return (x, y, x + width, y + height)
    if kind in ("circle", "ellipse"):
        across = float(shape.get("r", shape.get("rx", 0)))
        down = float(shape.get("r", shape.get("ry", 0)))
        x, y = float(shape["cx"]), float(shape["cy"])
        return (x - across, y - down, x + across, y + down)
    return bounds(zip(shape["all_points_x"], shape["all_points_y"], strict=True))


def class_of(attributes: Any) -> str:
    """The label of a region; raises ``DataError`` where none of its attributes is one."""
    named = {str(key).lower(): value for key, value in attributes.items()}
    key = next((each for each in _CLASS_FIELDS if named.get(each)), None)
    if key is None and len(named) == 1:
        key = next(iter(named))
    value = named.get(key) if key else None
    if isinstance(value, dict):  # a checkbox: the first that is ticked
        value = next((name for name, ticked in value.items() if ticked), None)
    if not value:
        raise Unusable("region without a class", f"attributes {attributes!r}")
    return str(value).strip()
