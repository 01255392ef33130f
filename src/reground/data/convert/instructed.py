"""Photos and videos with instructions: ReasonSeg, and boxes extracted from such sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reground.data.convert.common import (
    box_in,
    instructions,
    plain,
    read_rows,
    read_text,
    reading,
)
from reground.data.convert.photos import Images
from reground.data.convert.tally import Tally
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target

# How each project names the image, the question and the boxes.
_FIELDS = (
    ("image_path", "instruction", "boxes"),  # UniVG-R1's and Visual-RFT's lisa_{val,test}.json
    ("image_path", "question", "bbox"),  # UniVG-R1's LLMSeg_eval.json
    ("image", "problem", "solution"),  # VLM-R1's lisa_test.json
)
# VLM-R1's rows hold half of its prompt, which is the prompt profile's business.
_LEAD = "Please provide the bounding box coordinate of the region this sentence describes: "

NUM_FRAMES = 6
TARGET = 2  # the third frame
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SUFFIXES = (".jpg", ".png")


def reason_seg(source: Path, tally: Tally, *, images: Path | None = None) -> Iterator[Sample]:
    """One sample per instruction of every ``NAME.json`` in a folder; the photo is ``NAME.jpg``.

    The box is the bounds of all polygons that are neither "ignore" nor "flag", in pixels, cut at
    the photo's edge; without such a polygon nothing matches, and there is no target. A JSON without
    ``shapes`` is a ``DataError``. The stratum ``query`` is "sentence" or "phrase". Labels are read
    as utils/data_processing.py of dvlab-research/LISA does, but for one thing: an ignored region
    inside a target does not make its box smaller.
    """
    files = sorted(source.glob("*.json"))
    if not files:
        raise DataError(f"{source}: no JSON files; expected a folder such as ReasonSeg/val")
    found = Images(images or source)
    for path in files:
        with tally.row(path, path.stem):
            # Some of their files are in the Windows code page.
            row = json.loads(read_text(path, "cp1252"))
            if not isinstance(row, dict):
                raise DataError("expected an object with text, is_sentence and shapes")
            image = found.ref(f"{path.stem}.jpg")
            query = "sentence" if row["is_sentence"] else "phrase"
            targets = _bounds(row["shapes"], image)
            questions = [plain(text) for text in instructions(row, "text")]
            yield from _samples(
                path.stem, image, questions, targets, task="reason_seg", strata={"query": query}
            )


def extracted(source: Path, tally: Tally, *, images: Path | None = None) -> Iterator[Sample]:
    """One sample per instruction of every row; the task is what the file is named after.

    Boxes are x1, y1, x2, y2 in pixels, one or several; an empty list says that nothing matches. A
    row without boxes is a ``DataError``. Photos are needed, for the rows record no sizes: they lie
    below ``images`` (the file's own folder where it is not given), under as much of the recorded
    path as is there.
    """
    rows = read_rows(source, tally)
    fields = next((each for each in _FIELDS if any(row.keys() >= {*each} for _, row in rows)), None)
    if fields is None:
        known = "; or ".join(map(", ".join, _FIELDS))
        raise DataError(f"{source}: row 1 has the fields {', '.join(rows[0][1])}; expected {known}")
    found = Images(images or source.parent)
    for number, row in rows:
        name = f"{source.stem}-{number:05d}"
        with tally.row(source, name):
            photo, instruction, boxes = fields
            image = found.ref(str(row[photo]))
            questions = [_without_prompt(text) for text in instructions(row, instruction)]
            listed = row[boxes]
            with reading(boxes):
                targets = _listed(listed, image)
            yield from _samples(name, image, questions, targets, task=source.stem)


def video(source: Path, tally: Tally, *, images: Path | None = None) -> Iterator[Sample]:
    """Six frames and a question (ReVOS, ReasonVOS); the target is the box in the third frame.

    Rows hold a question, ``bbox_list`` (a box in pixels for every frame), and either ``video_id``
    and ``frames`` (ReVOS: places, from 0, in the sorted files of the video's folder) or
    ``image_list`` (ReasonVOS: paths). The published rows list six frames; of longer lists six are
    taken, evenly from the first to the last. A box that is null, empty or holds no number says that
    the object is not to be seen in the third frame: the sample has no target. "Find it in the
    third image." is added to the question. The task is what the file is named after. Folders of
    frames lie below ``images``, the file's own folder where it is not given; frames are needed.
    """
    found = Images(images or source.parent)
    for number, row in read_rows(source, tally, "question", "bbox_list"):
        name = f"{source.stem}-{number:05d}"
        with tally.row(source, name):
            yield _of_video(row, name, source.stem, found)


def evenly(length: int, count: int) -> list[int]:
    """``count`` places of a list of ``length``, evenly from the first to the last; all if fewer.

    >>> evenly(6, 6), evenly(11, 6), evenly(4, 6)
    ([0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 10], [0, 1, 2, 3])
    """
    if length <= count:
        return list(range(length))
    return [round(place * (length - 1) / (count - 1)) for place in range(count)]


def _samples(
    name: str,
    image: ImageRef,
    questions: Sequence[str],
    targets: tuple[Target, ...],
    *,
    task: str,
    strata: Mapping[str, str] | None = None,
) -> Iterator[Sample]:
    """One sample per question about ``image``; several add their number to ``name``."""
    for number, question in enumerate(questions):
        own = name if len(questions) == 1 else f"{name}-{number}"
        yield Sample(own, (image,), question, targets, task, strata=strata or {})


# ---- the parts of rows -------------------------------------------------------------------------


def _bounds(shapes: Any, image: ImageRef) -> tuple[Target, ...]:
    points = [
        (float(x), float(y)) for shape in shapes if _is_target(shape) for x, y in shape["points"]
    ]
    if not points:
        return ()
    xs, ys = zip(*points, strict=True)
    box = Box(min(xs), min(ys), max(xs), max(ys), image.frame)
    return (Target(0, box.clipped()),)


def _is_target(shape: dict[str, Any]) -> bool:
    label = shape["label"].lower()
    return label != "flag" and "ignore" not in label


def _without_prompt(text: str) -> str:
    if text.startswith(_LEAD):
        return plain(text.removeprefix(_LEAD)).removesuffix(".")
    return plain(text)


def _listed(value: Any, image: ImageRef) -> tuple[Target, ...]:
    """The boxes of a row: one box, a list of boxes, or two corner points; none for an empty list.

    Raises ``DataError`` where there is no list: no ground truth.
    """
    if not isinstance(value, list):
        raise DataError(f"{value!r}: no ground truth; expected a list of boxes")
    lengths = [len(each) if isinstance(each, list) else 0 for each in value]
    if lengths == [2, 2]:  # two corner points
        value = [[*value[0], *value[1]]]
    boxes = [value] if 0 in lengths else value
    return tuple(Target(0, box_in(image.frame, box)) for box in boxes)


def _of_video(row: dict[str, Any], name: str, task: str, found: Images) -> Sample:
    boxes = row["bbox_list"]
    files = _paths(row["image_list"]) if "image_list" in row else _frames(row, found)
    if not isinstance(boxes, list) or len(boxes) != len(files) or len(files) <= TARGET:
        count = len(boxes) if isinstance(boxes, list) else "no"
        raise DataError(
            f"{len(files)} frames and {count} boxes; expected as many of both, and at least "
            f"{TARGET + 1}"
        )
    chosen = evenly(len(files), NUM_FRAMES)
    refs = tuple(found.ref(files[place]) for place in chosen)
    question = plain(row["question"])
    end = "" if question.endswith((".", "?", "!")) else "."
    return Sample(
        id=name,
        images=refs,
        question=f"{question}{end} Find it in the third image.",
        targets=_in_frame(boxes[chosen[TARGET]], refs[TARGET]),
        task=task,
        target_image=TARGET,
    )


def _paths(paths: Any) -> list[str]:
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise DataError(f"image_list is {paths!r}; expected a list of paths")
    return paths


def _frames(row: dict[str, Any], found: Images) -> list[str]:
    """The files of the frames that a ReVOS row counts, as paths below the images folder."""
    places, video_id = row["frames"], str(row["video_id"])
    folder = found.path(video_id)
    files = sorted(
        (path.name for path in folder.glob("*") if path.suffix in _SUFFIXES), key=_place_in_video
    )
    if not files:
        raise DataError(f"{folder}: no frames; expected the .jpg or .png files of video {video_id}")
    if not all(type(place) is int and 0 <= place < len(files) for place in places):
        raise DataError(
            f"frames {places!r}; expected places from 0 to {len(files) - 1} in {folder}"
        )
    return [f"{video_id}/{files[place]}" for place in places]


def _place_in_video(name: str) -> tuple[int, str]:
    found = re.search(r"\d+", name)
    return (int(found[0]) if found else -1, name)


def _in_frame(value: Any, frame: ImageRef) -> tuple[Target, ...]:
    # ReasonVOS has the box as text, "[12, 40, 300, 220]".
    listed = _NUMBER.findall(value) if isinstance(value, str) else value
    if listed is None or listed == []:
        return ()
    with reading(f"frame {TARGET + 1}"):
        return (Target(TARGET, box_in(frame.frame, listed)),)
