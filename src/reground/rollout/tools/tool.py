"""What a tool is: images and an expression in, boxes with labels and scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from reground.data.images import load
from reground.grounding.sample import Detection, Sample


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a tool: ``expression`` is looked for in the target image of ``sample``.

    ``shown`` are the sample's images where somebody has loaded them already.
    """

    sample: Sample
    expression: str
    shown: tuple[Image.Image, ...] | None = None

    def image(self) -> Image.Image:
        """The target image in RGB; raises ``DataError`` as ``load`` does."""
        index = self.sample.target_image
        return self.shown[index] if self.shown else load(self.sample.images[index])


class ToolError(Exception):
    """A tool that gave no result; the message is the reason. A rollout goes on without it."""


class Tool(Protocol):
    """A detector, live or precomputed."""

    @property
    def name(self) -> str:
        """What logs and reports call it."""

    @property
    def settings(self) -> str:
        """Everything its answers depend on, for the cache and the record of a run."""

    @property
    def by_image(self) -> bool:
        """Whether answers depend on the image and the expression alone, so can be kept and shared.

        Not so where they come from the sample itself: its stored boxes, its truth.
        """

    def detect(
        self, requests: Sequence[Request]
    ) -> Sequence[tuple[Detection | None, ...] | ToolError]:
        """What it finds for each request, the surest box first, in original pixels.

        A box whose numbers are not finite, which no ``Box`` can hold, is None. What fails for one
        request is given in its place; what is raised fails them all.
        """


@dataclass(frozen=True, slots=True)
class Reply:
    """What a rollout gets to read: boxes that can be used as they are, or why there are none."""

    detections: tuple[Detection, ...] = ()
    problem: str | None = None
