"""Writes our samples in the formats of labelling tools and other trainers.

What a format cannot hold is counted, and said at the end.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from reground.data.images import split_view
from reground.data.regions import coco_box, region
from reground.data.source import path_from
from reground.errors import DataError, did_you_mean
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, is_file_path
from reground.io import dump_yaml, json_line, locked, whole, write_json, write_lines

IMAGE = "<image>"
# What LLaMA-Factory and ms-swift put something in the place of.
_PLACEHOLDER = re.compile("<(?:image|video|audio|bbox|ref-object)>")


@dataclass(slots=True)
class Labels:
    """The labelled boxes of photos: by photo, then by class, each box once."""

    boxes: dict[ImageRef, dict[str, dict[Box, None]]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Labels:
        """What samples say of their photos. A box's class is the row's stratum, else its question.

        Questions about several images, views of photos and scenes are no labels of a file; chains,
        rules and questions that found nothing are no labels at all.
        """
        labels = cls()
        for sample in samples:
            (image, *more) = sample.images
            if more or split_view(image.path)[1] or not is_file_path(image.path):
                kind = "questions about several images" if more else "views and scenes"
                labels.left_out[kind] += 1
                continue
            name = sample.strata.get("class")
            labels.left_out["questions, as class names"] += name is None
            labels.left_out["chains of thought"] += sample.think is not None
            labels.left_out["detectors' boxes"] += sample.tool_results is not None
            own = labels.boxes.setdefault(image, {})
            marked = own.setdefault(name or sample.question, {})
            for box in sample.boxes:
                marked[box] = None
        return labels

    @property
    def classes(self) -> list[str]:
        """All classes, in the order of their first question."""
        return list(dict.fromkeys(name for own in self.boxes.values() for name in own))

    def of_image(self, image: ImageRef) -> list[tuple[str, Box]]:
        """The classes and boxes of one photo."""
        return [(name, box) for name, boxes in self.boxes[image].items() for box in boxes]


Written = Counter[str]
"""What a format could not hold, and how often."""


def coco(samples: Sequence[Sample], out: Path) -> Written:
    """COCO instances; names of files are relative to the folder of ``out``."""
    content, labels = instances(samples, out.parent.resolve())
    write_json(out, content)
    return labels.left_out


def instances(samples: Sequence[Sample], folder: Path) -> tuple[dict[str, Any], Labels]:
    """COCO's tables of what samples say, files named from ``folder``, and the labels in them.

    Photos and classes have the numbers of their places in the labels, from 1.
    """
    labels = Labels.of(samples)
    numbers = {name: number for number, name in enumerate(labels.classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for key, image in enumerate(labels.boxes, start=1):
        name = path_from(folder, image.path)
        sides = {"width": image.width, "height": image.height}
        images.append({"id": key, "file_name": name} | sides)
        for label, box in labels.of_image(image):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": key,
                    "category_id": numbers[label],
                    "bbox": coco_box(box),
                    "area": box.area,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}, labels


def yolo(samples: Sequence[Sample], out: Path) -> Written:
    """A folder with data.yaml, ``labels/`` and, in ``images/``, links to the photos."""
    labels = Labels.of(samples)
    if out.exists() and not (out / "data.yaml").is_file():
        raise DataError(f"{out}: exists and is no YOLO data set; name a new folder")
    numbers = {name: number for number, name in enumerate(labels.classes)}
    with whole(out) as folder:
        for name, image in _file_names(labels.boxes).items():
            lines = [
                f"{numbers[label]} {_share(box.cx, image.width)} {_share(box.cy, image.height)} "
                f"{_share(box.width, image.width)} {_share(box.height, image.height)}\n"
                for label, box in labels.of_image(image)
            ]
            text = folder / "labels" / PurePosixPath(name).with_suffix(".txt")
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("".join(lines))
            link = folder / "images" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(image.path).resolve())
        names = {number: name for name, number in numbers.items()}
        (folder / "data.yaml").write_text(
            dump_yaml({"path": ".", "train": "images", "val": "images", "names": names})
        )
    return labels.left_out


def label_studio(samples: Sequence[Sample], out: Path) -> Written:
    """Tasks for Label Studio, whose local files are below the folder of ``out``."""
    labels = Labels.of(samples)
    folder = out.parent.resolve()
    tasks = []
    for image in labels.boxes:
        result = [region(box, label) for label, box in labels.of_image(image)]
        name = f"/data/local-files/?d={path_from(folder, image.path)}"
        tasks.append({"data": {"image": name}, "annotations": [{"result": result}]})
    write_json(out, tasks)
    return labels.left_out


def chat(samples: Sequence[Sample], out: Path) -> Written:
    """ShareGPT's conversations, boxes as JSON in pixels of the photo (``--box-frame original``)."""
    return _rows(samples, out, _conversation)


