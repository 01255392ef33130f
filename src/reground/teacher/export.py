"""Picked chains as data to train on: our own JSONL, and ShareGPT for LLaMA-Factory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files written and how many rows each has; how many of what were left out.

    ``copied`` is whether the images lie beside them.
    """

    folder: Path
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    copied: bool


def export(store: Store, settings: Export) -> Exported:
    """Write the files to ``settings.out``, each whole or not at all; the card is not among them.

    Raises ``DataError`` where there is no chain to write, an image is gone, or a question holds
    LLaMA-Factory's placeholder; ``ConfigError`` for a direct task that the samples do not have.
    """
    folder = Path(settings.out)
    left_out = _check(store, settings)
    prepared = copied(folder / IMAGES) if settings.copy_images else referenced

    def rows(*, direct: bool) -> Iterator[Sample]:
        for sample in _kept(store):
            if is_direct(sample, settings) == direct:
                sample = replace(sample, think=None) if direct else sample
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
        why = f"rows left out of {sharegpt.ROWS}: scenes, views and turned photos are no files"
        left_out[f"{why} that it could name (--copy-images makes them)"] = undrawn
    rows_of = {name: count for name, count in counts.items() if count}
    return Exported(folder=folder, rows=rows_of, left_out=left_out, copied=settings.copy_images)


def is_direct(sample: Sample, settings: Export) -> bool:
    """Whether a row is trained without thinking: simple, and about one image."""
    return sample.task in settings.direct_tasks and len(sample.images) == 1


def _check(store: Store, settings: Export) -> dict[str, int]:
    """How many samples are left out, by reason; raises where nothing remains."""
    store.check_asked()
    reviews = combined(store.latest_reviews())
    tasks: set[str] = set()
    fates: Counter[str] = Counter()
    for item in store.items():
        tasks.add(item.sample.task)
        fates[_fate(item, reviews.get(item.sample.id))] += 1
    for task in settings.direct_tasks:
        if task not in tasks:
            raise ConfigError(
                f"export.direct_tasks: no sample of {task!r}; {did_you_mean(task, sorted(tasks))}"
            )
    if not fates[_KEPT]:
        told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
        raise DataError(
            f"{store.path}: there is no chain to export ({told}); run `reground teach verify` and "
            "`reground teach judge` first"
        )
    return {fate: count for fate, count in fates.items() if fate != _KEPT}


_KEPT = "samples exported"


def _fate(item: Item, review: Review | None) -> str:
    if item.pick is None:
        verified = any(chain.verdict and chain.verdict.ok for chain in item.chains)
        return "samples without a pick" if verified else "samples without a verified chain"
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
