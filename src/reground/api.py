"""Grounding in Python: the same model, prompt, rollout and parser as training and evaluation.

grounder = Grounder.from_pretrained("tiny")
grounding = grounder.ground(["photo.jpg"], "the cup left of the laptop")
grounding.answer.boxes, grounding.scores  # in pixels of the photo; how sure of each
grounding.save("answer.png")  # or .json; also to_supervision(), to_coco(), to_label_studio()

refiner = Grounder.from_pretrained("runs/refiner")
grounding = refiner.ground(["photo.jpg"], "the cup", tool="IDEA-Research/grounding-dino-tiny")
grounding.tool, grounding.answer.boxes, grounding.answer.rethink
grounding.first  # where its first thought points: ground(..., first=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from reground.data.answered import Grounding as Grounding
from reground.data.images import decoded, shown_as
from reground.data.media import MediaHosts
from reground.errors import ConfigError, DataError
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import Box, Frame
from reground.grounding.codecs import PixelLimits
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.protocols.choice import Protocols
from reground.protocols.protocol import AnswerProtocol

if TYPE_CHECKING:
    from reground.model.prompting import Prompter
    from reground.rollout.environment import Start
    from reground.rollout.episode import Trajectory
    from reground.rollout.policy import Heard, Policy, Sampling
    from reground.rollout.tools.runner import ToolRunner
    from reground.rollout.tools.tool import Tool

TOOL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How answers are sampled. Temperature 0 is greedy.

    ``stop`` are strings that end the one turn of somebody who writes the prompt himself; None: all
    turns of the question's protocol. ``first`` is whether to ask for the boxes of first thoughts.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] | None = None
    first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundingRequest:
    """One question about some images, as :meth:`Grounder.ground` takes it.

    ``protocol`` is for this question alone; None is the grounder's own. ``tool`` may also be what
    asks a tool of many questions, which is then opened once.
    """

    images: Sequence[str | Path | Image.Image]
    text: str
    target_image: int | None = None
    tool: str | Tool | ToolRunner | Sequence[Sequence[float]] | None = None
    protocol: ProtocolName | None = None


@dataclass(frozen=True, slots=True)
class Grounder:
    """A checkpoint that answers questions about images with boxes.

    An image may be an https address on one of the ``media`` hosts.
    """

    prompter: Prompter
    policy: Policy
    media: MediaHosts = field(default_factory=MediaHosts)

    @classmethod
    def from_pretrained(
        cls,
        path: str = "tiny",
        *,
        family: str | None = None,
        prompt: str | None = None,
        protocol: ProtocolName | None = None,
        device: str | None = None,
        dtype: str | None = None,
        engine: Literal["transformers", "vllm"] = "transformers",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        media_hosts: Sequence[str] = (),
    ) -> Grounder:
        """Load a folder, a hub id or ``tiny``; what else is given overrides what it remembers.

        ``protocol``: ``direct`` answers with boxes, ``think`` after a chain of thought,
        ``think_rethink`` calls for a detector's boxes in between, ``piter`` is shown them with the
        question. ``prompt`` is that protocol's. It runs on the GPU where there is one, there in the
        checkpoint's dtype, and in float32 on a CPU; ``engine`` is what samples. Images are shown
        at ``min_pixels`` to ``max_pixels``, the checkpoint's own where left out. Images are fetched
        from ``media_hosts`` alone, exact names; see :class:`MediaHosts`. Raises ``ConfigError`` for
        a protocol that the family does not speak, a device that is not there, and limits that
        contradict each other.
        """
        from reground.model.load import answering_of
        from reground.model.prompting import Prompter
        from reground.model.runtime import Runtime
        from reground.rollout.opening import opened

        media = MediaHosts.of(media_hosts)
        protocols = Protocols.of(answering_of(path), family=family, config=protocol, prompt=prompt)
        runtime = Runtime.resolve(device=device, dtype=dtype)
        limits = PixelLimits(min_pixels, max_pixels)
        checkpoint, policy = opened(path, runtime, engine=engine, limits=limits)
        return cls(Prompter(checkpoint, protocols), policy, media)

    def under(self, protocol: ProtocolName, *, prompt: str | None = None) -> Grounder:
        """The same model under another protocol, with that protocol's prompt or ``prompt``."""
        own = self.prompter.protocols
        protocols = Protocols.of(own.answering, config=protocol, prompt=prompt)
        return replace(self, prompter=replace(self.prompter, protocols=protocols))

    @property
    def protocol(self) -> AnswerProtocol:
        """How it asks and reads."""
        return self.prompter.protocols.get(self.prompter.protocols.usual)

    def protocol_of(self, sample: Sample) -> AnswerProtocol:
        """How it asks about a sample, and reads what comes back."""
        return self.prompter.protocol(sample)

    def ground(
        self,
        images: Sequence[str | Path | Image.Image],
        text: str,
        *,
        target_image: int | None = None,
        tool: str | Tool | Sequence[Sequence[float]] | None = None,
        max_tokens: int = 256,
        min_score: float | None = None,
        first: bool = False,
    ) -> Grounding:
        """The boxes of what ``text`` describes, in original pixels of the answered image.

        That image is the one the answer names; otherwise ``target_image``, or the last one.
        ``tool`` is asked first, about that last or target image: a detector as ``reground tool
        run`` names it, or an object of one's own; or it is the boxes that one gave, [x1, y1, x2,
        y2] in pixels of that image. An answer with a box less sure than ``min_score`` is an
        abstention: without boxes, its status ``abstained``. Under think_rethink ``first`` asks for
        the boxes of the first thought, too (``Grounding.first``): a short second answer. Raises
        ``DataError`` for images that cannot be read, an index outside ``images`` and a tool without
        a result, ``ConfigError`` where the model would not see the tool's boxes.
        """
        request = GroundingRequest(images=images, text=text, target_image=target_image, tool=tool)
        (found,) = self.ground_batch([request], max_tokens=max_tokens, first=first)
        return found.at_least(min_score)

    def ground_batch(
        self, requests: Sequence[GroundingRequest], *, max_tokens: int = 256, first: bool = False
    ) -> list[Grounding]:
        """The answers to several questions, which the model takes together; raises as `ground`."""
        requests = [*map(self._with_images, requests)]
        starts = [self.start(request, id=str(place)) for place, request in enumerate(requests)]
        answers = self.answers(starts, way=Way(max_tokens=max_tokens, first=first))
        return [
            replace(found, images=tuple(request.images))
            for found, request in zip(answers, requests, strict=True)
        ]

    def _with_images(self, request: GroundingRequest) -> GroundingRequest:
        """The request with the images of its addresses."""
        images = request.images
        found = self.media.fetched_now(each for each in images if isinstance(each, str))
        pictures = {address: decoded(data, address) for address, data in found.items()}
        at_hand = [pictures.get(each, each) if isinstance(each, str) else each for each in images]
        return replace(request, images=at_hand)

    def start(self, request: GroundingRequest, *, id: str) -> Start:
        """A question as a prompt, its tool asked; ``id`` tells it from others of its batch."""
        from reground.rollout.environment import Start

        sample, loaded = question_of(request, id=id, protocols=self.prompter.protocols)
        return Start(sample, self.prompter.prompts([sample], images=loaded)[0])

    def answers(
        self,
        starts: Sequence[Start],
        *,
        way: Way,
        keys: Sequence[int] | None = None,
        heard: Heard | None = None,
    ) -> list[Grounding]:
        """What the model answers to each, all taken together.

        ``keys`` seed what is sampled; ``heard`` is told the place of a start and the ids so far.
        """
        from reground.rollout.environment import PlannedEnvironment
        from reground.rollout.episode import one_turn, roll_out
        from reground.rollout.policy import Sampling

        sampling = Sampling(way.temperature, way.top_p, way.max_tokens, way.stop or ())
        if way.stop is not None:
            rolled = one_turn(self.policy, starts, sampling=sampling, keys=keys, heard=heard)
        else:
            environment = PlannedEnvironment(self.prompter)
            groups = roll_out(
                self.policy, environment, starts, n=1, sampling=sampling, keys=keys, heard=heard
            )
            rolled = [rollout for (rollout,) in groups]
        found = [
            self._grounding(start, rollout) for start, rollout in zip(starts, rolled, strict=True)
        ]
        if way.first:
            self._add_first(found, starts, rolled, sampling=sampling, keys=keys, heard=heard)
        return found

    def _add_first(
        self,
        found: list[Grounding],
        starts: Sequence[Start],
        rolled: Sequence[Trajectory],
        *,
        sampling: Sampling,
        keys: Sequence[int] | None,
        heard: Heard | None,
    ) -> None:
        """Ask where the thoughts point that came before a call for a detector's boxes."""
        from reground.rollout.episode import one_turn

        places = [
            place
            for place, each in enumerate(found)
            if each.answer.think is not None and each.answer.tool_call is not None
        ]
        if not places:
            return
        again = [self._thought(starts[place], found[place].answer.think or "") for place in places]
        early = one_turn(
            self.policy,
            again,
            sampling=sampling,
            keys=None if keys is None else [keys[place] for place in places],
            # Nobody hears what is said here; whoever stops to listen to the answer ends this, too.
            heard=heard and (lambda row, _: heard(places[row], rolled[places[row]].ids)),
        )
        for place, start, rollout in zip(places, again, early, strict=True):
            found[place] = found[place].with_first(self._grounding(start, rollout))

    def _thought(self, start: Start, think: str) -> Start:
        """The start of an answer right after a thought."""
        chat = self.prompter.checkpoint.chat
        begun = self.protocol_of(start.sample).first_answer(think).removeprefix(chat.opening)
        return replace(start, begun=tuple(chat.encode_answer(begun)))

    def _grounding(self, start: Start, rollout: Trajectory) -> Grounding:
        from reground.rollout.episode import RolloutStatus

        sample, prompter = start.sample, self.prompter
        answer = Answer(Status.NO_ANSWER)
        if start.prompt.images:
            answer = prompter.read(rollout.ids, start.prompt, sample=sample)
        named = answer.image_index
        if named is not None and 0 <= named < len(sample.images):
            sample = replace(sample, target_image=named)
            answer = prompter.read(rollout.ids, start.prompt, sample=sample)
        scores: tuple[float | None, ...] = ()
        if answer.boxes:
            scores = prompter.scores(rollout.ids, rollout.logprobs, sample=sample)
        return Grounding(
            answer,
            prompter.text(rollout.ids),
            sample,
            scores,
            num_tokens=rollout.num_sampled,
            is_cut=rollout.status is RolloutStatus.OVER_LONG,
            num_read=len(start.prompt.ids) + len(start.begun),
        )


