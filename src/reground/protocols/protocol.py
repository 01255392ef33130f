"""How a question is put and how its answer is read: one object, the same for all who ask.

- ``direct``: one turn, boxes alone.
- ``think``: a chain of thought, then the boxes (UniVG-R1).
- ``think_rethink``: think, call for a detector's result, rethink, answer (VG-Refiner).
- ``piter``: a detector's result is in the question, boxes alone come back (VG-Refiner's fair
  protocol for every model).

Under each of them a policy may be offered ``zoom_in``, a closer look at a part of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reground.errors import ConfigError, DataError
from reground.grounding.answers import Answer, parse, quads
from reground.grounding.boxes import Box
from reground.grounding.codecs import FORM_TAG, Codec, EncodedSize, Form
from reground.grounding.confidence import box_scores
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Detection, Sample
from reground.protocols.calls import CALL_END, FIRST_TOOL, Function, tool_text
from reground.protocols.families import FORMS, Family, get_family
from reground.protocols.prompts import OwnPrompt, PromptProfile, load_profile
from reground.protocols.rethink import settled
from reground.protocols.wording import Segment, text_of


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy may call between its turns, and how many calls are answered.

    >>> Plan().stop, Plan((Function.ZOOM,), 2).stop
    ((), ('</function>',))
    """

    functions: tuple[Function, ...] = ()
    max_calls: int = 0

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings at which a turn ends and waits for an answer."""
        return (CALL_END,) if self.functions else ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the gold turn: the assistant's own words, or an observation in between."""

    text: str
    is_own: bool


