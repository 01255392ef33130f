"""UniVG-R1's stage 1 (chains of thought) and stage 2 (reinforcement) data, boxes in 0-1000."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, plain, read_rows, reading
from reground.data.convert.mentions import QuestionImage, answered, asked_image
from reground.errors import DataError
from reground.grounding.boxes import THOUSAND, Box
from reground.grounding.sample import ImageRef, Sample, Target

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
# The request for the answer's form is the prompt profile's business, not the question's.
_FORM = re.compile(
    r"\s*First output the thinking process in <think> ?</think> tags and then output the "
    r"(?:bounding box|final answer) in <answer> ?</answer> tags\.?\s*$"
)
_LEAD = "This is a single image grounding task with simple reference. "


def convert(
    source: Path, *, images: Path | None = None, allow_missing_images: bool = False
) -> Iterator[Sample]:
    """Samples of a stage 1 or stage 2 JSON: rows of images, question and answer.

    The answer is four numbers, or text in which ``<think>`` holds the chain and the rest the box.
    The target image is the one that the answer's text names before the box, else that of the
    question, the chain, or, assumed, the last image: the stratum ``target`` is then "assumed".
    COCO images make the task "refcoco", all others "univg_r1". Rows whose question says that the
    reference is simple, or whose answer is a box without a chain, get the protocol ``direct``.
    """
    found = Images(images or source.parent, allow_missing_images)
    for number, row in enumerate(read_rows(source, "images", "question", "answer")):
        name = f"{source.stem}-{number:06d}"
        with reading(f"{source}: {name}"):
            sample = _sample(row, name, found)
        yield sample


def _sample(row: dict[str, Any], name: str, found: Images) -> Sample:
    refs = found.refs(row["images"], where=name)
    asked_as = plain(_FORM.sub("", str(row["question"])))
    question, answer = asked_as.removeprefix(_LEAD), row["answer"]
    chain = _THINK.search(answer) if isinstance(answer, str) else None
    think = plain(chain.group(1)) if chain else ""
    asked = asked_image(question, think, len(refs))
    targets = _targets(answer, refs, asked, name)
    is_bare = question != asked_as or (isinstance(answer, str) and not chain)
    return Sample(
        id=name,
        images=refs,
        question=question,
        targets=targets,
        task="refcoco" if len(refs) == 1 and "COCO_" in Path(refs[0].path).name else "univg_r1",
        target_image=targets[0].image,
        think=think or None,
        strata={"images": str(len(refs)), "target": asked.stratum},
        protocol="direct" if is_bare else None,
    )


def _targets(
    answer: Any, refs: tuple[ImageRef, ...], asked: QuestionImage, name: str
) -> tuple[Target, ...]:
    if not isinstance(answer, str):
        box = Box(*numbers(answer, where=name), THOUSAND)
        return (Target(asked.image, box.to(refs[asked.image].frame)),)
    targets = answered(plain(_THINK.sub("", answer)), refs, default=asked.image)
    if not targets:
        raise DataError(f"{name}: no box (x1,y1),(x2,y2) in answer {answer[-80:]!r}")
    return targets
