"""Converters from the formats of other datasets to ReGround's samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from reground.data.convert import boxes, chat, hub, instructed, refcoco, several_images
from reground.data.convert.common import good_rows, rows_of, sound
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally
from reground.data.soundness import Soundness
from reground.errors import DataError, did_you_mean
from reground.grounding.sample import Sample
from reground.parallel import batches, mapped, workers_for

T = TypeVar("T")

FORMATS: Mapping[str, Callable[..., Iterator[Sample]]] = {
    **{name: partial(boxes.samples, name) for name in boxes.READERS},
    "chat": chat.chat,
    "ms_swift": chat.ms_swift,
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

BY_ROW = {"mgrounding": several_images.MGROUNDING, "univg_r1": several_images.UNIVG_R1}
_AT_ONCE = 500  # rows that a process works on before it says what became of them

# Evaluation sets keep their rows as published, so that n is everybody's; `validate` names flaws.
AS_PUBLISHED = frozenset(
    {"refcoco", "mig_bench", "reason_seg", "extracted", "video", "vg_refiner", "hub"}
)


def options_of(name: str) -> list[str]:
    """The options that the format ``name`` reads; raises ``DataError`` for an unknown format."""
    if name not in FORMATS:
        raise DataError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}")
    shared = list(inspect.signature(FORMATS[name]).parameters)[2:]
    if reader := boxes.READERS.get(name):
        shared[-1:] = list(inspect.signature(reader).parameters)[2:]  # in the place of **own
    return list(dict.fromkeys(shared))


def convert(
    name: str, source: Path, *, tally: Tally | None = None, **options: Any
) -> Iterator[Sample]:
    """Samples of ``source`` by the converter ``name``, one after another.

    The options are those of `reground data convert`; None and False say that one is not given.
    ``tally`` counts, and holds what was set aside; without one the first row that cannot be
    converted is raised. No sample but an evaluation set's is one that `reground data validate` sets
    aside, but for images that may be missing. Raises ``DataError`` for an unknown format, for an
    option that this format does not read, and where there is nothing to convert.
    """
    given = _given(name, options)
    tally = tally or Tally(strict=True)
    samples = FORMATS[name](source, tally, **given)
    if name not in AS_PUBLISHED and name not in boxes.READERS:  # those look photo by photo
        samples = sound(samples, source, tally, _soundness(given))
    return _some(samples, source, tally)


def converted(
    make: Callable[[Sample], T],
    name: str,
    source: Path,
    *,
    tally: Tally,
    workers: int | None = None,
    **options: Any,
) -> Iterator[T]:
    """What ``make`` makes of the samples of :func:`convert`, in their order.

    Where a format's rows know nothing of each other, and the file is large, all cores work on it;
    ``workers`` says how many processes do.
    """
    given, is_empty = _given(name, options), True
    if workers is None:
        workers = workers_for(source.stat().st_size if source.is_file() else 0)
    if workers > 1 and name in BY_ROW:
        own = Tally(tally.strict)
        for found, part in _by_row(make, name, source, workers, own.strict, given):
            own.take(part)
            for each in found:
                is_empty = False
                yield each
    if is_empty:  # nor does the rest give any, and says why
        yield from map(make, convert(name, source, tally=tally, **options))
    else:
        tally.take(own)


def _by_row(
    make: Callable[[Sample], T],
    name: str,
    source: Path,
    workers: int,
    strict: bool,
    given: Mapping[str, Any],
) -> Iterator[tuple[list[T], Tally]]:
    """What is made of some rows after the others, and the counts of those."""
    form, soundness = BY_ROW[name], _soundness(given)
    found = Images(given.get("images") or source.parent, soundness.may_lack)

    def work(part: list[tuple[int, Any]]) -> tuple[list[T], Tally]:
        tally = Tally(strict)
        rows = good_rows(part, source, tally, form.fields, are_all=False)
        samples = sound(form.samples(rows, source, tally, found), source, tally, soundness)
        return [make(sample) for sample in samples], tally

    return mapped(work, batches(enumerate(rows_of(source)), _AT_ONCE), workers=workers)


def _given(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given; raises ``DataError`` for one that the format does not read."""
    known = options_of(name)
    given = {
        key: value for key, value in options.items() if value is not None and value is not False
    }
    if unread := [key for key in given if key not in known]:
        flags = [f"--{key.replace('_', '-')}" for key in (unread[0], *known)]
        raise DataError(f"{flags[0]} means nothing to {name}; it reads {', '.join(flags[1:])}")
    return given


def _soundness(given: Mapping[str, Any]) -> Soundness:
    return Soundness(may_lack=bool(given.get("allow_missing_images")))


def _some(samples: Iterator[Sample], source: Path, tally: Tally) -> Iterator[Sample]:
    empty = True
    for sample in samples:
        empty = False
        yield sample
    if empty and not tally.aside:
        why = "; ".join(f"{len(places)} {kind}" for kind, places in tally.notes.items())
        raise DataError(
            f"{source}: gave no sample{f' ({why})' if why else ''}; check the source, the split "
            "and the questions",
            help="labels-that-are-not-found",
        )
