"""Data sets of the hub that hold their photos: the lmms-lab RefCOCO sets, and VG-Refiner's."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from reground.data.convert import refcoco, vg_refiner
from reground.data.convert.common import Images, reading
from reground.errors import DataError
from reground.grounding.sample import ImageRef, Sample


def convert(
    source: Path, *, images: Path | None = None, split: str | None = None
) -> Iterator[Sample]:
    """Samples of ``source``: a hub id as lmms-lab/RefCOCO, or the folder of a downloaded data set.

    The photos are written into ``images``, which must be given; one that is there already stays.
    Raises ``DataError`` where the package `datasets` is missing or cannot read the source.
    """
    if images is None:
        raise DataError(f"{source}: name the folder that the photos go to, with --images")
    yield from samples(_rows(source, split), source=source, split=split or "", images=images)


def samples(
    rows: Iterable[dict[str, Any]], *, source: Path, split: str, images: Path
) -> Iterator[Sample]:
    """The samples of rows whose ``image`` holds the bytes of an image file (see :func:`convert`).

    Rows with ``ground_truth`` are VG-Refiner's, all others lmms-lab's, one sample per expression.
    """
    found = Images(images)
    for number, row in enumerate(rows):
        with reading(f"{source}: row {number}"):
            content = _content(row["image"])
            suffix = _suffix(content)
            refined = "ground_truth" in row
            file = f"{row['image_id']}.{suffix}" if refined else str(row["file_name"])
            image = _saved(content, refcoco.photo_name(Path(file).name), found)
        if refined:
            yield vg_refiner.of_row(row, image, number=number, task=source.name)
        else:
            yield from refcoco.of_row(row, image, source=source, split=split)


def _rows(source: Path, split: str | None) -> Iterable[dict[str, Any]]:
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(
            f"{source}: hub data sets need the package datasets; pip install 'reground[hub]'"
        ) from None
    try:
        if (source / "state.json").is_file() or (source / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(source))
        else:
            loaded = datasets.load_dataset(str(source), split=split)
        table = _split(loaded, source, split)
        if isinstance(table.features["image"], datasets.Image):
            table = table.cast_column("image", datasets.Image(decode=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{source}: datasets cannot read it, split {split!r}: {error}") from None
    rows: Iterable[dict[str, Any]] = table
    return rows


def _split(loaded: Any, source: Path, split: str | None) -> Any:
    """The part called ``split``, or the only one there is."""
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
    name = split or (next(iter(splits)) if len(splits) == 1 else None)
    if name not in splits:
        raise DataError(f"{source}: has the splits {', '.join(splits)}; choose one with --split")
    return splits[name]


def _content(value: Any) -> bytes:
    """The bytes of an image field: bare, in a list of one, or next to a path."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, bytes):
        raise ValueError(f"image is {type(value).__name__}; expected the bytes of an image file")
    return value


def _suffix(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return (image.format or "png").lower().replace("jpeg", "jpg")
    except OSError:
        raise ValueError("image holds no image file that Pillow can read") from None


def _saved(content: bytes, name: str, found: Images) -> ImageRef:
    path = found.path(name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return found.ref(name)
