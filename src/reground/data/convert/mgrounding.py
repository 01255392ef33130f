"""MGrounding-630k: conversations over several images, boxes in 0-1000."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, plain, read_rows, reading
from reground.data.convert.mentions import answered, asked_image
from reground.errors import DataError
from reground.grounding.sample import ImageRef, Sample

_LOG = logging.getLogger(__name__)


def convert(
    source: Path, *, images: Path | None = None, allow_missing_images: bool = False
) -> Iterator[Sample]:
    """One sample per question and answer of every conversation; the task is the row's ``type``.

    An answer may hold several boxes, each in the image that it names before the box. Answers
    without a box (captions of a given region, chat) ground nothing: they are left out, and a
    warning at the end says how many of which type.
    """
    found = Images(images or source.parent, allow_missing_images)
    left_out: Counter[str] = Counter()
    for number, row in enumerate(read_rows(source, "images", "conversations", "type")):
        name = f"{row['type']}-{number:06d}"
        with reading(f"{source}: {name}"):
            refs = found.refs(row["images"], where=name)
            exchanges = _exchanges(row["conversations"], name)
        for turn, (question, answer) in enumerate(exchanges):
            sample = _sample(f"{name}-{turn}", str(row["type"]), refs, question, answer)
            if sample:
                yield sample
            else:
                left_out[str(row["type"])] += 1
    if left_out:
        counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(left_out.items()))
        _LOG.warning("%s: left out answers without a box: %s", source, counts)


def _exchanges(turns: Any, name: str) -> list[tuple[str, str]]:
    speakers = [turn.get("from") for turn in turns if isinstance(turn, dict)]
    if speakers != ["human", "gpt"] * (len(turns) // 2) or not turns:
        raise DataError(f"{name}: turns by {speakers}; expected 'human' and 'gpt' by turns")
    texts = [str(turn["value"]) for turn in turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _sample(
    name: str, task: str, refs: tuple[ImageRef, ...], question: str, answer: str
) -> Sample | None:
    question = plain(question)
    asked = asked_image(question, "", len(refs)).image
    targets = answered(plain(answer), refs, default=asked)
    if not targets:
        return None
    return Sample(
        id=name,
        images=refs,
        question=question,
        targets=targets,
        task=task,
        target_image=targets[0].image,
        strata={"images": str(len(refs))},
    )
