"""ReasonSeg (LISA): photos, each with a JSON of instructions and polygons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, plain, reading
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target


def convert(source: Path, *, images: Path | None = None) -> Iterator[Sample]:
    """One sample per instruction of every ``NAME.json`` in a folder; the photo is ``NAME.jpg``.

    The box is the bounds of all polygons that are neither "ignore" nor "flag", in pixels, cut at
    the photo's edge; without such a polygon nothing matches, and there is no target. A JSON without
    ``shapes`` is a ``DataError``. The stratum ``query`` is "sentence" or "phrase". Labels are read
    as utils/data_processing.py of dvlab-research/LISA does, but for one thing: an ignored region
    inside a target does not make its box smaller.
    """
    files = sorted(source.glob("*.json"))
    if not files:
        raise DataError(f"{source}: no JSON files; expected a folder such as ReasonSeg/val")
    found = Images(images or source)
    for path in files:
        with reading(str(path)):
            samples = _samples(_read(path), path, found)
        yield from samples


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:  # some of their files are in the Windows code page
        text = content.decode("cp1252")
    row = json.loads(text)
    if not isinstance(row, dict):
        raise DataError(f"{path}: expected an object with text, is_sentence and shapes")
    return row


def _samples(row: dict[str, Any], path: Path, found: Images) -> list[Sample]:
    image = found.ref(f"{path.stem}.jpg")
    texts = [row["text"]] if isinstance(row["text"], str) else list(row["text"])
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{path}: text is {row['text']!r}; expected at least one instruction")
    targets = _targets(row["shapes"], image)
    return [
        Sample(
            id=path.stem if len(texts) == 1 else f"{path.stem}-{number}",
            images=(image,),
            question=plain(text),
            targets=targets,
            task="reason_seg",
            strata={"query": "sentence" if row["is_sentence"] else "phrase"},
        )
        for number, text in enumerate(texts)
    ]


def _targets(shapes: Any, image: ImageRef) -> tuple[Target, ...]:
    points = [
        (float(x), float(y)) for shape in shapes if _is_target(shape) for x, y in shape["points"]
    ]
    if not points:
        return ()
    xs, ys = zip(*points, strict=True)
    box = Box(min(xs), min(ys), max(xs), max(ys), image.frame)
    return (Target(0, box.clipped()),)


def _is_target(shape: dict[str, Any]) -> bool:
    label = shape["label"].lower()
    return label != "flag" and "ignore" not in label
