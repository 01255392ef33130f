"""What a harness asks, and what an answer is worth there: as in ``reground eval``, in one turn.

A harness shows a model images and a text, and hands over the text that came back. An exam is one
data set, asked in the way that one family or checkpoint knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import Literal

from PIL import Image
from pydantic import TypeAdapter

from reground.data.images import load
from reground.data.source import read_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.predicting.question import Question
from reground.evaluation.predicting.remote import plain
from reground.evaluation.records import (
    PREDICTIONS,
    RUN,
    Prediction,
    read_predictions,
    read_run,
    read_scores,
)
from reground.evaluation.scoring.metrics import (
    HIT_THRESHOLD,
    HITS,
    Estimate,
    clustered_mean,
    macro_mean,
)
from reground.evaluation.scoring.score import score_prediction
from reground.grounding.boxes import FrameKind
from reground.grounding.codecs import EncodedSize, PixelLimits
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample
from reground.protocols.choice import Answering, Protocols
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import AnswerProtocol
from reground.protocols.wording import text_of

# Models that answer in pixels of the image they saw are shown sides of multiples of 28, within what
# both Qwen2.5-VL and lmms-eval's class for it take: they then resize nothing again.
FACTOR, SHOWN = 28, PixelLimits(200_704, 1_605_632)


@dataclass(frozen=True, slots=True)
class Asked:
    """A sample, and the size at which each of its images is shown."""

    sample: Sample
    sizes: tuple[EncodedSize, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """What one answer is worth: ``hit`` is 0 or 1; ``image`` is what errors are clustered by."""

    id: str
    task: str
    image: str
    hit: float
    iou: float


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One data set in one way of asking; made by :meth:`of`.

    ``data`` is as of ``reground eval --data``, or the folder of an evaluation. ``answering`` is how
    the models answer that are asked. Those who answer in pixels of the image that they saw are
    shown sides of multiples of ``factor``, within ``pixels``. ``who`` is the family or checkpoint.
    """

    data: str
    who: str
    answering: Answering
    protocol: ProtocolName | None = None
    seed: int = 7
    limit: int | None = None
    hit: Literal[">", ">="] = ">"
    factor: int = FACTOR
    pixels: PixelLimits = SHOWN

    @classmethod
    def of(
        cls,
        data: str,
        *,
        family: str | None = None,
        model: str | None = None,
        protocol: ProtocolName | None = None,
        seed: int = 7,
        limit: int | None = None,
    ) -> Exam:
        """As ``family`` is asked, or as the checkpoint ``model`` remembers to be.

        The folder of an evaluation knows that itself. Raises ``ConfigError`` where neither is
        named.
        """
        if is_run(data):
            run = read_run(Path(data))
            flagged = run.protocol_by == "flag"
            own = Answering(
                family=run.family, protocol=run.protocol, zoom=run.zoom, max_calls=run.max_calls
            )
            flag = run.protocol if flagged else None
            return cls(
                data=data, who=run.family, answering=own, protocol=flag, limit=limit, hit=run.hit
            )
        answering, factor, pixels = _asked_as(family, model)
        benchmark = Question(model="", data=data).benchmark
        return cls(
            data=data,
            who=family or PurePath(model or "").name,
            answering=answering,
            protocol=protocol,
            seed=seed,
            limit=limit,
            hit=benchmark.hit if benchmark else ">",
            factor=factor,
            pixels=_within(pixels, benchmark.pixels) if benchmark else pixels,
        )

    @classmethod
    def from_json(cls, text: str) -> Exam:
        """The inverse of :meth:`to_json`."""
        return _read(text)

    def to_json(self) -> str:
        """The exam as a line of JSON."""
        return _EXAM.dump_json(self).decode()

    def open(self) -> list[Asked]:
        """What is asked; raises ``DataError`` as ``read_dataset`` does."""
        if is_run(self.data):
            rows = [Asked(row.sample, row.sizes) for row in stored(self.data).values()]
            return rows[: self.limit]
        samples = read_dataset(self.data, seed=self.seed, limit=self.limit)
        return [Asked(sample, self._sizes(sample)) for sample in samples]

    def text(self, asked: Asked) -> str:
        """What is asked after the images.

        Raises ``ConfigError`` for a protocol of more than one turn, which no harness plays.
        """
        protocol = self._protocol(asked.sample)
        if protocol.plan.functions:
            raise ConfigError(
                f"family {self.answering.family} under {protocol.name} calls for a tool within its "
                "answer, which a harness does not answer; choose another protocol, such as piter, "
                "or evaluate with `reground eval`"
            )
        return text_of(protocol.user_turn(plain(asked.sample), asked.sizes))

    def images(self, asked: Asked) -> list[Image.Image]:
        """The images to show, in RGB; raises ``DataError`` as ``load`` does."""
        shown = []
        for own, size in zip(asked.sample.images, asked.sizes, strict=True):
            image, sides = load(own), (size.input_width, size.input_height)
            shown.append(
                image if image.size == sides else image.resize(sides, Image.Resampling.BICUBIC)
            )
        return shown

    def mark(self, asked: Asked, text: str) -> Mark:
        """What the answer ``text`` is worth."""
        sample = asked.sample
        answer = Prediction(sample, text, asked.sizes, finish="unrecorded")
        score = score_prediction(answer, self._protocol(sample))
        iou = score.iou or 0.0
        hit = float(HITS[self.hit](iou, HIT_THRESHOLD))
        return Mark(sample.id, sample.task, score.cluster, hit, iou)

    @cached_property
    def _protocols(self) -> Protocols:
        question = Question(model="", data=self.data, protocol=self.protocol)
        return question.protocols(self.answering)

    def _protocol(self, sample: Sample) -> AnswerProtocol:
        return self._protocols.of_sample(sample)

    def _sizes(self, sample: Sample) -> tuple[EncodedSize, ...]:
        sides = [(image.width, image.height) for image in sample.images]
        is_resized = self._protocol(sample).codec.frame is FrameKind.INPUT
        return tuple(
            EncodedSize(
                *own, *(self.pixels.resized(*own, factor=self.factor) if is_resized else own)
            )
            for own in sides
        )


