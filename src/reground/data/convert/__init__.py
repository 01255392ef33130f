"""Converters from the formats of other datasets to ReGround's samples, one module for each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reground.data.convert import (
    coco,
    extracted,
    hub,
    mgrounding,
    mig_bench,
    reason_seg,
    refcoco,
    univg_r1,
    vg_refiner,
    video,
    voc,
)
from reground.errors import DataError, did_you_mean
from reground.grounding.sample import Sample

FORMATS: Mapping[str, Callable[..., Iterator[Sample]]] = {
    "voc": voc.convert,
    "coco": coco.convert,
    "refcoco": refcoco.convert,
    "mig_bench": mig_bench.convert,
    "mgrounding": mgrounding.convert,
    "univg_r1": univg_r1.convert,
    "reason_seg": reason_seg.convert,
    "extracted": extracted.convert,
    "video": video.convert,
    "vg_refiner": vg_refiner.convert,
    "hub": hub.convert,
}


def convert(
    name: str,
    source: Path,
    *,
    images: Path | None = None,
    split: str | None = None,
    questions: Path | None = None,
    views: int | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of ``source`` by the converter ``name``, one after another.

    Raises ``DataError`` for an unknown format, for an option that this format does not read, for
    the first row that cannot be converted, and where there is nothing to convert.
    """
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}")
    given = {
        "images": images,
        "split": split,
        "questions": questions,
        "views": views,
        "allow_missing_images": allow_missing_images or None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    read = list(inspect.signature(FORMATS[name]).parameters)[1:]
    if unread := [key for key in options if key not in read]:
        flags = ", ".join("--" + key.replace("_", "-") for key in read)
        raise DataError(
            f"--{unread[0].replace('_', '-')} means nothing to {name}; it reads {flags}"
        )
    return _some(FORMATS[name](source, **options), source)


def _some(samples: Iterator[Sample], source: Path) -> Iterator[Sample]:
    empty = True
    for sample in samples:
        empty = False
        yield sample
    if empty:
        raise DataError(f"{source}: gave no sample; check the source, the split and the questions")
