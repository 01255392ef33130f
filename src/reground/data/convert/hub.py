"""VG-Refiner's rows, and data sets of the hub that hold their photos: its own, and lmms-lab's."""

from __future__ import annotations

import importlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from reground.data.confine import CONFINE
from reground.data.convert import refcoco
from reground.data.convert.common import box_in, read_rows, reading
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally
from reground.data.images import FORMATS
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target


def vg_refiner(source: Path, tally: Tally, *, images: Path | None = None) -> Iterator[Sample]:
    """Samples of VG-Refiner's rows in JSON or JSONL, with the name of a file as ``image``.

    The file must be there. The data set as its authors publish it holds the photos themselves:
    :func:`convert` reads that.
    """
    found = Images(images or source.parent)
    for number, row in read_rows(source, tally, "image", "question", "ground_truth"):
        with tally.row(source, f"row {number}"):
            image = found.ref(str(row["image"]))
            yield _of_vg_refiner(row, image, number=number, task=source.stem)


def convert(
    source: Path, tally: Tally, *, images: Path | None = None, split: str | None = None
) -> Iterator[Sample]:
    """Samples of ``source``: a hub id as lmms-lab/RefCOCO, or the folder of a downloaded data set.

    The photos are written into ``images``, which must be given; one that is there already stays.
    Raises ``DataError`` where the package `datasets` is missing or cannot read the source.
    """
    if images is None:
        raise DataError(f"{source}: name the folder that the photos go to, with --images")
    yield from samples(table(source, split), tally, source=source, split=split or "", images=images)


def samples(
    rows: Iterable[dict[str, Any]], tally: Tally, *, source: Path, split: str, images: Path
) -> Iterator[Sample]:
    """The samples of rows whose ``image`` holds the bytes of an image file (see :func:`convert`).

    Rows with ``ground_truth`` are VG-Refiner's, all others lmms-lab's, one sample per expression.
    """
    found = Images(images)
    for number, row in enumerate(rows):
        with tally.row(source, f"row {number}"):
            held = content(row["image"])
            refined = "ground_truth" in row
            file = f"{row['image_id']}.{suffix(held)}" if refined else str(row["file_name"])
            image = _saved(held, refcoco.photo_name(Path(file).name), found)
            if refined:
                yield _of_vg_refiner(row, image, number=number, task=source.name)
            else:
                yield from refcoco.of_row(row, image, source=source, split=split)


def table(source: Path, split: str | None) -> Any:
    """The data set of ``source`` as `datasets` reads it, photos as they are stored.

    ``source`` is a folder of ``save_to_disk``, a Parquet file, any folder that `datasets` knows, or
    a hub id. Raises ``DataError`` where the package is missing or cannot read it.
    """
    check_unconfined(source)
    datasets = library(source)
    try:
        if (source / "state.json").is_file() or (source / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(source))
        elif source.suffix == ".parquet":
            loaded = datasets.load_dataset("parquet", data_files=str(source))
        else:
            loaded = datasets.load_dataset(str(source), split=split)
        chosen = _split(loaded, source, split)
        for name, feature in chosen.features.items():
            if isinstance(feature, datasets.Image):
                chosen = chosen.cast_column(name, datasets.Image(decode=False))
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        datasets.exceptions.DatasetsError,
    ) as error:
        raise DataError(f"{source}: datasets cannot read it, split {split!r}: {error}") from None
    return chosen


def check_unconfined(source: object) -> None:
    """Raise ``DataError`` under --confine, which does not hold what `datasets` reads."""
    if os.environ.get(CONFINE):
        raise DataError(
            f"{source}: the package datasets opens what such a folder's own files name, so that "
            "--confine cannot hold it; convert it where it can do no harm, without --confine"
        )


def library(source: object) -> Any:
    """The package `datasets`; raises ``DataError`` where it is missing."""
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise DataError(
            f"{source}: hub data sets need the package datasets; pip install 'reground[hub]'",
            help="not-installed",
        ) from None


