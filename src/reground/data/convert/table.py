"""Boxes in a table: CSV with a row for each box, whatever its columns are called."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from reground.data.convert.common import read_text
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.labelme import SHAPES, class_of, via_edges
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import Edges, ImageSize
from reground.errors import DataError

# What columns are called, in small letters and without signs: the first that is there counts.
_COLUMNS: Mapping[str, Sequence[str]] = {
    "name": ("filename", "image", "imagepath", "path", "file", "imageid", "imagename", "img"),
    "label": ("class", "label", "labelname", "name", "classname", "category", "object"),
    "x1": ("xmin", "x1", "left", "xtl"),
    "y1": ("ymin", "y1", "top", "ytl"),
    "x2": ("xmax", "x2", "right", "xbr"),
    "y2": ("ymax", "y2", "bottom", "ybr"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "w": ("w", "bboxwidth", "bboxw", "boxwidth", "boxw"),
    "h": ("h", "bboxheight", "bboxh", "boxheight", "boxh"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "group": ("isgroupof", "iscrowd"),
}
_VIA = ("filename", "region_shape_attributes", "region_attributes")
_BARE = ("name", "x1", "y1", "x2", "y2", "label")  # of tables without a head, as keras-retinanet's


def photos(source: Path, tally: Tally) -> tuple[list[Photo], list[str]]:
    """The photos of a CSV, and all its classes.

    Boxes are xmin, ymin, xmax, ymax, or x, y, w, h, in pixels; in shares where all lie in 0-1 and
    one is a fraction (Open Images). A row without a class names a photo that shows nothing. VIA's
    CSV is known by its columns.
    """
    rows = _rows(source)
    by_name: dict[str, list[Mark]] = defaultdict(list)
    sizes: dict[str, ImageSize | None] = {}
    shares = _in_shares(rows)
    for number, row in enumerate(rows, start=2):
        with tally.row(source, f"line {number}", "box"):
            name = row["name"].strip()
            if shape := row.get("region_shape_attributes"):
                by_name[name] += _regions(row, shape, tally)
                continue
            by_name[name] += _marks(row, shares)
            width, height = row.get("width"), row.get("height")
            if width and height:
                sizes[name] = ImageSize(int(float(width)), int(float(height)))
    read = [Photo(name, tuple(marks), sizes.get(name)) for name, marks in by_name.items()]
    return read, sorted({mark.label for photo in read for mark in photo.marks})


def _rows(source: Path) -> list[dict[str, str]]:
    text = read_text(source, "cp1252")
    try:
        dialect: type[csv.Dialect] = csv.Sniffer().sniff(text[:4096], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if any(row)]
    except csv.Error as error:
        raise DataError(f"{source}: not a CSV ({error}); expected a row for each box") from None
    if not table:
        raise DataError(f"{source}: holds no row; expected a row for each box")
    head = [cell.strip() for cell in table[0]]
    if set(_VIA) <= {*head}:
        named = ["name" if cell == "filename" else cell for cell in head]
        return [dict(zip(named, row, strict=False)) for row in table[1:]]
    columns = _named(head)
    if "name" in columns and ({"x1", "y1", "x2", "y2"} <= columns.keys() or _has_sides(columns)):
        return [_by_column(row, columns) for row in table[1:]]
    if len(head) == len(_BARE) and _is_number(head[1]):
        return [dict(zip(_BARE, row, strict=False)) for row in table]
    raise DataError(
        f"{source}: columns {', '.join(head):.200}; expected filename, class, xmin, ymin, xmax "
        "and ymax"
    )


def _named(head: Sequence[str]) -> dict[str, int]:
    plain = ["".join(filter(str.isalnum, cell.lower())) for cell in head]
    return {
        key: next(plain.index(name) for name in names if name in plain)
        for key, names in _COLUMNS.items()
        if any(name in plain for name in names)
    }


def _has_sides(columns: dict[str, int]) -> bool:
    """Whether boxes are x, y and sides; `width` and `height` are a box's where no other are."""
    if {"x", "y"} <= columns.keys() and "w" not in columns and "width" in columns:
        columns["w"], columns["h"] = columns.pop("width"), columns.pop("height", -1)
    return {"x", "y", "w", "h"} <= columns.keys()


def _by_column(row: Sequence[str], columns: Mapping[str, int]) -> dict[str, str]:
    return {key: row[place] for key, place in columns.items() if place < len(row)}


def _regions(row: Mapping[str, str], text: str, tally: Tally) -> Iterator[Mark]:
    """The region of a row of VIA's, if any."""
    shape = json.loads(text)
    if shape.get("name") in SHAPES:
        label = class_of(json.loads(row.get("region_attributes") or "{}"))
        yield Mark.of(label, partial(via_edges, shape))
    elif shape:
        tally.note(f"shapes that are no boxes ({shape.get('name')}), left out", row["name"])


def _in_shares(rows: Sequence[Mapping[str, str]]) -> bool:
    edges = [
        float(row[key])
        for row in rows
        for key in ("x1", "y1", "x2", "y2", "x", "y", "w", "h")
        if _is_number(row.get(key, ""))
    ]
    return bool(edges) and min(edges) >= 0 and max(edges) <= 1 and any(e != int(e) for e in edges)


def _marks(row: Mapping[str, str], shares: bool) -> list[Mark]:
    label = row.get("label", "").strip()
    listed = [row.get(key, "").strip() for key in ("x1", "y1", "x2", "y2")]
    if not any(listed) and not row.get("x"):
        return []  # a photo that shows nothing
    if not label:
        raise Unusable("box without a class", row["name"])
    if not any(listed):
        return [Mark.of(label, partial(_sides, row), shares=shares)]
    whole = row.get("group", "0").strip().lower() not in ("1", "true")
    return [Mark(label, listed, shares, whole)]


def _sides(row: Mapping[str, str]) -> Edges:
    x, y, width, height = (float(row[key]) for key in ("x", "y", "w", "h"))
    return (x, y, x + width, y + height)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
