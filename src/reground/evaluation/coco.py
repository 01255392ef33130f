"""An evaluation's answers in COCO's form for results, with their truth under the same ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from reground.data.export import Written, instances
from reground.data.regions import coco_result
from reground.errors import DataError
from reground.evaluation.records import SampleScore, read_scores
from reground.grounding.boxes import Box
from reground.grounding.sample import Sample
from reground.io import write_json

# Questions for every box of a class, or none: their category is the class. "the leftmost cup" is
# answered by one of several cups, so it is a category of its own.
_WHOLE = frozenset({"all", "unique", "absent"})


def write_results(folder: Path, out: Path) -> tuple[int, Path, Written]:
    """Write the answers of a scored ``folder`` to ``out``, and their truth beside it.

    A result is image_id, category_id, bbox (left, upper, width, height in pixels of the photo) and
    score: that of the box, 1 where it has none. ``pycocotools`` loads the truth as ``COCO`` and the
    results with its ``loadRes``. Returns the number of boxes, the file of the truth, and what the
    form cannot hold. Raises ``DataError`` where no answer holds a box.
    """
    scores = [replace(each, sample=_categorised(each.sample)) for each in read_scores(folder)]
    truth, labels = instances([each.sample for each in scores], out.parent.resolve())
    images = {image: number for number, image in enumerate(labels.boxes, start=1)}
    categories = {name: number for number, name in enumerate(labels.classes, start=1)}
    left_out = labels.left_out
    del left_out["chains of thought"], left_out["detectors' boxes"]
    answered = [each for each in scores if each.sample.images[0] in images]
    answered = [each for each in answered if len(each.sample.images) == 1]
    results = [
        coco_result(
            box,
            sure,
            image_id=images[score.sample.images[0]],
            category_id=categories[category_of(score.sample)],
        )
        for score, box, sure in _once(answered, left_out)
    ]
    if not results:
        raise DataError(f"{folder}: no answer about a single photo holds a box; nothing to write")
    path = out.with_name(f"{out.stem}.truth.json")
    write_json(path, truth)
    write_json(out, results)
    return len(results), path, +left_out


def category_of(sample: Sample) -> str:
    """The class that a question is about, as far as it asks for every box of it; else itself."""
    label = sample.strata.get("class")
    return label if label and sample.strata.get("rule", "all") in _WHOLE else sample.question


def _categorised(sample: Sample) -> Sample:
    return replace(sample, strata={"class": category_of(sample), "rule": "all"})


def _once(
    scores: Sequence[SampleScore], left_out: Counter[str]
) -> Iterator[tuple[SampleScore, Box, float | None]]:
    """The boxes of each answer with their scores; one of the same category in a photo once."""
    seen = set()
    for score in scores:
        (image,) = score.sample.images
        if score.error is not None:
            left_out["questions that were never answered"] += 1
        elif score.status != "ok":
            left_out[f"answers without a box that counts ({score.status})"] += 1
        own = score.scores or (None,) * len(score.predicted)
        for xyxy, sure in zip(score.predicted, own, strict=True):
            key = (image, category_of(score.sample), xyxy)
            if key not in seen:
                seen.add(key)
                yield score, Box(*xyxy, image.frame), sure
