"""Converters from the formats of other datasets to ReGround's samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reground.data.convert import hub, instructed, labelled, refcoco, several_images
from reground.errors import DataError, did_you_mean
from reground.grounding.sample import Sample

FORMATS: Mapping[str, Callable[..., Iterator[Sample]]] = {
    "voc": labelled.voc,
    "coco": labelled.coco,
    "refcoco": refcoco.convert,
    "mig_bench": several_images.mig_bench,
    "mgrounding": several_images.mgrounding,
    "univg_r1": several_images.univg_r1,
    "reason_seg": instructed.reason_seg,
    "extracted": instructed.extracted,
    "video": instructed.video,
    "vg_refiner": hub.vg_refiner,
    "hub": hub.convert,
}


def options_of(name: str) -> list[str]:
    """The options that the format ``name`` reads; raises ``DataError`` for an unknown format."""
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}")
    return list(inspect.signature(FORMATS[name]).parameters)[1:]


def convert(name: str, source: Path, **options: Any) -> Iterator[Sample]:
    """Samples of ``source`` by the converter ``name``, one after another.

    The options are those of `reground data convert`; None and False say that one is not given.
    Raises ``DataError`` for an unknown format, for an option that this format does not read, for
    the first row that cannot be converted, and where there is nothing to convert.
    """
    known = options_of(name)
    given = {
        key: value for key, value in options.items() if value is not None and value is not False
    }
    if unread := [key for key in given if key not in known]:
        flags = [f"--{key.replace('_', '-')}" for key in (unread[0], *known)]
        raise DataError(f"{flags[0]} means nothing to {name}; it reads {', '.join(flags[1:])}")
    return _some(FORMATS[name](source, **given), source)


def _some(samples: Iterator[Sample], source: Path) -> Iterator[Sample]:
    empty = True
    for sample in samples:
        empty = False
        yield sample
    if empty:
        raise DataError(f"{source}: gave no sample; check the source, the split and the questions")
