"""Picked chains as data to train on: our own JSONL, and ShareGPT for LLaMA-Factory."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from reground.data.images import exists, header, load, split_view
from reground.data.source import save_dataset
from reground.errors import ConfigError, DataError, did_you_mean
from reground.grounding.sample import ImageRef, Sample, is_file_path
from reground.io import whole
from reground.teacher import sharegpt
from reground.teacher.review.results import combined
from reground.teacher.rows import Entry, Review
from reground.teacher.settings import Export
from reground.teacher.store import Store

REASONED, DIRECT, IMAGES = "sft.jsonl", "sft_direct.jsonl", "images"
_FILES = (REASONED, DIRECT, sharegpt.ROWS, sharegpt.DESCRIPTION)
_COPYING = "--copy-images, or the setting export.copy_images=true,"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedChains:
    """The files written and how many rows each has; how many of what were left out.

    ``notes`` are sentences on settings without effect and on removed files; ``copied`` is
    whether the images are in the same folder.
    """

    folder: Path
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    notes: Sequence[str]
    copied: bool


def export(store: Store, settings: Export) -> ExportedChains:
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
    prepared = _copying(folder / IMAGES) if settings.copy_images else _referenced

    def rows(*, direct: bool) -> Iterator[Sample]:
        for sample in _kept(store):
            if _is_direct(sample, settings) == direct:
                sample = replace(sample, think=None, protocol="direct") if direct else sample
                yield replace(sample, images=tuple(map(prepared, sample.images)))

    counts = {}
    for name, direct in ((REASONED, False), (DIRECT, True)):
        counts[name] = save_dataset(folder / name, rows(direct=direct))
        if not counts[name]:
            (folder / name).unlink()
    both = chain(rows(direct=False), rows(direct=True))
    plain = (sample for sample in both if all(map(_is_plain, sample.images)))
    written = sum(counts.values())
    counts[sharegpt.ROWS] = sharegpt.write(folder, plain)
    if undrawn := written - counts[sharegpt.ROWS]:
        why = f"rows left out of {sharegpt.ROWS}, as scenes, views and turned photos are no files"
        left_out[f"{why} that it could name ({_COPYING} makes them)"] = undrawn
    if gone := [name for name in before if not (folder / name).exists()]:
        notes.append(f"removed {', '.join(gone)} of an earlier export: now there is no row for it")
    return ExportedChains(
        folder=folder,
        rows={name: count for name, count in counts.items() if count},
        left_out=left_out,
        notes=notes,
        copied=settings.copy_images,
    )


def _is_direct(sample: Sample, settings: Export) -> bool:
    """Whether a row is trained without reasoning: simple, and about one image."""
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
    fates = Counter(_fate(entry, reviews.get(entry.sample.id)) for entry in store.entries())
    if fates.pop(_KEPT, 0):
        return fates
    advice = "ask for more chains (ask.n), or verify with other settings"
    if fates[_UNVERIFIED]:
        advice = "run `reground teach verify` and `reground teach judge` first"
    elif fates[_UNPICKED]:
        advice = "run `reground teach judge` first"
    counts = ", ".join(f"{fate}: {count}" for fate, count in fates.items())
    raise DataError(f"{store.path}: there is no chain to export ({counts}); {advice}")


_KEPT = "samples exported"
_UNPICKED = "samples without a pick"
_UNVERIFIED = "samples whose chains are not verified yet"


def _fate(entry: Entry, review: Review | None) -> str:
    if entry.pick:
        return "samples rejected by a reviewer" if review and review.decision == "reject" else _KEPT
    if entry.verified:
        return _UNPICKED
    unverified = any(each.finding is None for each in entry.chains)
    return _UNVERIFIED if unverified else "samples without a verified chain"


def _kept(store: Store) -> Iterator[Sample]:
    """Samples with the reasoning that they end with: as edited, or as the teacher wrote it."""
    reviews = combined(store.latest_reviews())
    for entry in store.entries():
        review = reviews.get(entry.sample.id)
        if entry.picked and _fate(entry, review) == _KEPT:
            edited = review.text if review and review.decision == "edit" else None
            yield replace(entry.sample, think=edited or entry.picked.think)


def _referenced(image: ImageRef) -> ImageRef:
    """The image itself; raises ``DataError`` where its file is gone."""
    if not exists(image.path):
        raise DataError(
            f"{split_view(image.path)[0]}: no such image, but the database speaks of it; put the "
            "images back where they were, or move the database along with them"
        )
    return image


def _copying(folder: Path) -> Callable[[ImageRef], ImageRef]:
    """What copies images into ``folder``, each once: the file as it is, or drawn as a PNG.

    Drawn are scenes, views and photos that EXIF data would turn. Raises ``DataError`` where a file
    is gone or cannot be read.
    """

    def copy(image: ImageRef) -> ImageRef:
        plain = _is_plain(_referenced(image))
        name = hashlib.sha256(image.path.encode()).hexdigest()[:20]
        path = folder / (name + (Path(image.path).suffix if plain else ".png"))
        if not path.exists():
            with whole(path) as partial:
                if plain:
                    shutil.copyfile(image.path, partial)
                else:
                    load(image).save(partial, "png")
        return replace(image, path=str(path))

    return copy


def _is_plain(image: ImageRef) -> bool:
    """Whether any program that opens the file sees what we see."""
    file, view = split_view(image.path)
    if not is_file_path(file) or view is not None:
        return False
    return header(file).orientation == 1
