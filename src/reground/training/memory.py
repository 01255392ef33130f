"""Out of memory: the same step in smaller micro-batches, with the same gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from reground.errors import TrainingError
from reground.training.method import Micro
from reground.training.packing import MicroBatch


def within(micros: Iterable[Micro], limit: int | None) -> Iterator[Micro]:
    """The micro-batches, those of more than ``limit`` tokens halved while they can be."""
    for micro in micros:
        parts = micro.halves() if limit is not None and micro.num_tokens > limit else None
        if parts is None:
            yield micro
        else:
            yield from within(parts, limit)


def fitted(
    micro: MicroBatch, run: Callable[[MicroBatch], MicroBatch], step: int
) -> list[MicroBatch]:
    """What ``run`` makes of a micro-batch; of each half alone where memory does not suffice."""
    try:
        return [run(micro)]
    except torch.OutOfMemoryError:
        smaller([micro], step)
    torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
    return [made for half in micro.halves() or () for made in fitted(half, run, step)]


def smaller(micros: Iterable[Micro], step: int) -> int:
    """The limit that halves the largest of micro-batches that did not fit.

    Raises ``TrainingError`` where they cannot be divided any more.
    """
    largest = max(micros, key=lambda micro: micro.num_tokens)
    if largest.halves() is None:
        raise TrainingError(
            f"step {step}: out of memory with {largest.num_tokens} tokens, which cannot be divided "
            "any more; lower max_pixels, set tuning.gradient_checkpointing: true, train adapters "
            "(lora), or spread the weights over ranks (sharding: full)"
        )
    return largest.num_tokens // 2
