"""Picked chains as data to train on: our own JSONL, and ShareGPT for LLaMA-Factory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reground.data.source import save_dataset
from reground.errors import ConfigError, DataError, did_you_mean
from reground.grounding.sample import Sample
from reground.teacher import sharegpt
from reground.teacher.files import copied, referenced
from reground.teacher.review.results import combined
from reground.teacher.rows import Item, Review
from reground.teacher.settings import Export
from reground.teacher.store import Store

THINKING, DIRECT, IMAGES = "sft.jsonl", "sft_direct.jsonl", "images"
_FILES = (THINKING, DIRECT, sharegpt.ROWS, sharegpt.DESCRIPTION)
_COPYING = "--copy-images, or the setting export.copy_images=true,"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files written and how many rows each has; how many of what were left out.

    ``notes`` are sentences on what else was not as asked, or is there no more; ``copied`` is
    whether the images lie beside the files.
    """

    folder: Path
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    notes: Sequence[str]
    copied: bool


def export(store: Store, settings: Export) -> Exported:
    """Write the files to ``settings.out``, each whole or not at all; the card is not among them.

    Raises ``DataError`` where there is no chain to write, an image is gone, or a question holds
    LLaMA-Factory's placeholder; ``ConfigError`` for a direct task that the samples do not have, or
    a file in place of the folder; ``RunError`` where no chain is stored.
    """
    folder = Path(settings.out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"export.out: {folder} is a file, expected a folder; choose another name")
    store.check_asked()
    notes = _check_direct(store, settings)
    left_out = _check(store)
    before = [name for name in _FILES if (folder / name).exists()]
    prepared = copied(folder / IMAGES) if settings.copy_images else referenced

    def rows(*, direct: bool) -> Iterator[Sample]:
        for sample in _kept(store):
            if is_direct(sample, settings) == direct:
                sample = replace(sample, think=None, protocol="direct") if direct else sample
                yield replace(sample, images=tuple(map(prepared, sample.images)))

    counts = {
        name: save_dataset(folder / name, rows(direct=direct))
        for name, direct in ((THINKING, False), (DIRECT, True))
    }
    for name in [name for name, count in counts.items() if not count]:
        (folder / name).unlink()
    both = (sample for direct in (False, True) for sample in rows(direct=direct))
    counts[sharegpt.ROWS], undrawn = sharegpt.write(folder, both)
    if undrawn:
        why = f"rows left out of {sharegpt.ROWS}, as scenes, views and turned photos are no files"
        left_out[f"{why} that it could name ({_COPYING} makes them)"] = undrawn
    rows_of = {name: count for name, count in counts.items() if count}
    if gone := [name for name in before if not (folder / name).exists()]:
        notes.append(f"removed {', '.join(gone)} of an earlier export: now there is no row for it")
    copied_images = settings.copy_images
    return Exported(
        folder=folder, rows=rows_of, left_out=left_out, notes=notes, copied=copied_images
    )


def is_direct(sample: Sample, settings: Export) -> bool:
    """Whether a row is trained without thinking: simple, and about one image."""
    return sample.task in settings.direct_tasks and len(sample.images) == 1


def _check_direct(store: Store, settings: Export) -> list[str]:
    """A note on every direct task without a row; raises for one that the samples do not have."""
    found = {(sample.task, len(sample.images) == 1) for sample in store.samples()}
    tasks = sorted({task for task, _ in found})
    for task in settings.direct_tasks:
        if task not in tasks:
            raise ConfigError(
                f"export.direct_tasks: no sample of {task!r}; {did_you_mean(task, tasks)}"
            )
    without = [task for task in settings.direct_tasks if (task, True) not in found]
    return [f"export.direct_tasks: {task}: no row about one image" for task in without]


def _check(store: Store) -> dict[str, int]:
    """How many samples are left out, by reason; raises where nothing remains."""
    reviews = combined(store.latest_reviews())
    fates = Counter(_fate(item, reviews.get(item.sample.id)) for item in store.items())
    if not fates[_KEPT]:
        told = ", ".join(f"{fate}: {count}" for fate, count in fates.items())
        raise DataError(f"{store.path}: there is no chain to export ({told}); {_advice(fates)}")
    return {fate: count for fate, count in fates.items() if fate != _KEPT}


_KEPT = "samples exported"
_UNPICKED = "samples without a pick"
_UNVERIFIED = "samples whose chains are not verified yet"


def _advice(fates: Mapping[str, int]) -> str:
    if fates.get(_UNVERIFIED):
        return "run `reground teach verify` and `reground teach judge` first"
    if fates.get(_UNPICKED):
        return "run `reground teach judge` first"
    return "ask for more chains (ask.n), or verify with other settings"


def _fate(item: Item, review: Review | None) -> str:
    if item.pick is None:
        if any(chain.verdict and chain.verdict.ok for chain in item.chains):
            return _UNPICKED
        unverified = any(chain.verdict is None for chain in item.chains)
        return _UNVERIFIED if unverified else "samples without a verified chain"
    return "samples rejected by a reviewer" if review and review.decision == "reject" else _KEPT


def _kept(store: Store) -> Iterator[Sample]:
    """Samples with the thinking that they end with: as edited, or as the teacher wrote it."""
    reviews = combined(store.latest_reviews())
    for item in store.items():
        review = reviews.get(item.sample.id)
        if item.pick is None or _fate(item, review) != _KEPT:
            continue
        thoughts = {chain.call.id: chain.verdict.think for chain in item.chains if chain.verdict}
        edited = review.text if review and review.decision == "edit" else None
        yield replace(item.sample, think=edited or thoughts[item.pick.call])