@dataclass(frozen=True, slots=True)
class AnswerProtocol:
    """A protocol as one family speaks it, with one prompt profile."""

    name: ProtocolName
    codec: Codec
    profile: PromptProfile
    plan: Plan = Plan()

    @property
    def form(self) -> Form:
        """What surrounds the boxes of an answer."""
        return FORMS[self.name]

    @property
    def shows_tool(self) -> bool:
        """Whether a detector's boxes reach the model."""
        return self.profile.shows_tool or Function.RESULT in self.plan.functions

    def user_text(self, sample: Sample, sizes: Sequence[EncodedSize]) -> str:
        """The same as :meth:`user_turn`, in which special tokens cannot be told from words."""
        return text_of(self.user_turn(sample, sizes))

    def user_turn(self, sample: Sample, sizes: Sequence[EncodedSize]) -> list[Segment]:
        """What is asked about ``sample``, whose images are encoded at ``sizes``.

        Where the profile shows a detector's result, its boxes in the target image are written as
        the model itself writes boxes. Raises ``DataError`` where there is no such result.
        """
        tool = None
        if self.profile.shows_tool:
            if sample.tool_results is None:
                raise DataError(
                    f"sample {sample.id!r} has no detector's result to show; use data with "
                    "tool_results, or a prompt without $tool",
                    help="boxes-of-a-detector-that-are-missing",
                )
            boxes = [each.box for each in sample.detections]
            tool = self.codec.spell(boxes, size=sizes[sample.target_image])
        return self.profile.turn(
            question=sample.question,
            num_images=len(sample.images),
            spans=sample.spans,
            tool=tool,
        )

    def tool_text(self, found: Mapping[str, Sequence[Detection] | None], size: EncodedSize) -> str:
        """What a call for the tools' results gets, as the prompt shows it."""
        return tool_text(found, codec=self.codec, size=size, shown=self.profile.tool)

    def gold(self, sample: Sample, sizes: Sequence[EncodedSize]) -> list[Piece]:
        """What answers the sample perfectly, in the frame of the encoded target image.

        Where the detectors' result is offered, a sample that has one calls for it and gets it. The
        answer is then the best of the detector's boxes where one is right, else the true box.
        Raises ``DataError`` as :meth:`render` does.
        """
        size, boxes, tool = sizes[sample.target_image], sample.boxes, None
        if Function.RESULT in self.plan.functions and sample.tool_results is not None:
            tool = self.tool_text({FIRST_TOOL: sample.detections}, size)
            boxes = settled(sample)
        text = self.render(boxes, size=size, think=sample.think, rethink=sample.rethink, tool=tool)
        if tool is None:
            return [Piece(text, is_own=True)]
        before, _, after = text.partition(tool)
        return [Piece(before, is_own=True), Piece(tool, is_own=False), Piece(after, is_own=True)]

    def render(
        self,
        boxes: Sequence[Box],
        *,
        size: EncodedSize,
        think: str | None = None,
        rethink: str | None = None,
        tool: str | None = None,
    ) -> str:
        """The answer with ``boxes`` (original pixels of the image of ``size``).

        A form without a think or rethink block leaves that text out. ``tool`` is what a detector
        says (:meth:`tool_text`); the call for it comes first.
        Raises ``DataError`` for a box without area and for a chain that holds tags of the form.

        >>> size = EncodedSize(640, 480, 644, 476)
        >>> box = Box(64, 120, 320, 360, size.pixels)
        >>> get_protocol("univg_r1", "think").render([box], size=size, think="The left one.")
        '<think>The left one.</think><answer>(100,250),(500,750)</answer>'
        """
        answer = self.codec.spell(boxes, size=size)
        match self.form:
            case Form.DIRECT:
                return answer
            case Form.THINK:
                return _block("think", think) + f"<answer>{answer}</answer>"
            case Form.THINK_RETHINK:
                call = "\n" if tool is None else f"\n{self.profile.call}{tool}"
                thoughts = _block("think", think) + call + _block("rethink", rethink)
                return thoughts + f"\n<answer>{answer}</answer>"

    def first_answer(self, think: str) -> str:
        """How a turn begins that answers right after its thought, as if there were no tool.

        What a model writes after it is where its first thought points.
        """
        return f"<think>{think}</think>\n<answer>"

    def read(self, text: str, size: EncodedSize) -> Answer:
        """What ``text`` answers about the image of ``size``; never raises, whatever the text."""
        calls = bool(self.plan.functions)
        return parse(text, self.codec, size, form=self.form, calls=calls)

    def scores(self, pieces: Sequence[str], logprobs: Sequence[float]) -> tuple[float | None, ...]:
        """How sure the model was of each box that :meth:`read` finds in the tokens' text."""
        found = quads("".join(pieces), self.codec, form=self.form)
        return box_scores(pieces, logprobs, found)


def make_protocol(
    family: Family,
    name: ProtocolName,
    *,
    prompt: str | OwnPrompt | None = None,
    zoom: bool = False,
    max_calls: int = 1,
) -> AnswerProtocol:
    """The protocol ``name`` as ``family`` speaks it, with the profile ``prompt`` or its own.

    Raises ``ConfigError`` where the family does not speak it.
    """
    if name not in family.prompts:
        raise ConfigError(
            f"family {family.name} does not speak the protocol {name}; "
            f"choose {', '.join(family.prompts)}",
            help="a-protocol-that-a-family-does-not-speak",
        )
    offered = {Function.RESULT: name == "think_rethink", Function.ZOOM: zoom}
    functions = tuple(function for function, is_offered in offered.items() if is_offered)
    profile = load_profile(prompt or family.prompts[name])
    plan = Plan(functions, max_calls if functions else 0)
    return AnswerProtocol(name, family.codec_under(name), profile, plan)


def get_protocol(family: str, name: ProtocolName | None = None) -> AnswerProtocol:
    """The protocol ``name``, or the family's usual one, with the family's own prompt."""
    found = get_family(family)
    return make_protocol(found, name or found.protocol)


def _block(tag: str, text: str | None) -> str:
    if found := FORM_TAG.search(text or ""):
        raise DataError(
            f"a {tag} text holds the tag {found.group()!r}, which would end or open a block of the "
            "answer; take the tags out of the reasoning chain"
        )
    return f"<{tag}>{text or ''}</{tag}>"
