"""Questions about several images: MIG-Bench, MGrounding-630k and UniVG-R1's training rows."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reground.data.convert.common import (
    box_in,
    good_rows,
    marked,
    plain,
    read_rows,
    reading,
    rows_of,
)
from reground.data.convert.mentions import QuestionImage, answered, asked_image
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally
from reground.errors import DataError
from reground.grounding.boxes import THOUSAND, UNIT, Frame
from reground.grounding.names import ProtocolName
from reground.grounding.sample import ImageRef, Sample, Span, Target

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
# The request for the answer's form is the prompt profile's business, not the question's.
_FORM = re.compile(
    r"\s*First output the thinking process in <think> ?</think> tags and then output the "
    r"(?:bounding box|final answer) in <answer> ?</answer> tags\.?\s*$"
)
_LEAD = "This is a single image grounding task with simple reference. "


Rows = Iterable[tuple[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ByRow:
    """A format whose rows know nothing of each other, and have ids that no other row has.

    ``samples`` makes them of some of the rows, which have ``fields``, with their places from 0.
    """

    fields: tuple[str, ...]
    samples: Callable[[Rows, Path, Tally, Images], Iterator[Sample]]


def mig_bench(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of a MIG-Bench JSON, in its order; ids count within each task.

    Answers are in 0-1 as first published, and integers in 0-1000 as UniVG-R1 revised them. The
    target image is the one that the question names last, else the one that ``additional_info``
    names, else the last: answers do not say it. The stratum ``target`` says which were "named" and
    which "assumed" (the task diff, as first published). ``images`` is the folder that the rows'
    paths start from, the JSON's own folder where it is not given.
    """
    rows = [row for _, row in read_rows(source, tally, "task", "images", "question", "answer")]
    frame = _mig_bench_frame(rows, source)
    found = Images(images or source.parent, allow_missing_images)
    counts: Counter[str] = Counter()
    for row in rows:
        task = str(row["task"])
        name = f"{task}-{counts[task]:04d}"
        counts[task] += 1
        with tally.row(source, name):
            refs = found.refs(_listed(row["images"]))
            question, spans = marked(row["question"])
            asked = asked_image(question, str(row.get("additional_info", "")), len(refs))
            targets = _listed_box(row["answer"], frame, refs, asked)
            yield _sample(name, refs, question, targets, task, asked, spans=spans)


