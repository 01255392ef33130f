"""Boxes that a detector found beforehand: reading them from samples, and filling them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from reground.errors import DataError, UserError
from reground.grounding.sample import Detection, Sample
from reground.patience import Patience
from reground.rollout.tools.cleaning import clean
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, ToolError


@dataclass(frozen=True, slots=True)
class Precomputed:
    """Answers with the ``tool_results`` of the sample that is asked about."""

    @property
    def name(self) -> str:
        """``precomputed``."""
        return "precomputed"

    @property
    def settings(self) -> str:
        """The column it reads."""
        return "tool_results"

    @property
    def by_image(self) -> bool:
        """False: two samples about one image have boxes of their own."""
        return False

    def detect(self, requests: Sequence[Request]) -> list[tuple[Detection, ...] | ToolError]:
        """The stored boxes in each sample's target image, whatever the expression."""
        return [_stored(request.sample) for request in requests]


def check(samples: Iterable[Sample]) -> None:
    """Raise ``DataError`` that names the first sample without stored boxes."""
    for sample in samples:
        if sample.tool_results is None:
            raise DataError(_missing(sample))


def result(sample: Sample) -> tuple[Detection, ...] | None:
    """The reply that a runner before :class:`Precomputed` gives; None for one with a problem."""
    found = _stored(sample)
    return None if isinstance(found, ToolError) else clean(found, sample, Counter())


def fill(samples: Sequence[Sample], runner: ToolRunner, *, at_a_time: int) -> Iterator[Filled]:
    """Each sample with what the tool says to its question, ``at_a_time`` asked together.

    Raises ``UserError`` where too many samples in a row got no answer.
    """
    patience = Patience("samples", "the tool", UserError)
    for start in range(0, len(samples), at_a_time):
        part = samples[start : start + at_a_time]
        replies = runner.ask([Request(sample, sample.question) for sample in part])
        for sample, reply in zip(part, replies, strict=True):
            boxes = reply.detections if reply.problem is None else None
            yield Filled(replace(sample, tool_results=boxes), reply.problem)
            patience.note(reply.problem)


@dataclass(frozen=True, slots=True)
class Filled:
    """A sample with a detector's boxes; where it gave none there are no ``tool_results``, but why.

    No result is not the same as no box: a sample that keeps None is refused by :func:`check`.
    """

    sample: Sample
    problem: str | None


def _stored(sample: Sample) -> tuple[Detection, ...] | ToolError:
    if sample.tool_results is None:
        return ToolError(_missing(sample))
    return sample.detections


def _missing(sample: Sample) -> str:
    return (
        f"sample {sample.id!r} has no tool_results, which the tool 'precomputed' reads; "
        "fill them in with `reground tool run`, or leave the sample out"
    )
