"""VG-Refiner's rollout: think, call for a detector's result or a closer look, rethink, answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from reground.grounding.calls import Call, Function, problem_of, read_call
from reground.grounding.families import CALL_END, Family, Form
from reground.grounding.sample import Detection, Sample
from reground.grounding.tool_turn import CLOSING, OPENING, refusal_text, tool_text
from reground.model.chat import Chat, EncodedImage
from reground.rollout.episode import Case, Direct, Environment, Pending, Told
from reground.rollout.tools.precomputed import Precomputed
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Reply, Request, Tool
from reground.rollout.zoom import Zoom

COUNTS = ("asked", "calls", "cached", "failed", "late", "dropped", "zoomed", "refused")
BATCH = 16  # requests that a tool gets at a time


@dataclass(slots=True)
class ThinkRethink:
    """The environment of think-rethink, with one tool or several.

    The call has no arguments, so that every rollout of a sample gets the same result, and the tools
    are asked while the first turn is sampled. A tool that gives none is ``unavailable``, and the
    rollout goes on. With ``zoom`` a rollout may also ask for a part of the image. Any other call is
    told what is wrong with it. Calls beyond ``max_answers`` are not answered.
    """

    desks: Mapping[str, ToolRunner]
    chat: Chat
    family: Family
    max_answers: int = 1
    stop: tuple[str, ...] = (CALL_END,)
    zoom: Zoom | None = None
    _looks: Counter[str] = field(default_factory=Counter)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _replies: dict[str, Future[list[Reply]]] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tools: Sequence[Tool],
        chat: Chat,
        family: Family,
        *,
        max_answers: int = 1,
        timeout_s: float = 60.0,
        cache: Path | None = None,
        zoom: bool = False,
    ) -> ThinkRethink:
        """With a desk before every tool, which are called reftool_1, reftool_2 ... ."""
        desks = {
            f"reftool_{number}": ToolRunner(
                tool, cache=cache, timeout_s=timeout_s, batch_size=BATCH
            )
            for number, tool in enumerate(tools, start=1)
        }
        look = Zoom(chat, family) if zoom else None
        return cls(desks, chat, family, max_answers, zoom=look)

    def begin(self, cases: Sequence[Case]) -> None:
        """Ask the tools about all cases, beside what the caller does."""
        requests = [Request(case.sample, case.sample.question) for case in cases]
        self._places = {case.sample.id: place for place, case in enumerate(cases)}
        self._replies = {
            name: self._worker.submit(desk.ask, requests) for name, desk in self.desks.items()
        }

    def answer(self, pending: Sequence[Pending]) -> list[Told]:
        """What the last call of each is about: text that holds no tag but its own, or an image."""
        return [self._told(each) for each in pending]

    def seen(self, sample: Sample) -> Sample:
        """The sample with the boxes of all tools; None where none gave a result."""
        found = [boxes for boxes in self._found(sample).values() if boxes is not None]
        joined = tuple(box for boxes in found for box in boxes) if found else None
        return replace(sample, tool_results=joined)

    def counts(self) -> Mapping[str, int]:
        """The counts of all desks, which are cleared; ``dropped`` are boxes, for all reasons.

        ``zoomed`` are images told, ``refused`` calls that nothing can answer.
        """
        total, self._looks = self._looks, Counter()
        for desk in self.desks.values():
            for name, count in desk.counts.items():
                total[name.partition("_")[0]] += count
            desk.counts.clear()
        return {name: total[name] for name in COUNTS}

    def _told(self, pending: Pending) -> Told:
        call = read_call(self.chat.decode(pending.ids))
        if problem := problem_of(call, zoom=self.zoom is not None):
            return self._refused(problem)
        match call:
            case Call(Function.ZOOM, (_, _, _, _) as box) if self.zoom:
                return self._part(self.zoom.look(pending.case, box))
        return self._results(pending.case)

    def _results(self, case: Case) -> Told:
        found = self._found(case.sample)
        size = case.prompt.images[case.sample.target_image].size
        text = tool_text(found, family=self.family, size=size)
        return Told(tuple(self.chat.encode(text)), failed=None in found.values())

    def _part(self, found: EncodedImage | str) -> Told:
        if isinstance(found, str):
            return self._refused(found)
        self._looks["zoomed"] += 1
        opening, closing = (self.chat.encode(text) for text in (OPENING, CLOSING))
        return Told((*opening, *self.chat.image_ids(found), *closing), images=(found,))

    def _refused(self, problem: str) -> Told:
        self._looks["refused"] += 1
        return Told(tuple(self.chat.encode(refusal_text(problem))))

    def _found(self, sample: Sample) -> dict[str, Sequence[Detection] | None]:
        place = self._places[sample.id]
        replies = {name: future.result()[place] for name, future in self._replies.items()}
        return {
            name: None if reply.problem is not None else reply.detections
            for name, reply in replies.items()
        }


def environment_of(chat: Chat, family: Family) -> Environment:
    """The environment of a family for samples whose boxes are known (``tool_results``)."""
    if family.form is not Form.THINK_RETHINK:
        return Direct()
    return ThinkRethink.of([Precomputed()], chat, family)
