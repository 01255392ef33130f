"""Finds out what a folder or file of annotations is."""

from __future__ import annotations

import io
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reground.data.convert.common import read_bytes, read_json
from reground.data.convert.hub import parquet_columns
from reground.data.convert.hub_objects import has_objects
from reground.data.convert.yolo import LISTS
from reground.errors import DataError

_LABELS = re.compile(rb"\s*\d+(\s+-?\d*\.?\d+(e-?\d+)?){4}")
_SKIPPED = frozenset({"node_modules", "__pycache__", "__MACOSX"})


def recognised(source: Path) -> tuple[str, Path]:
    """The format of ``source``, and what to convert: the folder or the file that holds it.

    Raises ``DataError`` where it is of no known format, of two, or holds several files of which
    each is a data set.
    """
    if not source.exists():
        raise DataError(
            f"{source}: no such file or folder; name the annotations to convert",
            help="labels-that-are-not-found",
        )
    found = files_by_format(source)
    if "yolo" in found and len(found) == 1:
        return "yolo", source.parent if source.suffix == ".txt" else source
    if not found:
        raise DataError(
            f"{source}: no annotations of a known format; `reground data convert --help` names all",
            help="labels-that-are-not-found",
        )
    if len(found) > 1:
        named = ", ".join(f"{kind} ({paths[0].name})" for kind, paths in sorted(found.items()))
        raise DataError(
            f"{source}: holds several formats: {named}; name the format and its file",
            help="labels-that-are-not-found",
        )
    (kind, paths) = next(iter(found.items()))
    if kind in ("hub", "hub_objects"):
        return kind, source if source.is_file() and source.suffix == ".parquet" else _around(paths)
    if kind in ("voc", "labelme"):
        return kind, source if source.is_dir() else source.parent
    if len(paths) > 1:
        named = ", ".join(str(path.relative_to(source)) for path in paths[:4])
        raise DataError(
            f"{source}: {len(paths)} files of {kind}: {named}; convert one at a time",
            help="labels-that-are-not-found",
        )
    return kind, paths[0]


def files_by_format(source: Path) -> dict[str, list[Path]]:
    """The files of annotations below ``source``, or itself, by their format."""
    files = [source] if source.is_file() else [*_files(source)]
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if kind := _kind(path):
            found[kind].append(path)
    if not found and (own := [path for path in files if _is_yolos(path)]):
        found["yolo"] = own
    return found


def _around(paths: list[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(
            part.startswith(".") or part in _SKIPPED for part in path.relative_to(folder).parts
        )
        if path.is_file() and not hidden and not path.name.endswith(".rejected.jsonl"):
            yield path


def _kind(path: Path) -> str | None:
    """The format of one file; None where it holds no annotations."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return _of_xml(path)
    if suffix in (".json", ".jsonl"):
        try:
            content = read_json(path)
        except DataError:
            return None
        return _of_features(content) if path.name == "dataset_info.json" else _of_json(content)
    if suffix == ".parquet":
        return _of_columns(parquet_columns(path))
    if suffix in (".yaml", ".yml"):
        return "yolo" if b"names:" in read_bytes(path) else None
    if suffix == ".p":
        return "refcoco"
    return "csv" if suffix in (".csv", ".tsv") else None


def _is_yolos(path: Path) -> bool:
    """Whether a file is a list of YOLO's classes, or holds its labels of a photo."""
    if path.name in LISTS:
        return True
    return path.suffix == ".txt" and bool(_LABELS.match(read_bytes(path)[:200]))


def _of_xml(path: Path) -> str | None:
    try:
        _, root = next(ET.iterparse(io.BytesIO(read_bytes(path)), events=("start",)))
    except (ET.ParseError, StopIteration, ValueError, LookupError, DataError):
        return None
    return {"annotation": "voc", "annotations": "cvat"}.get(root.tag)


def _of_features(content: Any) -> str | None:
    """The format of a folder of `datasets`, by the file that describes its columns."""
    features = content.get("features") if isinstance(content, dict) else None
    return _of_columns(features) if isinstance(features, dict) else None


def _of_columns(columns: Mapping[str, Any]) -> str | None:
    if has_objects(columns):
        return "hub_objects"
    return "hub" if "image" in columns else None


def _of_json(content: Any) -> str | None:
    if isinstance(content, dict):
        if "images" in content and "annotations" in content:
            return "coco"
        if "shapes" in content:
            return "labelme" if "imagePath" in content or "text" not in content else "reason_seg"
        rows = content.get("_via_img_metadata", content)
        is_via = (
            isinstance(rows, dict)
            and rows
            and all(isinstance(row, dict) and "regions" in row for row in rows.values())
        )
        return "via" if is_via else None
    row = content[0] if isinstance(content, list) and content else None
    if not isinstance(row, dict):
        return None
    return next((name for name, fields in _FIELDS if fields <= row.keys()), _by_regions(row))


# Fields by which the rows of a list are known; the first that fits.
_FIELDS = (
    ("label_studio", {"data", "annotations"}),
    ("ms_swift", {"messages", "objects"}),
    ("mgrounding", {"conversations", "images", "type"}),
    ("hub_objects", {"file_name", "objects"}),
    ("chat", {"conversations"}),
    ("chat", {"messages"}),
    ("mig_bench", {"task", "images", "question", "answer"}),
    ("univg_r1", {"images", "question", "answer"}),
    ("refcoco", {"question_id", "answer", "bbox", "file_name"}),
    ("vg_refiner", {"image", "question", "ground_truth"}),
    ("extracted", {"image_path", "instruction", "boxes"}),
    ("video", {"question", "bbox_list"}),
)


def _by_regions(row: dict[str, Any]) -> str | None:
    """JSON-MIN of Label Studio is known by its lists of regions alone."""
    lists = [value for value in row.values() if isinstance(value, list) and value]
    regions = [each for value in lists for each in value if isinstance(each, dict)]
    return "label_studio" if any("original_width" in each for each in regions) else None