def average(marks: Iterable[Mark], of: Literal["hit", "iou"]) -> Estimate:
    """The mean over answers and its standard error, clustered by image: ``reground report``'s."""
    rows = _in_order(marks)
    return clustered_mean([getattr(row, of) for row in rows], [row.image for row in rows])


def over_tasks(marks: Iterable[Mark]) -> Estimate:
    """The mean of the tasks' shares of hits: MIG-Bench's average."""
    rows = _in_order(marks)
    return macro_mean(
        [row.hit for row in rows],
        tasks=[row.task for row in rows],
        clusters=[row.image for row in rows],
    )


def one_turn_families() -> list[str]:
    """The families that a harness can ask as they usually are."""
    return [name for name, own in FAMILIES.items() if own.protocol != "think_rethink"]


def is_run(data: str) -> bool:
    """Whether ``data`` is the folder of an evaluation."""
    return (Path(data) / RUN).is_file()


@lru_cache(maxsize=4)
def stored(folder: str) -> dict[str, Prediction]:
    """The answers in the folder of an evaluation, by sample id.

    Those of another project (``reground score --format``) have no predictions.jsonl; their images
    are encoded at their own size. Raises ``DataError`` where a family needs to know that size.
    """
    path = Path(folder)
    if (path / PREDICTIONS).exists():
        rows: Sequence[Prediction] = [row for row in read_predictions(path) if row.error is None]
    else:
        run, scores = read_run(path), [row for row in read_scores(path) if row.error is None]
        if any(run.protocol_for(row.sample).codec.frame is FrameKind.INPUT for row in scores):
            raise DataError(
                f"{folder}: family {run.family} answers in pixels of the image as it was encoded, "
                "whose size scores do not hold; name the folder with predictions.jsonl"
            )
        rows = [
            Prediction(
                row.sample,
                row.text,
                tuple(EncodedSize(*(each.width, each.height) * 2) for each in row.sample.images),
                finish="unrecorded",
            )
            for row in scores
        ]
    return {row.sample.id: row for row in rows}


def answer_of(folder: str, id: str) -> str:
    """The stored answer to a sample; raises ``DataError`` where there is none."""
    if id not in stored(folder):
        raise DataError(f"{folder}: no answer to sample {id!r}; expected one for each")
    return stored(folder)[id].text


# ---- parts -------------------------------------------------------------------------------------


def _asked_as(family: str | None, model: str | None) -> tuple[Answering, int, PixelLimits]:
    """How who answers is asked, and how large it sees images where its boxes depend on that."""
    if family:
        return Answering(family=family), FACTOR, SHOWN
    if not model:
        raise ConfigError(
            "found no family and no model; name the family of the models that are asked, as "
            "qwen3_vl, or a checkpoint, as tiny: it decides the prompt and how boxes are read"
        )
    from reground.model.load import Resizer, answering_of  # torch

    answering, resizer = answering_of(model), Resizer.of(model)
    factor = resizer.adapter.smallest(resizer.processor) ** 0.5
    return answering, round(factor), PixelLimits(*resizer.limits)


def _within(shown: PixelLimits, authors: PixelLimits) -> PixelLimits:
    """The authors' limits, as far as the models' allow them."""
    fewest, most = shown.fewest or 1, shown.most or 10**9
    return PixelLimits(
        min(max(fewest, authors.fewest or 0), most), max(min(most, authors.most or most), fewest)
    )


def _in_order(marks: Iterable[Mark]) -> list[Mark]:
    """As our reports sum them: the last digit of a mean depends on it."""
    return sorted(marks, key=lambda mark: mark.id)


_EXAM: TypeAdapter[Exam] = TypeAdapter(Exam)


@lru_cache(maxsize=256)
def _read(text: str) -> Exam:
    return _EXAM.validate_json(text)