def mgrounding(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """One sample per question and answer of an MGrounding conversation; its ``type`` is the task.

    An answer may hold several boxes in 0-1000, each in the image that it names before the box.
    Answers without a box (captions of a given region, chat) ground nothing and are left out.
    """
    rows = good_rows(enumerate(rows_of(source)), source, tally, MGROUNDING.fields)
    found = Images(images or source.parent, allow_missing_images)
    yield from MGROUNDING.samples(rows, source, tally, found)


def _mgrounding(rows: Rows, source: Path, tally: Tally, found: Images) -> Iterator[Sample]:
    for number, row in rows:
        task = str(row["type"])
        name = f"{task}-{number:06d}"
        exchanges: list[tuple[str, str]] = []
        with tally.row(source, name):
            refs = found.refs(row["images"])
            exchanges = _exchanges(row["conversations"])
        for turn, (text, answer) in enumerate(exchanges):
            with tally.row(source, f"{name}-{turn}"):
                question, spans = marked(text)
                asked = asked_image(question, "", len(refs))
                targets = answered(plain(answer), refs, default=asked.image)
                if targets:
                    yield _sample(f"{name}-{turn}", refs, question, targets, task, spans=spans)
                else:
                    tally.note(f"answers of {task} without a box, left out", name)


def univg_r1(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """Samples of UniVG-R1's stage 1 (chains of thought) or stage 2 (reinforcement) JSON.

    The answer is four numbers in 0-1000, or text in which ``<think>`` holds the chain and the rest
    the box. The target image is the one that the answer's text names before the box, else that of
    the question, the chain, or, assumed, the last image: the stratum ``target`` is then "assumed".
    COCO images make the task "refcoco", all others "univg_r1". Rows whose question says that the
    reference is simple, or whose answer is a box without a chain, get the protocol ``direct``.
    """
    rows = good_rows(enumerate(rows_of(source)), source, tally, UNIVG_R1.fields)
    found = Images(images or source.parent, allow_missing_images)
    yield from UNIVG_R1.samples(rows, source, tally, found)


def _univg_r1(rows: Rows, source: Path, tally: Tally, found: Images) -> Iterator[Sample]:
    for number, row in rows:
        name = f"{source.stem}-{number:06d}"
        with tally.row(source, name):
            yield _of_univg_r1(row, name, found.refs(row["images"]))


MGROUNDING = ByRow(("images", "conversations", "type"), _mgrounding)
UNIVG_R1 = ByRow(("images", "question", "answer"), _univg_r1)


def _sample(
    name: str,
    images: tuple[ImageRef, ...],
    question: str,
    targets: tuple[Target, ...],
    task: str,
    asked: QuestionImage | None = None,
    *,
    think: str | None = None,
    protocol: ProtocolName | None = None,
    spans: tuple[Span, ...] = (),
) -> Sample:
    """A sample about the image of its first target; ``asked`` says how that image was found."""
    return Sample(
        id=name,
        images=images,
        question=question,
        targets=targets,
        task=task,
        target_image=targets[0].image,
        think=think,
        strata={"target": asked.stratum} if asked else {},
        protocol=protocol,
        spans=spans,
    )


def _listed_box(
    values: Any, frame: Frame, refs: tuple[ImageRef, ...], asked: QuestionImage
) -> tuple[Target, ...]:
    box = box_in(frame, values)
    return (Target(asked.image, box.to(refs[asked.image].frame)),)


def _mig_bench_frame(rows: Sequence[dict[str, Any]], source: Path) -> Frame:
    # The two versions differ in their numbers' type, which JSON keeps; their size says nothing.
    with reading(f"{source}: an answer"):
        kinds = {type(value) for row in rows for value in row["answer"]}
    if kinds == {float}:
        return UNIT
    if kinds == {int}:
        return THOUSAND
    raise DataError(
        f"{source}: answers hold {', '.join(sorted(kind.__name__ for kind in kinds))}; expected "
        "decimals throughout (first version, 0-1) or integers throughout (revised, 0-1000)",
        help="frames-that-do-not-fit",
    )


def _listed(paths: Any) -> Any:
    if not isinstance(paths, str):
        return paths
    try:  # some copies hold the list as the text of a Python list
        return ast.literal_eval(paths)
    except (ValueError, SyntaxError):
        return None


def _exchanges(turns: Any) -> list[tuple[str, str]]:
    speakers = [turn.get("from") for turn in turns if isinstance(turn, dict)]
    if speakers != ["human", "gpt"] * (len(turns) // 2) or not turns:
        raise DataError(f"turns by {speakers}; expected 'human' and 'gpt' by turns")
    texts = [str(turn["value"]) for turn in turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _of_univg_r1(row: dict[str, Any], name: str, refs: tuple[ImageRef, ...]) -> Sample:
    asked_as, spans = marked(_FORM.sub("", str(row["question"])))
    answer, is_bare = row["answer"], asked_as.startswith(_LEAD)
    if is_bare:
        lead = len(_LEAD)
        spans = tuple(replace(each, start=each.start - lead, end=each.end - lead) for each in spans)
    question = asked_as.removeprefix(_LEAD)
    chain = _THINK.search(answer) if isinstance(answer, str) else None
    think = plain(chain.group(1)) if chain else ""
    asked = asked_image(question, think, len(refs))
    if isinstance(answer, str):
        is_bare = is_bare or not chain
        targets = answered(plain(_THINK.sub("", answer)), refs, default=asked.image)
        if not targets:
            raise DataError(f"no box (x1,y1),(x2,y2) in answer {answer[-80:]!r}")
    else:
        targets = _listed_box(answer, THOUSAND, refs, asked)
    is_refcoco = len(refs) == 1 and "COCO_" in Path(refs[0].path).name
    return _sample(
        name,
        refs,
        question,
        targets,
        "refcoco" if is_refcoco else "univg_r1",
        asked,
        think=think or None,
        protocol="direct" if is_bare else None,
        spans=spans,
    )
