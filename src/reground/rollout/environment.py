"""What answers a policy between its turns, made from the plan of each sample's protocol.

Training, validation, evaluation and the Python API roll out in this one environment.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from reground.data.images import MAX_ASPECT, load
from reground.grounding.answers import Status, judge
from reground.grounding.boxes import Box
from reground.grounding.codecs import Codec
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.model.chat import Chat, EncodedImage, Prompt
from reground.model.prompting import Prompter
from reground.protocols.calls import (
    CLOSING,
    OPENING,
    Call,
    Function,
    problem_of,
    read_call,
    refusal_text,
)
from reground.protocols.protocol import Plan
from reground.rollout.tools.results import Precomputed
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, Tool, ToolResult

COUNTS = ("asked", "calls", "cached", "failed", "late", "dropped", "zoomed", "refused")
BATCH = 16  # requests that a tool gets at a time

_PROBLEMS = {
    Status.UNPARSABLE: "a box needs finite numbers",
    Status.OUT_OF_BOUNDS: "the box reaches outside the image",
    Status.DEGENERATE: "the box has no area",
}


@dataclass(frozen=True, slots=True)
class Start:
    """A sample and the prompt that asks about it.

    ``begun`` are ids with which a turn begins that is not the protocol's (``episode.one_turn``).
    """

    sample: Sample
    prompt: Prompt
    begun: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A rollout that stopped for the environment: all its ids after the prompt of ``start``."""

    start: Start
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """What the environment says: ids to read before the rollout goes on, and images among them."""

    ids: tuple[int, ...]
    failed: bool = False
    images: tuple[EncodedImage, ...] = ()


class PlannedEnvironment:
    """Answers the calls that a sample's plan offers, with one detector or several.

    Their runners are called reftool_1, reftool_2 ...; the default tool answers with what the
    samples hold (``tool_results``).

    The call for a result has no arguments, so that every rollout of a sample gets the same one, and
    the tools are asked while the first turn is sampled. A tool that gives none is ``unavailable``,
    and the rollout goes on. A call for a part of the image gets that part as an image. Any other
    call gets a sentence about what is wrong with it. Calls beyond the plan's ``max_calls`` are not
    answered.
    """

    def __init__(
        self,
        prompter: Prompter,
        tools: Sequence[Tool] = (Precomputed(),),
        *,
        timeout_s: float = 60.0,
        cache: Path | None = None,
    ) -> None:
        self.prompter = prompter
        self.runners = {
            f"reftool_{number}": ToolRunner(
                tool, cache=cache, timeout_s=timeout_s, batch_size=BATCH
            )
            for number, tool in enumerate(tools, start=1)
        }
        self._zoom = Zoom(prompter.checkpoint.chat)
        self._looks: Counter[str] = Counter()
        self._worker = ThreadPoolExecutor(1)
        self._replies: dict[str, Future[list[ToolResult]]] = {}
        self._places: dict[str, int] = {}

    def plan(self, sample: Sample) -> Plan:
        """The plan of the sample's protocol."""
        return self.prompter.protocol(sample).plan

    def begin(self, starts: Sequence[Start]) -> None:
        """Ask the tools about samples that may call for a result, while the caller goes on."""
        samples = [start.sample for start in starts if self._offers_result(start.sample)]
        requests = [Request(sample, sample.question) for sample in samples]
        self._places = {sample.id: place for place, sample in enumerate(samples)}
        self._replies = {
            name: self._worker.submit(runner.ask, requests)
            for name, runner in self.runners.items()
            if requests
        }

    def answer(self, pending: Sequence[Pending]) -> list[Observation]:
        """What the last call of each is about: text that holds no tag but its own, or an image."""
        return [self._observation(each) for each in pending]

    def observed(self, sample: Sample) -> Sample:
        """The sample with the boxes of all tools that it could call; None where none gave any."""
        if not self._offers_result(sample):
            return sample
        found = [boxes for boxes in self._found(sample).values() if boxes is not None]
        joined = tuple(box for boxes in found for box in boxes) if found else None
        return replace(sample, tool_results=joined)

    def counts(self) -> Mapping[str, int]:
        """What the tools did since this was asked last, once all that they were asked is answered.

        ``dropped`` are boxes, for all reasons; ``zoomed`` are images that were observed, and
        ``refused`` are calls that nothing can answer.
        """
        if not self.runners and not self.prompter.protocols.answering.zoom:
            return {}
        for replies in self._replies.values():
            replies.result()
        total, self._looks = self._looks, Counter()
        for runner in self.runners.values():
            for name, count in runner.counts.items():
                total[name.partition("_")[0]] += count
            runner.counts.clear()
        return {name: total[name] for name in COUNTS}

    def _offers_result(self, sample: Sample) -> bool:
        return Function.RESULT in self.plan(sample).functions

    def _observation(self, pending: Pending) -> Observation:
        protocol = self.prompter.protocol(pending.start.sample)
        call = read_call(self.prompter.text(pending.ids))
        if problem := problem_of(call, offered=protocol.plan.functions):
            return self._refused(problem)
        match call:
            case Call(Function.ZOOM, (_, _, _, _) as box):
                return self._part(self._zoom.look(pending.start, box, protocol.codec))
        return self._results(pending.start)

    def _results(self, start: Start) -> Observation:
        found = self._found(start.sample)
        size = start.prompt.images[start.sample.target_image].size
        text = self.prompter.protocol(start.sample).tool_text(found, size)
        return Observation(self._ids(text), failed=None in found.values())

    def _part(self, found: EncodedImage | str) -> Observation:
        if isinstance(found, str):
            return self._refused(found)
        self._looks["zoomed"] += 1
        image = self.prompter.checkpoint.chat.image_ids(found)
        return Observation((*self._ids(OPENING), *image, *self._ids(CLOSING)), images=(found,))

    def _refused(self, problem: str) -> Observation:
        self._looks["refused"] += 1
        return Observation(self._ids(refusal_text(problem)))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.prompter.checkpoint.chat.encode(text))

    def _found(self, sample: Sample) -> dict[str, Sequence[Detection] | None]:
        place = self._places[sample.id]
        return {name: future.result()[place].result for name, future in self._replies.items()}


