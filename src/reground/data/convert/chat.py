"""Rows of conversations: ShareGPT, LLaMA-Factory, VLM-R1, Qwen's own, and ms-swift's objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reground.data.convert.common import numbers, plain, read_rows
from reground.data.convert.mentions import asked_image, mentions
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally, Unusable
from reground.data.images import exists
from reground.data.soundness import FACTOR, MAX_OVERHANG, Reason
from reground.errors import ConfigError, DataError, did_you_mean
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame
from reground.grounding.codecs import PixelLimits
from reground.grounding.sample import ImageRef, Sample, Target

IMAGE = "<image>"
_NUMBER = r"\s*+(-?\d++(?:\.\d++)?)\s*+"
# [x1, y1, x2, y2], (x1, y1, x2, y2) and (x1,y1),(x2,y2), with whatever a family puts around them.
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:\)\s*+,\s*+\(|,){_NUMBER},{_NUMBER}[\])]")
_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_NO_LIMITS = PixelLimits()
_SPEAKERS = {"human": "user", "user": "user", "gpt": "model", "assistant": "model"}


class BoxFrame(StrEnum):
    """What the numbers of plain answers count."""

    ORIGINAL = "original"  # pixels of the photo
    RESIZED = "resized"  # pixels of the copy that a model saw
    THOUSANDTHS = "thousandths"  # 0-1000 of each side
    UNIT = "unit"  # 0-1 of each side


@dataclass(frozen=True, slots=True)
class _Reading:
    """What numbers count, and for ``resized`` what made the copy."""

    kind: BoxFrame
    limits: PixelLimits = _NO_LIMITS
    factor: int = FACTOR

    @classmethod
    def of(
        cls, name: str, fewest: int | None, most: int | None, factor: int | None
    ) -> _Reading | None:
        """What the options of a conversion say; None where they say nothing.

        Raises ``ConfigError`` for an unknown frame, and where "resized" and its limits are not
        given together: they differ from trainer to trainer, and every other one moves the boxes.
        """
        given = {"--min-pixels": fewest, "--max-pixels": most, "--factor": factor}
        if name and name not in list(BoxFrame):
            raise ConfigError(f"--box-frame: unknown {name!r}; {did_you_mean(name, BoxFrame)}")
        if name == BoxFrame.RESIZED:
            needed = ("--min-pixels", "--max-pixels")
            if missing := [flag for flag in needed if given[flag] is None]:
                raise ConfigError(
                    f"--box-frame resized needs {' and '.join(missing)}: the fewest and the most "
                    "pixels of the copies that the boxes count, as the trainer had them (its "
                    "processor's min_pixels and max_pixels; --factor 32 for Qwen3-VL)"
                )
            return cls(BoxFrame.RESIZED, PixelLimits(fewest, most), factor or FACTOR)
        if unread := [flag for flag, value in given.items() if value is not None]:
            raise ConfigError(f"{unread[0]} says how photos were resized; add --box-frame resized")
        return cls(BoxFrame(name)) if name else None

    def frame(self, image: ImageRef) -> Frame:
        """The frame of numbers about ``image``."""
        match self.kind:
            case BoxFrame.ORIGINAL:
                return image.frame
            case BoxFrame.RESIZED:
                sides = self.limits.resized(image.width, image.height, factor=self.factor)
                return Frame.input(*sides)
            case BoxFrame.THOUSANDTHS:
                return THOUSAND
            case BoxFrame.UNIT:
                return UNIT

    def box(self, edges: Sequence[float], image: ImageRef) -> Box:
        """The box in pixels of ``image``, whose file says its sides."""
        if self.kind in (BoxFrame.ORIGINAL, BoxFrame.RESIZED) and not exists(image.path):
            raise Unusable(Reason.MISSING_IMAGE, f"{image.path}: boxes in pixels need its sides")
        return Box(*numbers(edges), self.frame(image)).to(image.frame)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A question about the images so far, and what was answered."""

    name: str
    images: tuple[ImageRef, ...]
    question: str
    answer: str

    @property
    def boxes(self) -> list[tuple[int, tuple[float, float, float, float]]]:
        """The answer's boxes, each with the image that it names before it or is asked about."""
        text = _THINK.sub("", self.answer)
        default = asked_image(self.question, "", len(self.images)).image
        named = mentions(text, len(self.images))
        found = []
        for match in _BOX.finditer(text):
            before = [each.image for each in named if each.end <= match.start()]
            x1, y1, x2, y2 = map(float, match.groups())
            found.append((before[-1] if before else default, (x1, y1, x2, y2)))
        return found


