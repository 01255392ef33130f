"""The one kind of example that every part of ReGround reads: images, a question, target boxes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from reground import io
from reground.errors import DataError, did_you_mean
from reground.grounding.boxes import Box, Frame
from reground.grounding.names import PROTOCOLS, ProtocolName
from reground.plugins import installed


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Where an image is, and its size in pixels (after EXIF rotation).

    ``path`` is a file path, or ``SCHEME:REST`` for an image that an installed package makes when
    it is loaded (entry points ``reground.sources``).
    """

    path: str
    width: int
    height: int

    @property
    def frame(self) -> Frame:
        """The pixel frame of this image."""
        return Frame.pixels(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Target:
    """A true box, in original pixels of ``images[image]`` of its sample."""

    image: int
    box: Box


@dataclass(frozen=True, slots=True)
class Detection:
    """A box that a detector found, in original pixels of ``images[image]`` of its sample.

    ``label`` and ``score`` are the detector's own, where it gives them; nobody has checked them.
    """

    image: int
    box: Box
    label: str | None = None
    score: float | None = None


SpanKind = Literal["phrase", "box"]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` of a question: a phrase to find, or a box that it names."""

    start: int
    end: int
    kind: SpanKind


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one or more images.

    ``targets`` may be empty: nothing in the images fits. ``think`` is a reasoning chain for
    supervised training; ``difficulty`` is in [0, 1], higher is harder; ``strata`` are named groups
    by which reports split; ``rethink`` is what the chain says once it has seen a detector's boxes;
    ``tool_results`` are the boxes that a detector gave, the surest first;
    None where no detector was asked, which is not the same as an empty list. ``protocol`` is the
    one that the row is asked under, where it is not that of its run. ``spans`` are what the
    question marks, in order: models may have special tokens around it, which a prompt then puts
    there.
    """

    id: str
    images: tuple[ImageRef, ...]
    question: str
    targets: tuple[Target, ...]
    task: str
    target_image: int = 0
    think: str | None = None
    difficulty: float | None = None
    strata: Mapping[str, str] = field(default_factory=dict)
    tool_results: tuple[Detection, ...] | None = None
    rethink: str | None = None
    protocol: ProtocolName | None = None
    spans: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            hint = did_you_mean(str(self.protocol), PROTOCOLS)
            raise DataError(f"sample {self.id!r}: unknown protocol {self.protocol!r}; {hint}")
        for name in ("think", "rethink"):
            if not isinstance(getattr(self, name), str | None):
                raise DataError(
                    f"sample {self.id!r}: {name} is {getattr(self, name)!r}, expected a text"
                )
        if not isinstance(self.difficulty, float | int | None):
            raise DataError(
                f"sample {self.id!r}: difficulty is {self.difficulty!r}, expected a number from 0 "
                "to 1"
            )
        edges = [edge for span in self.spans for edge in (span.start, span.end)]
        if edges != sorted(edges) or not all(0 <= edge <= len(self.question) for edge in edges):
            raise DataError(
                f"sample {self.id!r}: spans {[list(astuple(span)) for span in self.spans]} of a "
                f"question of {len(self.question)} characters; expected [start, end, kind] in "
                "order, inside it"
            )
        marks: list[Target | Detection] = [*self.targets, *(self.tool_results or ())]
        indices = [self.target_image, *(mark.image for mark in marks)]
        wrong = [index for index in indices if not 0 <= index < len(self.images)]
        if wrong:
            raise DataError(
                f"sample {self.id!r}: image index {wrong[0]} with {len(self.images)} images; "
                "indices count from 0 and every sample needs an image"
            )
        for mark in marks:
            if mark.box.frame != (expected := self.images[mark.image].frame):
                raise DataError(
                    f"sample {self.id!r}: a box of images[{mark.image}] is in {mark.box.frame}, "
                    f"expected the image's own pixels, {expected}; convert it with .to()"
                )

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The true boxes in the target image, in its original pixels; see :meth:`boxes_in`."""
        return self.boxes_in(self.target_image)

    def boxes_in(self, image: int) -> tuple[Box, ...]:
        """The true boxes in ``images[image]``: a sample may have some in several images."""
        return tuple(target.box for target in self.targets if target.image == image)

    @property
    def detections(self) -> tuple[Detection, ...]:
        """What a detector found in the target image; empty, too, where none was asked."""
        return tuple(each for each in self.tool_results or () if each.image == self.target_image)

    def to_json(self) -> dict[str, Any]:
        """The sample as one JSON object, with boxes as [x1, y1, x2, y2] in original pixels."""
        row: dict[str, Any] = {
            "id": self.id,
            "images": [
                {"path": image.path, "width": image.width, "height": image.height}
                for image in self.images
            ],
            "question": self.question,
            "targets": [_mark_to_json(each) for each in self.targets],
            "task": self.task,
            "target_image": self.target_image,
        }
        optional = {
            "think": self.think,
            "rethink": self.rethink,
            "difficulty": self.difficulty,
            "strata": dict(self.strata) or None,
            "protocol": self.protocol,
            "spans": [list(astuple(span)) for span in self.spans] or None,
            "tool_results": None
            if self.tool_results is None
            else [_mark_to_json(each) for each in self.tool_results],
        }
        return row | {key: value for key, value in optional.items() if value is not None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Sample:
        """The inverse of :meth:`to_json`; raises ``DataError`` that names the bad field."""
        if not isinstance(row, Mapping):
            raise DataError(
                f"found {type(row).__name__}, expected an object with the fields of a row"
            )
        known = {*cls.__dataclass_fields__}
        if unknown := sorted(set(row) - known):
            raise DataError(f"unknown field {unknown[0]!r}; a row has {', '.join(sorted(known))}")
        try:
            images = tuple(
                ImageRef(str(image["path"]), int(image["width"]), int(image["height"]))
                for image in row["images"]
            )
            tools = row.get("tool_results")
            return cls(
                id=str(row["id"]),
                images=images,
                question=str(row["question"]),
                targets=tuple(_target_from_json(each, images) for each in row["targets"]),
                task=str(row["task"]),
                target_image=int(row.get("target_image", 0)),
                think=row.get("think"),
                rethink=row.get("rethink"),
                difficulty=row.get("difficulty"),
                strata=dict(row.get("strata", {})),
                protocol=row.get("protocol"),
                spans=tuple(_span_from_json(each) for each in row.get("spans", [])),
                tool_results=None
                if tools is None
                else tuple(_detection_from_json(each, images) for each in tools),
            )
        except KeyError as error:
            raise DataError(f"field {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            raise DataError(f"a field has the wrong form: {error}") from None


def is_file_path(path: str) -> bool:
    """Whether a path is a file's, and does not begin with the scheme of an installed source."""
    return path.partition(":")[0] not in installed("sources")


def read_jsonl(path: Path) -> Iterator[Sample]:
    """Samples of a canonical JSONL; image paths are taken relative to the file's folder.

    Raises ``DataError`` naming the file and line of the first row that is no sample.
    """
    samples = io.read_jsonl(
        path,
        Sample.from_json,
        expected="a JSONL as `reground data convert` writes",
        advice="mend the row, or let `reground data validate` set such rows aside",
    )
    return (relocated(sample, path.parent) for sample in samples)


def write_jsonl(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples, one a line, whole or not at all; returns how many."""
    return io.write_lines(path, (io.json_line(sample.to_json()) for sample in samples))


def relocated(sample: Sample, folder: Path) -> Sample:
    """The sample with ``folder`` before the relative paths of its images."""
    return with_paths(sample, lambda path: str(folder / path))


def with_paths(sample: Sample, change: Callable[[str], str]) -> Sample:
    """The sample with every path of an image file as ``change`` makes it."""
    images = tuple(
        replace(image, path=change(image.path)) if is_file_path(image.path) else image
        for image in sample.images
    )
    return replace(sample, images=images)


def asked(sample: Sample) -> dict[str, Any]:
    """What a sample asks and holds true, wherever its images lie: the same in every copy."""
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "sizes": [[image.width, image.height] for image in sample.images],
        "target_image": sample.target_image,
        "targets": [[each.image, *map(float, each.box.xyxy)] for each in sample.targets],
    }


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of what samples ask and hold true, in whatever order; tools' boxes are not counted.

    Two files of samples with the same digest are the same version of a benchmark.
    """
    rows = sorted(hashlib.sha256(_line(sample)).digest() for sample in samples)
    return hashlib.sha256(b"".join(rows)).hexdigest()


def _line(sample: Sample) -> bytes:
    own: list[Any] = [] if sample.protocol is None else [sample.protocol]
    own += [list(astuple(span)) for span in sample.spans]
    return json.dumps([*asked(sample).values(), *own]).encode()


def _mark_to_json(mark: Target | Detection) -> dict[str, Any]:
    row = {"image": mark.image, "box": [float(edge) for edge in mark.box.xyxy]}
    own = {"label": mark.label, "score": mark.score} if isinstance(mark, Detection) else {}
    return row | {key: value for key, value in own.items() if value is not None}


def _span_from_json(row: Any) -> Span:
    start, end, kind = row
    if kind not in get_args(SpanKind):
        raise DataError(f"unknown kind of span {kind!r}; {did_you_mean(kind, get_args(SpanKind))}")
    return Span(int(start), int(end), kind)


def _detection_from_json(row: Any, images: tuple[ImageRef, ...]) -> Detection:
    place = _target_from_json(row, images)
    label, score = row.get("label"), row.get("score")
    return Detection(
        place.image,
        place.box,
        label=None if label is None else str(label),
        score=None if score is None else float(score),
    )


def _target_from_json(row: Any, images: tuple[ImageRef, ...]) -> Target:
    image = int(row["image"])
    if not 0 <= image < len(images):
        raise DataError(f"a target is in image {image}, and there are {len(images)}; count from 0")
    x1, y1, x2, y2 = (float(value) for value in row["box"])
    return Target(image, Box(x1, y1, x2, y2, images[image].frame))
