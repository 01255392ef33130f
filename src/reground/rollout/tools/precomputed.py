"""A tool that answers with the boxes that a detector found beforehand, which samples hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reground.errors import DataError
from reground.grounding.sample import Detection, Sample
from reground.rollout.tools.cleaning import clean
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


def _stored(sample: Sample) -> tuple[Detection, ...] | ToolError:
    if sample.tool_results is None:
        return ToolError(_missing(sample))
    return sample.detections


def _missing(sample: Sample) -> str:
    return (
        f"sample {sample.id!r} has no tool_results, which the tool 'precomputed' reads; "
        "fill them in with `reground tool run`, or leave the sample out"
    )
