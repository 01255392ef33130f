"""Data sets of Hugging Face with a column of labelled boxes, as cppe-5's ``objects``."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reground.data.convert import hub
from reground.data.convert.coco import recorded_size
from reground.data.convert.common import numbers
from reground.data.convert.labelled import Mark, Photo
from reground.data.convert.photos import SUFFIXES
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import Edges, ImageSize, size
from reground.errors import DataError, did_you_mean

# What the fields of the column are called: the first that is there counts.
_BOXES = ("bbox", "bboxes", "boxes", "box")
_LABELS = (
    *("category", "categories", "category_name", "label", "labels", "label_name", "class"),
    *("classes", "class_name", "name", "category_id", "class_id"),
)
_GROUPS = ("iscrowd", "is_crowd", "ignore", "is_group_of", "IsGroupOf")
_CORNERS = {
    "xywh": lambda a, b, c, d: (a, b, a + c, b + d),
    "xyxy": lambda a, b, c, d: (a, b, c, d),
    "cxcywh": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
}
_FEW = 0.2  # a reading is right if it leaves out so much fewer boxes than the other one


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where a data set keeps its photos, boxes and classes; ``names`` are those of numbers."""

    image: str
    objects: str
    box: str
    label: str
    names: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class _Row:
    """A photo that is written, and its boxes as they stand."""

    path: Path
    size: ImageSize
    recorded: ImageSize | None
    boxes: tuple[tuple[Any, str, bool], ...]  # numbers, class, whether it is one object


def photos(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    split: str | None = None,
    box_format: str | None = None,
) -> tuple[list[Photo], list[str]]:
    """The photos of a data set, and its classes; the package `datasets` reads it.

    ``source`` is a folder of ``save_to_disk``, a Parquet file or a folder of such, a folder of
    photos with ``metadata.jsonl``, or a hub id. The photos are written into ``images``.
    ``box_format`` is xywh, xyxy or cxcywh, of the middle; None finds which of the first two the
    boxes are, by the photos' sides. Raises ``DataError`` where both may be meant.
    """
    if box_format is not None and box_format not in _CORNERS:
        raise DataError(f"--box-format {box_format}: {did_you_mean(box_format, _CORNERS)}")
    if images is None:
        raise DataError(f"{source}: name the folder that the photos go to, with --images")
    table = hub.table(source, split)
    columns = _columns_of(table.features)
    if columns is None:
        raise DataError(
            f"{source}: columns {', '.join(table.features)}; expected image, and objects with bbox "
            "and category"
        )
    rows = list(_rows(table, columns, source, images, tally))
    every = [(each[0], row.size) for row in rows for each in row.boxes]
    shares = _in_shares(box for box, _ in every)
    if every and box_format is None:
        box_format = _found_format(every, shares, source)
        tally.note(f"boxes are {box_format} (--box-format says otherwise)", str(source))
    read = [_photo(row, box_format or "xywh", shares) for row in rows]
    named = {label for row in rows for _, label, _ in row.boxes}
    return read, list(columns.names or sorted(named))


def _columns_of(features: Mapping[str, Any]) -> _Columns | None:
    """Where photos, boxes and classes are, by the features of a data set; None where none are."""
    image = next((name for name in features if name in ("image", "img", "photo", "picture")), None)
    for name, feature in features.items():
        fields = _inside(feature)
        if image is None or not isinstance(fields, Mapping):
            continue
        box = next((key for key in _BOXES if key in fields), None)
        label = next((key for key in _LABELS if key in fields), None)
        if box and label:
            return _Columns(image, name, box, label, getattr(_inside(fields[label]), "names", None))
    return None


def has_objects(columns: Mapping[str, Any]) -> bool:
    """Whether a column holds boxes with classes, by types as Arrow or dataset_info.json spell them.

    >>> has_objects({"image": "binary", "objects": "struct<bbox: list<float>, category: int64>"})
    True
    >>> has_objects({"image": "binary", "bbox": "list<float>", "answer": "string"})
    False
    """
    words = [set(re.findall(r"\w++", str(spelt))) for spelt in columns.values()]
    return any(each & {*_BOXES} and each & {*_LABELS} for each in words)


