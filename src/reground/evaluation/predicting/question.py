"""What an evaluation asks, and who can answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from reground.data import benchmarks
from reground.data.benchmarks import Benchmark
from reground.data.images import load
from reground.errors import ConfigError
from reground.evaluation.predicting.shards import Shard
from reground.evaluation.records import Prediction
from reground.grounding.codecs import PixelLimits
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample
from reground.protocols.choice import Answering, Protocols
from reground.rollout.endpoint import Endpoint

_GREY = (128, 128, 128)

Add = Callable[[Prediction], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """The detector that is asked about every sample first (``reground tool run --help``)."""

    spec: str
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of whom. See ``reground eval --help`` for each.

    ``authors_scorer`` is told beside ours in the report, in place of the benchmark's.
    """

    model: str
    data: str
    seed: int = 7
    limit: int | None = None
    shard: Shard | None = None
    family: str | None = None
    protocol: ProtocolName | None = None
    tool: ToolUse | None = None
    prompt: str | None = None
    authors_scorer: str | None = None
    max_tokens: int = 256
    draws: int = 1
    temperature: float = 0.0
    blank: bool = False
    endpoint: Endpoint | None = None
    processor: str | None = None
    device: str | None = None
    dtype: str | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        PixelLimits(self.min_pixels, self.max_pixels)
        if self.draws > 1 and self.temperature == 0:
            raise ConfigError(
                f"found {self.draws} samples at temperature 0, which are all alike; expected "
                "--temperature above 0, or no --samples"
            )

    @property
    def benchmark(self) -> Benchmark | None:
        """The row of the table of benchmarks that ``data`` names, if it names one."""
        return benchmarks.table().get(self.data)

    def limits(self, *, any_size: bool) -> PixelLimits:
        """How large images are shown: as asked, else as the benchmark's authors show them.

        Theirs are for models that take images of ``any_size``.
        """
        authors = self.benchmark.pixels if self.benchmark and any_size else PixelLimits()
        return PixelLimits(self.min_pixels, self.max_pixels).over(authors)

    def protocols(self, answering: Answering) -> Protocols:
        """How a model that answers as ``answering`` is asked; raises as :meth:`Protocols.of`."""
        own = self.benchmark.protocols if self.benchmark else {}
        return Protocols.of(
            answering,
            family=self.family,
            flag=self.protocol,
            benchmark=own.get(self.family or answering.family),
            prompt=self.prompt,
        )


def images_of(sample: Sample, *, blank: bool) -> list[Image.Image]:
    """The sample's images, or grey ones of their sizes; raises ``DataError`` as ``load`` does."""
    images = [load(image) for image in sample.images]
    return [Image.new("RGB", image.size, _GREY) for image in images] if blank else images


class Answerer(Protocol):
    """A model that can be asked, and what a run records of it."""

    @property
    def weights(self) -> str | None:
        """What tells its weights from others."""

    @property
    def pixel_limits(self) -> tuple[int, int] | None:
        """The fewest and most pixels that an image is encoded at."""

    @property
    def place(self) -> Mapping[str, str]:
        """``device`` and ``dtype`` of a model in this process; nothing for another."""

    def answer(
        self, samples: Sequence[Sample], *, add: Add, left: Collection[str] | None = None
    ) -> None:
        """Answer, in any order, every sample whose id is ``left``; all where None."""
