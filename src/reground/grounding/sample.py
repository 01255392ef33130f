"""The one kind of example that every part of ReGround reads: images, a question, target boxes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from reground import io
from reground.errors import DataError, did_you_mean
from reground.grounding import fields
from reground.grounding.boxes import Box, Frame
from reground.grounding.names import PROTOCOLS, ProtocolName
from reground.grounding.paths import Move, below
from reground.plugins import installed

Measure = Callable[[str], tuple[int, int]]
"""Width and height of the image at a path; raises ``DataError``."""


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

    def to_json(self) -> list[Any]:
        """[start, end, kind]."""
        return [self.start, self.end, self.kind]


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
        if self.spans:
            self._check_spans()
        self._check_index(self.target_image)
        for mark in self.marks if self.tool_results else self.targets:
            self._check_index(mark.image)
            expected = self.images[mark.image].frame
            if mark.box.frame is not expected and mark.box.frame != expected:
                raise DataError(
                    f"sample {self.id!r}: a box of images[{mark.image}] is in {mark.box.frame}, "
                    f"expected the image's own pixels, {expected}; convert it with .to()"
                )

    def _check_index(self, image: int) -> None:
        if not 0 <= image < len(self.images):
            raise DataError(
                f"sample {self.id!r}: image index {image} with {len(self.images)} images; "
                "indices count from 0 and every sample needs an image"
            )

    def _check_spans(self) -> None:
        end, in_order = 0, True
        for span in self.spans:
            in_order = in_order and end <= span.start <= span.end
            end = span.end
        if not in_order or end > len(self.question):
            raise DataError(
                f"sample {self.id!r}: spans {[span.to_json() for span in self.spans]} of a "
                f"question of {len(self.question)} characters; expected [start, end, kind] in "
                "order, inside it"
            )

    @property
    def marks(self) -> tuple[Target | Detection, ...]:
        """The true boxes and a detector's, with their images."""
        return (*self.targets, *(self.tool_results or ()))

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

    def to_json(self, *, named: Move = str) -> dict[str, Any]:
        """The sample as one JSON object, with boxes as [x1, y1, x2, y2] in original pixels.

        Paths of files are written as ``named`` makes them.
        """
        row: dict[str, Any] = {
            "id": self.id,
            "images": [
                {
                    "path": named(image.path) if is_file_path(image.path) else image.path,
                    "width": image.width,
                    "height": image.height,
                }
                for image in self.images
            ],
            "question": self.question,
            "targets": [_mark_to_json(each) for each in self.targets],
            "task": self.task,
            "target_image": self.target_image,
        }
        for name in ("think", "rethink", "difficulty"):
            if (value := getattr(self, name)) is not None:
                row[name] = value
        if self.strata:
            row["strata"] = dict(self.strata)
        if self.protocol is not None:
            row["protocol"] = self.protocol
        if self.spans:
            row["spans"] = [span.to_json() for span in self.spans]
        if self.tool_results is not None:
            row["tool_results"] = [_mark_to_json(each) for each in self.tool_results]
        return row

    @classmethod
    def from_json(
        cls, row: Any, *, measure: Measure | None = None, placed: Move | None = None
    ) -> Sample:
        """The inverse of :meth:`to_json`; raises ``DataError`` that names the bad field.

        Paths of files become what ``placed`` makes of them, and ``measure`` gives width and height
        of images, at the path that they have then, whose rows leave them out.
        """
        if not isinstance(row, (dict, Mapping)):
            raise DataError(
                f"found {type(row).__name__}, expected an object with the fields of a row"
            )
        if not row.keys() <= _FIELDS:
            unknown, known = min(row.keys() - _FIELDS), ", ".join(sorted(_FIELDS))
            raise DataError(f"unknown field {unknown!r}; a row has {known}")
        images = tuple(
            [_image_from_json(each, measure, placed) for each in fields.objects(row, "images")]
        )
        strata = _strata_from_json(row.get("strata"))
        spans = [] if row.get("spans") is None else row["spans"]
        if not isinstance(spans, list):
            raise fields.wrong("spans", spans, "a list of [start, end, kind]")
        tools = None if row.get("tool_results") is None else fields.objects(row, "tool_results")
        return cls(
            id=fields.key(row, "id"),
            images=images,
            question=fields.text(row, "question"),
            targets=tuple(
                [_target_from_json(each, images) for each in fields.objects(row, "targets")]
            ),
            task=fields.text(row, "task"),
            target_image=fields.whole(row.get("target_image", 0), "target_image"),
            think=fields.optional_text(row, "think"),
            rethink=fields.optional_text(row, "rethink"),
            difficulty=fields.share(row, "difficulty"),
            strata=strata,
            protocol=row.get("protocol"),
            spans=tuple(map(_span_from_json, spans)),
            tool_results=None
            if tools is None
            else tuple(_detection_from_json(each, images) for each in tools),
        )


_FIELDS = Sample.__dataclass_fields__.keys()


def is_file_path(path: str) -> bool:
    """Whether a path is a file's, and does not begin with the scheme of an installed source."""
    return path.partition(":")[0] not in installed("sources")


ADVICE = "mend the row, or let `reground data validate` set such rows aside"


