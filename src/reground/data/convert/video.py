"""Questions about a video, asked about one of its frames: UniVG-R1's ReVOS and ReasonVOS files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reground.data.convert.common import Images, numbers, plain, read_rows, reading
from reground.errors import DataError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target

NUM_FRAMES = 6
TARGET = 2  # the third frame

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SUFFIXES = (".jpg", ".png")


def convert(source: Path, *, images: Path | None = None) -> Iterator[Sample]:
    """Six frames and a question; the target is the box in the third frame.

    Rows hold a question, ``bbox_list`` (a box in pixels for every frame), and either ``video_id``
    and ``frames`` (ReVOS: places, from 0, in the sorted files of the video's folder) or
    ``image_list`` (ReasonVOS: paths). The published rows list six frames; of longer lists six are
    taken, evenly from the first to the last. A box that is null, empty or holds no number says that
    the object is not to be seen in the third frame: the sample has no target. "Find it in the
    third image." is added to the question. The task is what the file is named after. Folders of
    frames lie below ``images``, the file's own folder where it is not given; frames are needed.
    """
    found = Images(images or source.parent)
    for number, row in enumerate(read_rows(source, "question", "bbox_list")):
        name = f"{source.stem}-{number:05d}"
        with reading(f"{source}: {name}"):
            sample = _sample(row, name, source.stem, found)
        yield sample


def evenly(length: int, count: int) -> list[int]:
    """``count`` places of a list of ``length``, evenly from the first to the last; all if fewer.

    >>> evenly(6, 6), evenly(11, 6), evenly(4, 6)
    ([0, 1, 2, 3, 4, 5], [0, 2, 4, 6, 8, 10], [0, 1, 2, 3])
    """
    if length <= count:
        return list(range(length))
    return [round(place * (length - 1) / (count - 1)) for place in range(count)]


def _sample(row: dict[str, Any], name: str, task: str, found: Images) -> Sample:
    boxes = row["bbox_list"]
    files = _paths(row, name, found) if "image_list" in row else _frames(row, name, found)
    if not isinstance(boxes, list) or len(boxes) != len(files) or len(files) <= TARGET:
        count = len(boxes) if isinstance(boxes, list) else "no"
        raise DataError(
            f"{name}: {len(files)} frames and {count} boxes; expected as many of both, "
            f"and at least {TARGET + 1}"
        )
    chosen = evenly(len(files), NUM_FRAMES)
    refs = tuple(found.ref(files[place]) for place in chosen)
    return Sample(
        id=name,
        images=refs,
        question=f"{_sentence(plain(row['question']))} Find it in the third image.",
        targets=_targets(boxes[chosen[TARGET]], refs[TARGET], name),
        task=task,
        target_image=TARGET,
    )


def _paths(row: dict[str, Any], name: str, found: Images) -> list[str]:
    paths = row["image_list"]
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise DataError(f"{name}: image_list is {paths!r}; expected a list of paths")
    return [found.tail(path) for path in paths]


def _frames(row: dict[str, Any], name: str, found: Images) -> list[str]:
    """The files of the frames that a ReVOS row counts, as paths below the images folder."""
    places, video = row["frames"], str(row["video_id"])
    folder = found.path(video)
    files = sorted(
        (path.name for path in folder.glob("*") if path.suffix in _SUFFIXES), key=_place_in_video
    )
    if not files:
        raise DataError(f"{folder}: no frames; expected the .jpg or .png files of video {video}")
    if not all(type(place) is int and 0 <= place < len(files) for place in places):
        raise DataError(
            f"{name}: frames {places!r}; expected places from 0 to {len(files) - 1} in {folder}"
        )
    return [f"{video}/{files[place]}" for place in places]


def _place_in_video(name: str) -> tuple[int, str]:
    found = re.search(r"\d+", name)
    return (int(found[0]) if found else -1, name)


def _targets(value: Any, frame: ImageRef, name: str) -> tuple[Target, ...]:
    # ReasonVOS has the box as text, "[12, 40, 300, 220]".
    listed = _NUMBER.findall(value) if isinstance(value, str) else value
    if listed is None or listed == []:
        return ()
    box = numbers(listed, where=f"{name}: the box of frame {TARGET + 1}")
    return (Target(TARGET, Box(*box, frame.frame)),)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
