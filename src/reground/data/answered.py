"""An answer to a question about images: as a picture, and in the forms of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from reground.data.images import shown_as
from reground.data.regions import coco_result, prediction
from reground.data.show import picture
from reground.errors import ConfigError, DataError
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import as_array
from reground.grounding.confidence import unless_unsure
from reground.grounding.sample import Detection, Sample, Target
from reground.io import whole, write_json

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, slots=True)
class Grounding:
    """One answer: what was parsed, the text it was parsed from, and the question.

    ``scores`` say how sure the model was of each of the answer's boxes: the geometric mean
    probability of the tokens of its numbers, None where they cannot be told apart. ``sample`` is
    the question, its target image the one that the answer is about; ``images`` are those that were
    given, paths or pictures, none where only the sample knows where they are. The model sampled
    ``num_tokens`` after a prompt of ``num_read``, and ``is_cut`` says that it came to their limit.
    ``first`` are the boxes of its first thought, where it was asked for them and then called for a
    detector's: what it answers right after that thought. None where there are none to tell.

    >>> from reground.grounding.boxes import Box
    >>> from reground.grounding.sample import ImageRef
    >>> sample = Sample("0", (ImageRef("photo.jpg", 640, 480),), "the cup", (), "ground")
    >>> box = Box(64, 120, 320, 360, sample.images[0].frame)
    >>> found = Grounding(Answer(Status.OK, (box,)), "(100,250),(500,750)", sample, (0.9,))
    >>> found.to_coco(image_id=7)
    [{'image_id': 7, 'category_id': 1, 'bbox': [64, 120, 256, 240], 'score': 0.9}]
    >>> found.to_label_studio()["result"][0]["value"]["x"]
    10.0
    >>> detections = found.to_supervision()
    >>> detections.xyxy.tolist(), detections.data["class_name"].tolist()
    ([[64.0, 120.0, 320.0, 360.0]], ['the cup'])
    >>> replace(found, images=(Image.new("RGB", (640, 480)),)).plot().size
    (427, 348)
    """

    answer: Answer
    text: str
    sample: Sample
    scores: tuple[float | None, ...] = ()
    images: tuple[str | Path | Image.Image, ...] = ()
    num_tokens: int = 0
    is_cut: bool = False
    num_read: int = 0
    first: tuple[Detection, ...] | None = None

    @property
    def image(self) -> int:
        """The image that the boxes are in, from 0."""
        return self.sample.target_image

    @property
    def tool(self) -> tuple[Detection, ...] | None:
        """The boxes that a detector gave beforehand, in original pixels; None without one."""
        return self.sample.tool_results

    def at_least(self, min_score: float | None) -> Grounding:
        """The same; an abstention without boxes where one of these is less sure than that."""
        answer = unless_unsure(self.answer, self.scores, min_score)
        return self if answer is self.answer else replace(self, answer=answer, scores=())

    def with_first(self, early: Grounding) -> Grounding:
        """The same, with the boxes of an ``early`` answer as those of its first thought."""
        if early.answer.status is not Status.OK:
            return self
        scored = zip(early.answer.boxes, early._scores, strict=True)
        first = tuple(Detection(early.image, box, score=score) for box, score in scored)
        return replace(self, first=first)

    def plot(self, *, font: Path | None = None) -> Image.Image:
        """The images 320 pixels high, with the boxes in orange and their scores.

        A detector's boxes are blue, those of the first thought purple. Below are the question and
        why there is no box. Raises ``DataError`` where an image cannot be read.
        """
        answer = self.answer
        why = "nothing is there" if answer.status is Status.OK else f"no box: {answer.status}"
        return picture(
            replace(self.sample, id="answer", think=None if answer.boxes else why),
            predicted=[Target(self.image, box) for box in answer.boxes],
            scores=self._scores,
            first=self.first or (),
            images=[*map(shown_as, self.images)],
            font=font,
        )

    def save(self, path: str | Path, *, font: Path | None = None) -> None:
        """Write :meth:`plot` as a picture, or :meth:`to_json`, as the suffix says: all or nothing.

        Raises ``DataError`` for a suffix that is neither, and where an image cannot be read.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            write_json(path, self.to_json())
        else:
            _save_picture(self.plot(font=font), path)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it, boxes as [x1, y1, x2, y2] in pixels to two decimals."""
        answer = self.answer
        record = {
            "image": self.image,
            "path": self.sample.images[self.image].path or None,
            "boxes": [_rounded(box.xyxy) for box in answer.boxes],
            "scores": [*self._scores],
            "status": answer.status.value,
            "tool": _listed(self.tool),
            "first": _listed(self.first),
            "think": answer.think,
            "rethink": answer.rethink,
            "text": self.text,
        }
        return {key: value for key, value in record.items() if value is not None}

    def to_supervision(self) -> supervision.Detections:
        """The boxes as ``supervision.Detections``: ``xyxy`` in pixels, ``confidence`` and names.

        ``data["class_name"]`` is the question's text. ``confidence`` is None where a box has no
        score. Raises ``ConfigError`` without the package.
        """
        try:
            import supervision
        except ImportError:
            raise ConfigError(
                "supervision is not installed; pip install supervision, or use to_json()"
            ) from None
        scores = self._scores
        return supervision.Detections(
            xyxy=as_array(self.answer.boxes),
            confidence=None if None in scores else np.array(scores, dtype=np.float64),
            class_id=np.zeros(len(scores), dtype=int),  # annotators colour by it
            data={"class_name": np.array([self.sample.question] * len(scores), dtype=str)},
        )

    def to_coco(self, *, image_id: int = 1, category_id: int = 1) -> list[dict[str, Any]]:
        """The boxes as COCO's results, one each; the score is 1 where the model gives none."""
        return [
            coco_result(box, score, image_id=image_id, category_id=category_id)
            for box, score in zip(self.answer.boxes, self._scores, strict=True)
        ]

    def to_label_studio(
        self,
        *,
        label: str | None = None,
        model_version: str = "reground",
        from_name: str = "label",
        to_name: str = "image",
    ) -> dict[str, Any]:
        """The boxes as a prediction of Label Studio, in percent of the image.

        ``label`` is the question's text unless it is given. The names are those of the tags in the
        project's labelling config.
        """
        return prediction(
            self.answer.boxes,
            self._scores,
            label=label or self.sample.question,
            model_version=model_version,
            from_name=from_name,
            to_name=to_name,
        )

    @property
    def _scores(self) -> tuple[float | None, ...]:
        """One for each box."""
        return self.scores or (None,) * len(self.answer.boxes)


def _save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture in the format of the suffix, whole or not at all.

    Raises ``DataError`` for a suffix that no format has.
    """
    known = Image.registered_extensions()
    name = known.get(path.suffix.lower())
    if name not in Image.SAVE:
        raise DataError(
            f"{path}: found {path.suffix or 'no suffix'}, expected .json or that of a picture, "
            "such as .png or .jpg"
        )
    with whole(path) as partial:
        image.save(partial, format=name)


def _listed(found: Sequence[Detection] | None) -> list[dict[str, Any]] | None:
    if found is None:
        return None
    return [
        {"box": _rounded(each.box.xyxy), "label": each.label, "score": each.score} for each in found
    ]


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 2) for number in numbers]