def ms_swift(samples: Sequence[Sample], out: Path) -> Written:
    """ms-swift's messages with ``objects``, boxes in pixels of the photo."""
    return _rows(samples, out, _messages)


WRITERS: Mapping[str, Callable[[Sequence[Sample], Path], Written]] = {
    "coco": coco,
    "yolo": yolo,
    "label_studio": label_studio,
    "chat": chat,
    "ms_swift": ms_swift,
}


def export(name: str, samples: Sequence[Sample], out: Path) -> Written:
    """Write samples in the format ``name``, whole or not at all; returns what it cannot hold.

    Raises ``DataError`` for an unknown format, and where nothing is left.
    """
    if name not in WRITERS:
        raise DataError(f"unknown format {name!r}; {did_you_mean(name, WRITERS)}")
    with locked(out):
        return +WRITERS[name](samples, out)


# ---- parts -------------------------------------------------------------------------------------


def _file_names(images: Mapping[ImageRef, Any]) -> dict[str, ImageRef]:
    """Each photo under its path from the folder that all share."""
    paths = [os.path.realpath(image.path) for image in images]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else "/"
    return {
        PurePosixPath(path).relative_to(shared).as_posix(): image
        for path, image in zip(paths, images, strict=True)
    }


def _share(value: float, side: int) -> str:
    return f"{value / side:.6f}"


def _rows(
    samples: Sequence[Sample], out: Path, row: Callable[[Sample, Path, Counter[str]], Any]
) -> Written:
    left_out: Counter[str] = Counter()
    folder = out.parent.resolve()
    made = []
    for sample in samples:
        paths = [image.path for image in sample.images]
        if any(split_view(path)[1] or not is_file_path(path) for path in paths):
            left_out["views and scenes"] += 1
            continue
        if found := _PLACEHOLDER.search(f"{sample.question} {sample.think}"):
            left_out[f"texts with {found[0]}, a placeholder"] += 1
            continue
        left_out["detectors' boxes"] += sample.tool_results is not None
        made.append(row(sample, folder, left_out))
    if not made:
        why = ", ".join(f"{count} x {kind}" for kind, count in left_out.items())
        raise DataError(f"{out}: nothing to write; left out: {why or 'no rows'}")
    if out.suffix == ".json":
        write_json(out, made)
    else:
        write_lines(out, map(json_line, made))
    return left_out


def _conversation(sample: Sample, folder: Path, left_out: Counter[str]) -> dict[str, Any]:
    left_out["boxes in other images"] += len(sample.targets) - len(sample.boxes)
    boxes = [{"bbox_2d": [*map(_short, box.xyxy)]} for box in sample.boxes]
    turns = [
        {"from": "human", "value": _asked(sample)},
        {"from": "gpt", "value": _thought(sample) + json.dumps(boxes)},
    ]
    return _about(sample, folder) | {"conversations": turns}


def _messages(sample: Sample, folder: Path, left_out: Counter[str]) -> dict[str, Any]:
    left_out["questions that nothing answers"] += not sample.targets
    turns = [
        {"role": "user", "content": _asked(sample)},
        {"role": "assistant", "content": _thought(sample) + "<bbox>" * len(sample.targets)},
    ]
    objects = {
        "ref": [],
        "bbox": [[*map(_short, target.box.xyxy)] for target in sample.targets],
        "bbox_type": "real",
        "image_id": [target.image for target in sample.targets],
    }
    return _about(sample, folder) | {"messages": turns, "objects": objects}


def _about(sample: Sample, folder: Path) -> dict[str, Any]:
    paths = [path_from(folder, image.path) for image in sample.images]
    return {"id": sample.id, "images": paths}


def _asked(sample: Sample) -> str:
    return IMAGE * len(sample.images) + sample.question


def _thought(sample: Sample) -> str:
    return f"<think>{sample.think}</think>" if sample.think else ""


def _short(value: float) -> float:
    return round(value, 2)
