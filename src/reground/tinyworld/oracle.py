"""A detector that knows the truth and errs by numbers: weak and strong tools without weights."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from reground.config import NotNegative, Share, config, dump, load
from reground.errors import ConfigError, did_you_mean
from reground.grounding.answers import RIGHT
from reground.grounding.boxes import Box, Frame, iou
from reground.grounding.sample import Detection, Sample
from reground.rollout.tools.tool import Request, ToolError
from reground.tinyworld.scenes import PREFIX, scene

_TRIES = 40  # to find a box that is as right or as wrong as it must be


@config
class Quality:
    """How good the oracle is.

    ``right`` is the share of samples whose true boxes it finds. The others are divided by weight:
    ``wrong`` points at another object, ``hallucinated`` at none, ``missing`` finds nothing.
    ``jitter`` is the standard deviation of each edge, in sides of the box; a right box stays above
    IoU 0.5. In a share ``several`` of the answers with an object, one or two other objects are
    found besides. ``label`` is written on every box; none where it is empty.
    """

    right: Share = 0.5
    wrong: NotNegative = 0.5
    hallucinated: NotNegative = 0.3
    missing: NotNegative = 0.2
    several: Share = 0.1
    jitter: NotNegative = 0.08
    label: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.wrong == self.hallucinated == self.missing == 0:
            raise ValueError("wrong, hallucinated and missing cannot all be 0")


PRESETS = {"weak": (), "strong": ("right=0.9", "several=0.05", "jitter=0.04")}


@dataclass(frozen=True, slots=True)
class Oracle:
    """Answers from a sample's true boxes, spoilt as ``quality`` says.

    An answer depends on the sample's id and the seed alone. Other objects are those of the scene,
    or, in photos, the true boxes of the other samples about the same image.
    """

    name: ClassVar = "oracle"
    by_image: ClassVar = False  # it answers for a sample, whatever its image shows

    quality: Quality
    others: dict[str, list[Box]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, samples: Iterable[Sample] = ()) -> Oracle:
        """An oracle as ``weak``, ``strong``, ``right=0.7,jitter=0.05`` or ``strong,seed=3``.

        ``samples`` are the data whose boxes stand in for other objects. Raises ``ConfigError``.
        """
        first, *rest = (text or "weak").split(",")
        if "=" not in first and first not in PRESETS:
            raise ConfigError(f"unknown oracle {first!r}; {did_you_mean(first, PRESETS)}")
        overrides = [*PRESETS.get(first, (first,)), *rest]
        return cls(load(Quality, overrides=overrides), _boxes_by_image(samples))

    @property
    def settings(self) -> str:
        """Its quality, as YAML."""
        return dump(self.quality)

    def detect(self, requests: Sequence[Request]) -> list[tuple[Detection, ...] | ToolError]:
        """A noisy answer to each sample's own question, the surest box first."""
        return [self._answer(request.sample) for request in requests]

    def _answer(self, sample: Sample) -> tuple[Detection, ...]:
        rng = random.Random(f"{self.quality.seed}/{sample.id}")
        truth = [each.box for each in sample.targets if each.image == sample.target_image]
        rivals = [
            box for box in self._objects(sample) if all(iou(box, true) <= RIGHT for true in truth)
        ]
        boxes = self._found(rng, sample, truth, rivals)
        if boxes and rivals and rng.random() < self.quality.several:
            some = rng.sample(rivals, min(len(rivals), rng.randint(1, 2)))
            boxes += [_shaken(rng, box, self.quality.jitter) for box in some]
            boxes = list(dict.fromkeys(boxes))
            rng.shuffle(boxes)
        scores = sorted((round(rng.uniform(0.3, 0.95), 3) for _ in boxes), reverse=True)
        label = self.quality.label or None
        return tuple(
            Detection(sample.target_image, box, label, score)
            for box, score in zip(boxes, scores, strict=True)
        )

    def _found(
        self, rng: random.Random, sample: Sample, truth: Sequence[Box], rivals: Sequence[Box]
    ) -> list[Box]:
        quality = self.quality
        if rng.random() < quality.right:
            return [_right(rng, box, quality.jitter) for box in truth]
        kinds = {"wrong": quality.wrong, "none": quality.hallucinated, "missing": quality.missing}
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        if kind == "missing" and truth:
            return []
        if kind == "wrong" and rivals:
            return [_shaken(rng, rng.choice(rivals), quality.jitter)]
        return _nowhere(rng, sample.images[sample.target_image].frame, [*truth, *rivals])

    def _objects(self, sample: Sample) -> Sequence[Box]:
        path = sample.images[sample.target_image].path
        if path.startswith(PREFIX):
            return [each.box for each in scene(path).objects]
        return self.others.get(path, [])


def _boxes_by_image(samples: Iterable[Sample]) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = defaultdict(list)
    for sample in samples:
        for target in sample.targets:
            found[sample.images[target.image].path].append(target.box)
    return found


def _shaken(rng: random.Random, box: Box, jitter: float) -> Box:
    """The box with its edges moved, in whole pixels, inside the image and with an area."""
    x1, y1, x2, y2 = (
        float(round(edge + rng.gauss(0, jitter) * side))
        for edge, side in zip(box.xyxy, 2 * (box.width, box.height), strict=True)
    )
    moved = Box(x1, y1, x2, y2, box.frame).clipped()
    return box if moved.is_degenerate else moved


def _right(rng: random.Random, box: Box, jitter: float) -> Box:
    moved = (_shaken(rng, box, jitter) for _ in range(_TRIES))
    return next((each for each in moved if iou(each, box) > RIGHT), box)


def _nowhere(rng: random.Random, frame: Frame, objects: Sequence[Box]) -> list[Box]:
    """A box of a usual size where no object is; none where there is no room."""
    for _ in range(_TRIES):
        width, height = (side * rng.uniform(0.14, 0.38) for side in (frame.width, frame.height))
        x, y = rng.uniform(0, frame.width - width), rng.uniform(0, frame.height - height)
        box = Box(round(x), round(y), round(x + width), round(y + height), frame).clipped()
        if all(iou(box, other) < 0.1 for other in objects) and not box.is_degenerate:
            return [box]
    return []