def read_jsonl(
    path: Path,
    *,
    measure: Measure | None = None,
    check: Callable[[Sample], None] = lambda sample: None,
) -> Iterator[Sample]:
    """Samples of a canonical JSONL; image paths are taken relative to the file's folder.

    ``measure`` gives the sides of images whose rows leave them out. Raises ``DataError`` naming the
    file and line of the first row that is no sample, or for which ``check`` raises one.
    """

    def parsed(row: Any) -> Sample:
        sample = read_row(row, path.parent, measure)
        check(sample)
        return sample

    return io.read_jsonl(
        path,
        parsed,
        expected="a JSONL as `reground data convert` writes",
        advice=ADVICE,
    )


def read_row(row: Any, folder: Path, measure: Measure | None) -> Sample:
    """The sample of a row of a JSONL in ``folder``; raises ``DataError``."""
    return Sample.from_json(row, measure=measure, placed=below(folder))


def write_jsonl(path: Path, samples: Iterable[Sample], *, named: Move = str) -> int:
    """Write samples, one a line, whole or not at all; returns how many.

    Paths of images are written as ``named`` makes them.
    """
    lines = (io.json_line(sample.to_json(named=named)) for sample in samples)
    return io.write_lines(path, lines)


def relocated(sample: Sample, folder: Path) -> Sample:
    """The sample with ``folder`` before the relative paths of its images."""
    return with_paths(sample, below(folder))


def with_paths(sample: Sample, change: Move) -> Sample:
    """The sample with every path of an image file as ``change`` makes it."""
    images = tuple(
        [
            ImageRef(change(image.path), image.width, image.height)
            if is_file_path(image.path)
            else image
            for image in sample.images
        ]
    )
    return replace(sample, images=images)


def asked(sample: Sample) -> dict[str, Any]:
    """What a sample asks and holds true, wherever its images lie: the same in every copy."""
    names = ("id", "task", "question", "sizes", "target_image", "targets")
    return dict(zip(names, _asked(sample), strict=True))


def _asked(sample: Sample) -> list[Any]:
    return [
        sample.id,
        sample.task,
        sample.question,
        [[image.width, image.height] for image in sample.images],
        sample.target_image,
        [[each.image, *map(float, each.box.xyxy)] for each in sample.targets],
    ]


def digest(samples: Iterable[Sample]) -> str:
    """SHA-256 of what samples ask and hold true, in whatever order; tools' boxes are not counted.

    Two files of samples with the same digest are the same version of a benchmark.
    """
    return digest_of(map(row_digest, samples))


def digest_of(rows: Iterable[bytes]) -> str:
    """:func:`digest` of samples by the :func:`row_digest` of each."""
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def row_digest(sample: Sample) -> bytes:
    """SHA-256 of what one sample asks and holds true."""
    return hashlib.sha256(_line(sample)).digest()


def content(samples: Iterable[Sample]) -> str:
    """SHA-256 of all that rows hold, in their order, wherever their images lie."""
    found = hashlib.sha256()
    for sample in samples:
        found.update(io.json_line(sample.to_json(named=os.path.basename)))
    return found.hexdigest()


def _line(sample: Sample) -> bytes:
    own = _asked(sample)
    if sample.protocol is not None:
        own.append(sample.protocol)
    own += [span.to_json() for span in sample.spans]
    return json.dumps(own).encode()


def _mark_to_json(mark: Target | Detection) -> dict[str, Any]:
    row = {"image": mark.image, "box": [*map(float, mark.box.xyxy)]}
    if isinstance(mark, Detection):
        own = {"label": mark.label, "score": mark.score}
        row |= {key: value for key, value in own.items() if value is not None}
    return row


def _image_from_json(
    row: fields.Row, measure: Measure | None, placed: Move | None = None
) -> ImageRef:
    path = fields.text(row, "path")
    if placed is not None and is_file_path(path):
        path = placed(path)
    width, height = row.get("width"), row.get("height")
    if measure is not None and width is None and height is None:
        return ImageRef(path, *measure(path))
    if "width" not in row or "height" not in row:
        raise DataError(f"field {'height' if 'width' in row else 'width'!r} is missing")
    return ImageRef(
        path,
        fields.whole(width, "width", at_least=1),
        fields.whole(height, "height", at_least=1),
    )


def _strata_from_json(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, (dict, Mapping)) or any(
        isinstance(group, list | dict) for group in value.values()
    ):
        raise fields.wrong("strata", value, "an object of names and groups")
    return {str(name): str(group) for name, group in value.items()}


def _span_from_json(row: Any) -> Span:
    if not isinstance(row, list) or len(row) != 3:
        raise fields.wrong("spans", row, "[start, end, kind]")
    start, end, kind = row
    if kind not in get_args(SpanKind):
        hint = did_you_mean(str(kind), get_args(SpanKind))
        raise DataError(f"unknown kind of span {kind!r:.80}; {hint}")
    return Span(fields.whole(start, "spans"), fields.whole(end, "spans"), kind)


def _detection_from_json(row: fields.Row, images: tuple[ImageRef, ...]) -> Detection:
    place = _target_from_json(row, images)
    return Detection(
        place.image,
        place.box,
        label=fields.optional_text(row, "label"),
        score=fields.number(row, "score"),
    )


def _target_from_json(row: fields.Row, images: tuple[ImageRef, ...]) -> Target:
    if "image" not in row:
        raise DataError("field 'image' is missing")
    image = fields.whole(row["image"], "image of a box")
    if image >= len(images):
        raise DataError(f"a target is in image {image}, and there are {len(images)}; count from 0")
    return Target(image, Box(*fields.edges(row, "box"), images[image].frame))