def _inside(feature: Any) -> Any:
    """What a feature's lists hold."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return feature


def _rows(
    table: Any, columns: _Columns, source: Path, images: Path, tally: Tally
) -> Iterator[_Row]:
    kept = [columns.image, columns.objects, "width", "height", "file_name"]
    table = table.select_columns([name for name in kept if name in table.features])
    split = str(getattr(table, "split", None) or "photo")
    for number, row in enumerate(table):
        with tally.row(source, f"row {number}"):
            content = hub.content(row[columns.image])
            path = _saved(content, _name(row, columns.image, f"{split}-{number:06d}"), images)
            boxes = tuple(_boxes(row[columns.objects], columns, source, f"row {number}", tally))
            yield _Row(path, size(path), recorded_size(row), boxes)


def _name(row: Mapping[str, Any], image: str, otherwise: str) -> str:
    """What a photo is called: as its own file, if it has one, else by its split and row."""
    held = row[image]
    stated = [row.get("file_name"), held.get("path") if isinstance(held, dict) else None]
    names = [PurePosixPath(str(each).replace("\\", "/")).name for each in stated if each]
    return next((each for each in names if PurePosixPath(each).suffix), otherwise)


def _saved(content: bytes, name: str, images: Path) -> Path:
    """The file of a photo, written if it is not there; another photo of its name is kept."""
    suffix = hub.suffix(content)
    bare = PurePosixPath(name)
    if bare.suffix.lower() not in SUFFIXES:
        bare = PurePosixPath(f"{name}.{suffix}")
    digest = hashlib.sha256(content).hexdigest()[:12]
    for each in (bare.name, f"{bare.stem}-{digest}{bare.suffix}"):
        path = images / each
        if not path.exists():
            hub.keep(path, content)
            return path
        if path.read_bytes() == content:
            return path
    raise DataError(f"{path}: another file has the name of a photo; clear the folder of --images")


def _boxes(
    objects: Any, columns: _Columns, source: Path, where: str, tally: Tally
) -> Iterator[tuple[Any, str, bool]]:
    """Numbers, class and wholeness of each object, held as a table or as a list of rows."""
    if isinstance(objects, Mapping):
        fields = [columns.box, columns.label, *(name for name in _GROUPS if name in objects)]
        held = {name: objects[name] or [] for name in fields}
        lengths = {name: len(values) for name, values in held.items()}
        if len({*lengths.values()}) > 1:
            counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
            raise Unusable("boxes and classes that differ in number", counts)
        objects = [dict(zip(held, each, strict=True)) for each in zip(*held.values(), strict=True)]
    for place, each in enumerate(objects or []):
        with tally.row(source, f"{where}: object {place}"):
            label = _label(each[columns.label], columns.names)
            yield each[columns.box], label, not any(each.get(name) for name in _GROUPS)


def _label(value: Any, names: Sequence[str] | None) -> str:
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise Unusable("unknown category", f"{value}; the data set has {len(names)}")
        return names[value].strip()
    if value is None or not str(value).strip():
        raise Unusable("box without a class")
    return str(value).strip()


def _in_shares(boxes: Iterator[Any]) -> bool:
    edges = [edge for each in boxes for edge in _numbers(each) or ()]
    return bool(edges) and max(edges) <= 1 and any(edge != int(edge) for edge in edges)


def _found_format(boxes: Sequence[tuple[Any, ImageSize]], shares: bool, source: Path) -> str:
    """The one of xywh and xyxy whose boxes lie in their photos, but for a few."""
    wrong = Counter(xywh=0, xyxy=0)
    for box, sides in boxes:
        if values := _numbers(box):
            frame = ImageSize(1, 1) if shares else sides
            wrong.update(kind for kind in wrong if not _fits(_CORNERS[kind](*values), frame))
    (right, fewer), (_, more) = sorted(wrong.items(), key=lambda item: item[1])
    if fewer > _FEW * more or not more:
        counts = ", ".join(f"{len(boxes) - count} fit as {kind}" for kind, count in wrong.items())
        raise DataError(
            f"{source}: of {len(boxes)} boxes {counts}; say which they are with --box-format",
            help="frames-that-do-not-fit",
        )
    return right


def _fits(edges: Edges, sides: ImageSize) -> bool:
    """Whether a box lies in an image, give or take a pixel or a hundredth of its side."""
    left, upper, right, lower = edges
    slack = max(0.01 * max(sides.width, sides.height), 1) if sides.width > 1 else 0.01
    return (
        -slack <= left < right <= sides.width + slack
        and -slack <= upper < lower <= sides.height + slack
    )


def _photo(row: _Row, box_format: str, shares: bool) -> Photo:
    marks = []
    for box, label, whole in row.boxes:
        values = _numbers(box)
        edges: Sequence[object] = [box] if values is None else _CORNERS[box_format](*values)
        marks.append(Mark(label, edges, shares, whole))
    return Photo(str(row.path.resolve()), tuple(marks), row.recorded)


def _numbers(box: Any) -> Edges | None:
    try:
        return numbers(box)
    except DataError:
        return None