@dataclass(slots=True)
class Zoom:
    """Cuts boxes out of target images, as they were shown; only the processor changes their size.

    The image that was asked for last stays in memory: rollouts of one sample ask one by one.
    """

    chat: Chat
    _last: tuple[ImageRef, Image.Image] | None = field(default=None, init=False)

    def look(self, start: Start, numbers: Sequence[float], codec: Codec) -> EncodedImage | str:
        """The part of the image inside ``numbers``, a box as ``codec`` counts; or what is wrong.

        The box is read as that of an answer is, and widened to whole pixels.
        """
        target = start.sample.target_image
        size = start.prompt.images[target].size
        answer = judge([numbers], size.frame(codec.frame), size.pixels)
        if not answer.boxes:
            return _PROBLEMS[answer.status]
        shown = start.prompt.shown
        image = shown[target] if shown else self._image(start.sample.images[target])
        crop = image.crop(_whole_pixels(answer.boxes[0]))
        if max(crop.size) > MAX_ASPECT * min(crop.size):
            return "the box is too thin"
        return self.chat.encode_images([crop])[0]

    def _image(self, ref: ImageRef) -> Image.Image:
        if self._last is None or self._last[0] != ref:
            self._last = (ref, load(ref))
        return self._last[1]


def _whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge; at least one pixel, all inside the image.

    >>> from reground.grounding.boxes import Frame
    >>> _whole_pixels(Box(1.5, 2, 3.2, 2.0000001, Frame.pixels(10, 10)))
    (1, 2, 4, 3)
    """
    left = min(math.floor(box.x1), int(box.frame.width) - 1)
    upper = min(math.floor(box.y1), int(box.frame.height) - 1)
    return left, upper, max(math.ceil(box.x2), left + 1), max(math.ceil(box.y2), upper + 1)