def question_of(
    request: GroundingRequest, *, id: str, protocols: Protocols
) -> tuple[Sample, list[Image.Image]]:
    """A question as a sample, its tool asked, and its images; raises as :meth:`Grounder.ground`."""
    images, text = request.images, request.text
    target = len(images) - 1 if request.target_image is None else request.target_image
    if not 0 <= target < len(images):
        raise DataError(
            f"found image {target} of {len(images)} images, expected 0 to {len(images) - 1}"
        )
    if not text.strip():
        raise DataError("found an empty text; say what to look for")
    loaded = [*map(shown_as, images)]
    refs, protocol = _refs(images, loaded), request.protocol
    sample = Sample(id, refs, text, (), "ground", target_image=target, protocol=protocol)
    if request.tool is not None:
        found = _asked(request.tool, sample, loaded, protocols.of_sample(sample))
        sample = replace(sample, tool_results=found)
    return sample, loaded


def _asked(
    tool: str | Tool | ToolRunner | Sequence[Sequence[float]],
    sample: Sample,
    loaded: Sequence[Image.Image],
    protocol: AnswerProtocol,
) -> tuple[Detection, ...]:
    from reground.rollout.tools.opening import open_tool
    from reground.rollout.tools.runner import ToolRunner
    from reground.rollout.tools.tool import Request

    if not protocol.shows_tool:
        raise ConfigError(
            f"protocol {protocol.name} does not show a tool's boxes; load the model with "
            "protocol piter (they are shown with the question) or think_rethink (it thinks, "
            "calls, rethinks)",
            help="a-protocol-that-a-family-does-not-speak",
        )
    if isinstance(tool, Sequence) and not isinstance(tool, str):
        boxes = [_box(box, sample.images[sample.target_image].frame) for box in tool]
        found = tuple(Detection(sample.target_image, box) for box in boxes)
        sample, tool = replace(sample, tool_results=found), "precomputed"
    if not isinstance(tool, ToolRunner):
        opened = open_tool(tool, samples=[sample]) if isinstance(tool, str) else tool
        tool = ToolRunner(opened, timeout_s=TOOL_TIMEOUT_S, batch_size=1)
    (reply,) = tool.ask([Request(sample, sample.question, tuple(loaded))])
    if reply.problem is not None:
        raise DataError(f"tool {tool.tool.name}: {reply.problem}")
    return reply.detections


def _box(numbers: Sequence[float], frame: Frame) -> Box:
    try:
        x1, y1, x2, y2 = map(float, numbers)
        return Box(x1, y1, x2, y2, frame)
    except (TypeError, ValueError):
        raise DataError(f"found the box {numbers!r}, expected [x1, y1, x2, y2] in pixels") from None


def _refs(
    images: Sequence[str | Path | Image.Image], loaded: Sequence[Image.Image]
) -> tuple[ImageRef, ...]:
    """Where the images are and their sizes; one that was handed over is nowhere."""
    paths = ["" if isinstance(image, Image.Image) else str(image) for image in images]
    return tuple(
        ImageRef(path, image.width, image.height) for path, image in zip(paths, loaded, strict=True)
    )
