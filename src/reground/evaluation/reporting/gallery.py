"""The examples that a report shows: which ones, and their images made small enough to embed."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from reground.data import images
from reground.errors import DataError
from reground.evaluation.records import XYXY, SampleScore
from reground.evaluation.scoring.metrics import Outcome
from reground.evaluation.scoring.refinement import ToolOutcome, best_iou, tool_iou
from reground.grounding.sample import Detection, ImageRef, Sample

_MAX_SIDE = 560  # pixels of an embedded image
_CRISP_SIDE = 256  # smaller images are kept exactly (PNG) and enlarged without blur


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of an example: a data URI, or the ``problem`` because of which there is none.

    ``width`` and ``height`` are those of the original, so that boxes are drawn in its pixels.
    """

    label: str
    width: int
    height: int
    is_target: bool
    uri: str | None = None
    problem: str | None = None

    @property
    def is_crisp(self) -> bool:
        """Whether the image is so small that enlarging should keep its pixels square."""
        return max(self.width, self.height) <= _CRISP_SIDE


@dataclass(frozen=True, slots=True)
class ToolBox:
    """A detector's box in original pixels of picture ``image``, with its label and score.

    ``iou`` is None on another picture than the target. A box that cannot be seen there has a
    ``problem``.
    """

    image: int
    xyxy: XYXY
    name: str
    iou: float | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """One drawn sample of the gallery; ``truth`` is in original pixels of the target picture.

    ``tool_outcome`` is what became of the detector's box, where there is one.
    """

    score: SampleScore
    outcome: Outcome
    pictures: tuple[Picture, ...]
    tool_outcome: ToolOutcome | None = None

    @property
    def truth(self) -> tuple[XYXY, ...]:
        """The true boxes."""
        return tuple(box.xyxy for box in self.score.sample.boxes)

    @property
    def tool_boxes(self) -> tuple[ToolBox, ...] | None:
        """The detector's boxes; None where no detector was asked."""
        sample = self.score.sample
        if sample.tool_results is None:
            return None
        return tuple(_tool_box(found, sample) for found in sample.tool_results)

    @property
    def tool_iou(self) -> float:
        """IoU of the best of the detector's boxes, as it counts in the figures."""
        return tool_iou(self.score.sample)


class Candidates:
    """Of the scores that it is given, those that a choice of ``count`` may fall on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kinds: dict[Hashable, list[SampleScore]] = {}

    def add(self, score: SampleScore, kind: Hashable) -> None:
        """Take a score in, of a ``kind`` of which no more than ``count`` are ever chosen."""
        own = self._kinds.setdefault(kind, [])
        own.append(score)
        if len(own) > 4 * self._count + 16:
            own[:] = heapq.nsmallest(self._count, own, key=_digest)

    def scores(self) -> list[SampleScore]:
        """The first ``count`` of every kind, and some more."""
        return [score for own in self._kinds.values() for score in own]


def choose(
    scores: Sequence[SampleScore], *, count: int, outcome: Callable[[SampleScore], Outcome]
) -> list[SampleScore]:
    """At most ``count`` scores, half of them hits, and every other outcome in turn.

    The choice and its order follow a hash of the sample ids: it is the same for every model, and
    nobody picked it.
    """
    ordered = sorted(scores, key=_digest)
    outcomes = {score.sample.id: outcome(score) for score in ordered}
    hits = [score for score in ordered if outcomes[score.sample.id] is Outcome.HIT]
    missed = [score for score in ordered if outcomes[score.sample.id] is not Outcome.HIT]
    others = _in_turn(missed, outcomes)
    num_hits = min(len(hits), max(count // 2, count - len(others)))
    return sorted(hits[:num_hits] + others[: count - num_hits], key=_digest)


def choose_in_turn(
    scores: Sequence[SampleScore], kinds: Mapping[str, Hashable], *, count: int
) -> list[SampleScore]:
    """At most ``count`` scores, every kind of ``kinds`` (by sample id) in turn, as hashes fall."""
    ordered = sorted(scores, key=_digest)
    return sorted(_in_turn(ordered, kinds)[:count], key=_digest)


def draw(
    score: SampleScore, *, outcome: Outcome, tool_outcome: ToolOutcome | None = None
) -> Example:
    """An example with its images embedded; an image that cannot be read is said, not dropped."""
    sample = score.sample
    pictures = tuple(
        _picture(image, label=f"image {index + 1}", is_target=index == sample.target_image)
        for index, image in enumerate(sample.images)
    )
    return Example(score, outcome, pictures, tool_outcome)


def _digest(score: SampleScore) -> str:
    return hashlib.sha256(score.sample.id.encode()).hexdigest()


def _in_turn(scores: Sequence[SampleScore], kinds: Mapping[str, Hashable]) -> list[SampleScore]:
    seen: Counter[Hashable] = Counter()
    rounds = []
    for score in scores:
        kind = kinds[score.sample.id]
        rounds.append(seen[kind])
        seen[kind] += 1
    return [scores[index] for index in sorted(range(len(scores)), key=rounds.__getitem__)]


def _tool_box(found: Detection, sample: Sample) -> ToolBox:
    box, problem = found.box, None
    if box.is_degenerate:
        problem = "no area, not drawn"
    elif box.clipped().is_degenerate:
        problem = "outside the image, not drawn"
    score = "" if found.score is None else f"{found.score:.2f}"
    iou = best_iou(box, sample) if found.image == sample.target_image else None
    return ToolBox(found.image, box.xyxy, f"{found.label or ''} {score}".strip(), iou, problem)


def _picture(image: ImageRef, *, label: str, is_target: bool) -> Picture:
    try:
        uri, problem = _data_uri(images.load(image)), None
    except DataError as error:
        uri, problem = None, str(error)
    return Picture(label, image.width, image.height, is_target, uri, problem)


def _data_uri(image: Image.Image) -> str:
    is_crisp = max(image.size) <= _CRISP_SIDE
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    out = io.BytesIO()
    image.save(out, format="PNG" if is_crisp else "JPEG", quality=82, optimize=True)
    kind = "png" if is_crisp else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
