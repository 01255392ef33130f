"""RefCOCO, RefCOCO+ and RefCOCOg in the three forms in which they are published."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.coco import Instances, box_xywh, image_ref, read_instances
from reground.data.convert.common import read_bytes, read_json, read_rows, reading
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally, Unusable
from reground.errors import DataError
from reground.grounding.sample import ImageRef, Sample, Target

# What Python raises on pickles that are cut or scrambled.
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, OverflowError)
_SPLITS = ("train", "val", "test", "testA", "testB")
_COPY = re.compile(r"^(COCO_\w+?_\d{12})_\d+(\.\w+)$")


def convert(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    split: str | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """One sample per expression. ``source`` is one of:

    - a ``refs(unc).p`` (or umd, google) or a folder with one, next to ``instances.json``;
    - MDETR's ``finetune_refcoco*_{split}.json``, in which every image row is one expression;
    - rows of the lmms-lab datasets as JSON or JSONL (answer: expressions; bbox: x, y, w, h).

    ``split`` chooses among the splits of a ``refs`` file; the other forms hold one each. The task
    is refcoco, refcoco+ or refcocog, as file or folder is named.
    """
    refs = _refs_file(source)
    found = Images(images or source.parent, allow_missing_images)
    if refs:
        yield from _from_refs(refs, found, split, tally)
        return
    if split:
        raise DataError(f"{source}: a file of this form holds one split; leave --split out")
    content = read_json(source)
    yield from (_from_mdetr if isinstance(content, dict) else _from_rows)(source, found, tally)


def _refs_file(source: Path) -> Path | None:
    if not source.is_dir():
        return source if source.suffix == ".p" else None
    files = sorted(source.glob("refs(*).p"))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise DataError(f"{source}: has refs files {names}; name the one to convert")
    return files[0]


def _from_refs(path: Path, found: Images, split: str | None, tally: Tally) -> Iterator[Sample]:
    refs = _unpickle(path)
    known = sorted({str(ref["split"]) for ref in refs})
    if split and split not in known:
        raise DataError(f"{path}: no split {split!r}; it has {', '.join(known)}")
    tables = read_instances(path.parent / "instances.json", tally)
    for ref in refs:
        if split in (None, ref["split"]):
            with tally.row(path, f"ref {ref['ref_id']}"):
                yield from _of_ref(ref, path, tables, found)


def _of_ref(ref: dict[str, Any], path: Path, tables: Instances, found: Images) -> list[Sample]:
    image_id, ann_id = str(ref["image_id"]), str(ref["ann_id"])
    if image_id not in tables.images or ann_id not in tables.annotations:
        raise DataError("its image or annotation is not in instances.json")
    image = image_ref(tables.images[image_id], found)
    xywh = tables.annotations[ann_id]["bbox"]
    return [
        _sample(path, ref["split"], sentence["sent_id"], image, sentence["sent"], xywh)
        for sentence in ref["sentences"]
    ]


class _Plain(pickle.Unpickler):
    """Reads dicts, lists, text and numbers only: a pickle that names any class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickle(path: Path) -> list[dict[str, Any]]:
    try:
        refs = _Plain(io.BytesIO(read_bytes(path)), encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, *_MALFORMED) as error:
        raise DataError(f"{path}: not a plain refs file, so it is not read: {error}") from None
    fields = {"ref_id", "ann_id", "image_id", "split", "sentences"}
    if not isinstance(refs, list) or not all(
        isinstance(ref, dict) and fields <= ref.keys() for ref in refs
    ):
        raise DataError(f"{path}: expected a list of refs with {', '.join(sorted(fields))}")
    return refs


def _from_mdetr(source: Path, found: Images, tally: Tally) -> Iterator[Sample]:
    tables = read_instances(source, tally)
    split = next((name for name in _SPLITS if source.stem.endswith(f"_{name}")), "unknown")
    for key, row in tables.images.items():
        boxes = [annotation.get("bbox") for annotation in tables.by_image.get(key, ())]
        with tally.row(source, f"image {key}"):
            if len(boxes) != 1 or "caption" not in row:
                raise Unusable("not one caption and one box", f"found {len(boxes)} boxes")
            yield _sample(source, split, key, image_ref(row, found), row["caption"], boxes[0])


def _from_rows(source: Path, found: Images, tally: Tally) -> Iterator[Sample]:
    split = next((name for name in _SPLITS if source.stem.endswith(name)), "unknown")
    for _, row in read_rows(source, tally, "question_id", "answer", "bbox", "file_name"):
        with tally.row(source, f"question {row['question_id']}"):
            name = _photo(str(row["file_name"]), found)
            if not found.has(name):
                raise DataError(
                    f"{found.path(name)}: no such image, and this form records no sizes, without "
                    "which boxes in pixels mean nothing; name the images folder with --images"
                )
            yield from of_row(row, found.ref(name), source=source, split=split)


def of_row(row: dict[str, Any], image: ImageRef, *, source: Path, split: str) -> list[Sample]:
    """One sample per expression of a row of the lmms-lab datasets, whose photo is ``image``.

    The task is what ``source`` is named after. Raises ``DataError`` for a row of another form.
    """
    with reading(f"{source}: question {row.get('question_id')}"):
        key = row["question_id"]
        return [
            _sample(source, split, f"{key}-{n}", image, expression, row["bbox"])
            for n, expression in enumerate(row["answer"])
        ]


def photo_name(name: str) -> str:
    """The photo's own file name: these rows name one copy of a photo per expression.

    >>> photo_name("COCO_train2014_000000581857_16.jpg")
    'COCO_train2014_000000581857.jpg'
    """
    return _COPY.sub(r"\1\2", name)


def _photo(name: str, found: Images) -> str:
    return name if found.find(name) else photo_name(name)


def _sample(
    source: Path, split: str, key: Any, image: ImageRef, expression: str, xywh: Any
) -> Sample:
    task = _dataset(source)
    name = f"{task}-{split}-{key}"
    return Sample(
        id=name,
        images=(image,),
        question=" ".join(str(expression).split()),
        targets=(Target(0, box_xywh(xywh, image)),),
        task=task,
        strata={"split": split},
    )


def _dataset(source: Path) -> str:
    for name in (source.stem, source.parent.name):
        if match := re.search(r"refcoco(?:\+|plus|g)?", name.lower()):
            return match.group().replace("plus", "+")
    return "refcoco"