def chat(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    box_frame: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    factor: int | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """One sample per question whose answer holds boxes, in `conversations` or `messages`.

    `<image>` in a text stands for the next of the row's images; their number is checked. Nothing in
    such rows says what the boxes count: ``box_frame`` does ("original", "thousandths", "unit", or
    "resized": pixels of copies made within ``min_pixels`` and ``max_pixels``, their sides multiples
    of ``factor``). Without it the only frame that holds all boxes is taken; where several do, that
    is a ``DataError``. ``<think>`` of an answer is the chain. Answers without a box are left out.
    """
    reading = _Reading.of(box_frame or "", min_pixels, max_pixels, factor)
    found = Images(images or source.parent, allow_missing_images)
    turns = []
    for number, row in read_rows(source, tally):
        name = f"{source.stem}-{row.get('id', f'{number:06d}')}"
        with tally.row(source, name):
            turns += list(_turns(row, name, found))
    reading = reading or _only_frame(turns, source, tally)
    for turn in turns:
        with tally.row(source, turn.name):
            if sample := _sample(turn, reading, source.stem):
                yield sample
            else:
                tally.note("answers without a box, left out", turn.name)


def ms_swift(
    source: Path,
    tally: Tally,
    *,
    images: Path | None = None,
    allow_missing_images: bool = False,
) -> Iterator[Sample]:
    """One sample per row of ms-swift with `objects`: phrases in `ref`, their boxes in `bbox`.

    `bbox_type` is "real" (pixels of the photo) or "norm1"; `image_id` says, from 0, which image
    each box is in, the first without it. `<ref-object>` and `<bbox>` in texts are filled in their
    order: a box that stands in the question is no target. With fewer phrases than boxes the last
    goes on.
    """
    found = Images(images or source.parent, allow_missing_images)
    for number, row in read_rows(source, tally, "messages", "objects"):
        name = f"{source.stem}-{row.get('id', f'{number:06d}')}"
        with tally.row(source, name):
            refs = found.refs(_listed(row))
            yield _of_objects(row, refs, name, source.stem)


# ---- conversations -----------------------------------------------------------------------------


def _listed(row: Mapping[str, Any]) -> list[Any]:
    value = row.get("images", row.get("image", []))
    listed = [value] if isinstance(value, str | dict) else list(value)
    return [
        each.get("path", each.get("image")) if isinstance(each, dict) else each for each in listed
    ]


def _turns(row: Mapping[str, Any], name: str, found: Images) -> Iterator[_Turn]:
    refs = found.refs(_listed(row))
    texts = list(_texts(row))
    stated = sum(text.count(IMAGE) for _, text in texts)
    if stated not in (0, len(refs)):
        raise Unusable("another number of <image> than of images", f"{stated} and {len(refs)}")
    seen = 0 if stated else len(refs)
    asked = ""
    for number, (speaker, text) in enumerate(texts):
        if speaker == "user":
            seen += text.count(IMAGE)
            asked = plain(text)
        elif asked:
            yield _Turn(f"{name}-{number // 2}", refs[:seen], asked, text)
            asked = ""


def _texts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for turn in row.get("conversations", row.get("messages")) or ():
        who = str(turn.get("from", turn.get("role"))).lower()
        content = turn.get("value", turn.get("content"))
        if isinstance(content, list):  # parts, as chat servers take them
            content = "".join(
                IMAGE if part.get("type", "").startswith("image") else str(part.get("text", ""))
                for part in content
            )
        if who == "system":
            continue
        if who not in _SPEAKERS:
            raise Unusable(
                "unknown speaker", f"{who!r}; expected human and gpt, user and assistant"
            )
        yield _SPEAKERS[who], str(content)


def _sample(turn: _Turn, reading: _Reading, task: str) -> Sample | None:
    boxes = turn.boxes
    if not boxes or not turn.images:
        return None
    chain = _THINK.search(turn.answer)
    return Sample(
        id=turn.name,
        images=turn.images,
        question=turn.question,
        targets=tuple(
            Target(image, reading.box(edges, turn.images[image])) for image, edges in boxes
        ),
        task=task,
        target_image=boxes[0][0],
        think=plain(chain.group(1)) if chain else None,
    )


def _only_frame(turns: Sequence[_Turn], source: Path, tally: Tally) -> _Reading:
    """The frame in which all boxes lie inside their images, if it is the only one."""
    boxes = [(edges, turn.images[at]) for turn in turns if turn.images for at, edges in turn.boxes]
    if not boxes:
        raise DataError(f"{source}: no answer holds a box; expected [x1, y1, x2, y2] or the like")
    if all(max(edges) <= 1 for edges, _ in boxes):
        return _Reading(BoxFrame.UNIT)
    fits = [
        reading
        for reading in map(_Reading, (BoxFrame.ORIGINAL, BoxFrame.THOUSANDTHS))
        if all(reading.box(edges, image).overhang() <= MAX_OVERHANG for edges, image in boxes)
    ]
    if len(fits) == 1:
        tally.note(f"boxes read as {fits[0].kind} (--box-frame says otherwise)", source.name)
        return fits[0]
    seen = "several frames hold" if fits else "no frame holds"
    raise DataError(
        f"{source}: {seen} all {len(boxes)} boxes; say what they count with --box-frame original "
        "(pixels of the photo), resized (of the copy that a model saw) or thousandths",
        help="frames-that-do-not-fit",
    )


# ---- ms-swift ----------------------------------------------------------------------------------

_PLACE = re.compile(r"<ref-object>|<bbox>")


def _of_objects(row: Mapping[str, Any], refs: tuple[ImageRef, ...], name: str, task: str) -> Sample:
    objects = row["objects"]
    boxes = list(objects["bbox"])
    phrases = [str(each) for each in objects.get("ref") or ()]
    at = list(objects.get("image_id") or [0] * len(boxes))
    if len(at) != len(boxes):
        raise Unusable("another number of image_id than of bbox", f"{len(at)} and {len(boxes)}")
    texts = list(_texts(row))
    question, answer = (
        " ".join(text for speaker, text in texts if speaker == who) for who in ("user", "model")
    )
    count = question.count(IMAGE)
    if count not in (0, len(refs)):
        raise Unusable("another number of <image> than of images", f"{count} and {len(refs)}")
    told = _PLACE.findall(question)
    own = [str(list(map(_rounded, box))) for box in boxes]
    filled = _filled(question, iter(phrases), iter(own))
    start = told.count("<bbox>")
    if "<bbox>" not in answer and start:
        raise Unusable("answer without a box")
    targets = [
        _target(boxes[place], objects.get("bbox_type", "real"), at[place], refs)
        for place in range(start, len(boxes))
    ]
    if not targets:
        raise Unusable("answer without a box")
    return Sample(
        id=name,
        images=refs,
        question=plain(filled),
        targets=tuple(targets),
        task=task,
        target_image=targets[0].image,
    )


def _target(values: Any, kind: str, image: Any, refs: tuple[ImageRef, ...]) -> Target:
    if not isinstance(image, int) or not 0 <= image < len(refs):
        raise Unusable("image_id of no image", f"{image!r} with {len(refs)} images")
    if len(values) == 2:
        raise Unusable("point in place of a box", f"{values!r}")
    if kind not in ("real", "norm1"):
        raise Unusable("unknown bbox_type", f"{kind!r}; expected real or norm1")
    frame = UNIT if kind == "norm1" else refs[image].frame
    return Target(image, Box(*numbers(values), frame).to(refs[image].frame))


def _filled(text: str, phrases: Iterator[str], boxes: Iterator[str]) -> str:
    last = ""

    def fill(match: re.Match[str]) -> str:
        nonlocal last
        if match[0] == "<bbox>":
            return next(boxes, "")
        last = next(phrases, last)
        return last

    return _PLACE.sub(fill, text)


def _rounded(value: Any) -> float | int:
    number = round(float(value), 2)
    return int(number) if number == int(number) else number