def parquet_columns(path: Path) -> dict[str, str]:
    """The columns of a Parquet file and their types; none where it cannot be read.

    Where the package that reads it is missing, it is taken for a data set of photos, whose reader
    says so.
    """
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        return {"image": "unknown"}
    try:
        return {field.name: str(field.type) for field in parquet.read_schema(path)}
    except (OSError, ValueError):
        return {}


def _split(loaded: Any, source: Path, split: str | None) -> Any:
    """The part called ``split``, or the only one there is."""
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
    name = split or (next(iter(splits)) if len(splits) == 1 else None)
    if name not in splits:
        raise DataError(f"{source}: has the splits {', '.join(splits)}; choose one with --split")
    return splits[name]


def content(value: Any) -> bytes:
    """The bytes of an image field: bare, in a list of one, next to a path, or in a file.

    Raises ``ValueError`` where there are none.
    """
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path and Path(path).is_file():
            value = Path(path).read_bytes()
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, bytes):
        raise ValueError(f"image is {type(value).__name__}; expected the bytes of an image file")
    return value


def suffix(content: bytes) -> str:
    """What a photo's file is called at its end; raises ``ValueError`` where it is no picture."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return (image.format or "png").lower().replace("jpeg", "jpg")
    except (OSError, Image.DecompressionBombError):
        raise ValueError("image holds no image file that Pillow can read") from None


def _saved(content: bytes, name: str, found: Images) -> ImageRef:
    path = found.path(name)
    if not path.exists():
        keep(path, content)
    return found.ref(name)


def keep(path: Path, content: bytes) -> None:
    """Write a photo, whole or not at all: a disk that fills up leaves no part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# ---- a row of VG-Refiner's ----------------------------------------------------------------------


def _of_vg_refiner(row: dict[str, Any], image: ImageRef, *, number: int, task: str) -> Sample:
    """The sample of one row, whose photo is ``image``; boxes are in its pixels.

    ``ground_truth`` and ``tool_results`` are JSON texts: an object with ``bbox_2d``, or a list of
    such (the detector's may also be a list of bare boxes). An empty list of true boxes says that
    nothing matches, one of the detector's that it found nothing. The expression is put in lower
    case, without marks around it, as their evaluation asks it. Raises ``DataError`` where
    ``ground_truth`` is absent, null or no such JSON: their evaluation passes over such rows.
    """
    name = f"{task}-{number:05d}-{row.get('image_id')}-{row.get('ann_id')}"
    with reading(name):
        return Sample(
            id=name,
            images=(image,),
            question=" ".join(str(row["question"]).lower().strip('."?! \n').split()),
            targets=tuple(Target(0, box) for _, box in _boxes(row, "ground_truth", image)),
            task=task,
            tool_results=_detections(row, image),
        )


def _detections(row: dict[str, Any], image: ImageRef) -> tuple[Detection, ...] | None:
    if "tool_results" not in row:
        return None
    found = [] if row["tool_results"] is None else _boxes(row, "tool_results", image)
    return tuple(Detection(0, box, label) for label, box in found)


def _boxes(row: dict[str, Any], field: str, image: ImageRef) -> list[tuple[str | None, Box]]:
    """The boxes that the JSON text in ``field`` lists, each with its label, if any."""
    try:
        content = json.loads(row[field])
    except (TypeError, ValueError):
        content = None
    if not isinstance(content, dict | list):
        raise DataError(f"{field} is {row[field]!r}; expected JSON with bbox_2d")
    items = [content] if isinstance(content, dict) else content
    with reading(field):
        return [_labelled_box(item, image) for item in items]


def _labelled_box(item: Any, image: ImageRef) -> tuple[str | None, Box]:
    if not isinstance(item, dict):
        return None, box_in(image.frame, item)
    label = item.get("label")
    return None if label is None else str(label), box_in(image.frame, item["bbox_2d"])
