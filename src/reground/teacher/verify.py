"""Verification without a model: is a chain well formed, right, and thought for itself?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import set_iou
from reground.grounding.sample import Sample
from reground.protocols.protocol import get_protocol
from reground.teacher import changes, thinking
from reground.teacher.rows import Call, Item, Reason, Verdict
from reground.teacher.settings import Verify
from reground.teacher.store import Store

PROTOCOL = get_protocol("univg_r1", "think")  # in which teachers answer


def verify(store: Store, settings: Verify, *, again: bool = False) -> Counter[str]:
    """Judge every answered chain that has no verdict yet; with ``again`` all of them.

    Returns how many were found ``ok`` and how many of each reason. A pick whose chain is verified
    no more is taken back. Raises ``RunError`` where no chain is stored.
    """
    store.check_asked()
    counts: Counter[str] = Counter()
    by = noted(settings)
    for item in store.items():
        verdicts = [
            replace(verdict_on(chain.call, item.sample, settings), settings=by)
            for chain in item.chains
            if again or chain.verdict is None
        ]
        if verdicts:
            _keep(store, item, verdicts)
        counts.update(verdict.reason or "ok" for verdict in verdicts)
    return counts


def noted(settings: Verify) -> str:
    """The settings as they stand beside the verdicts that they made."""
    return changes.noted(asdict(settings))


def verdict_on(call: Call, sample: Sample, settings: Verify) -> Verdict:
    """The verdict on an answered call: the first check that fails, in the order of ``Reason``."""
    answer = PROTOCOL.read(call.text, call.sizes[sample.target_image])
    iou = set_iou(answer.boxes, sample.boxes) if answer.status is Status.OK else None
    chain = _Chain(call, sample, answer, iou, settings)
    verdict = Verdict(
        call=call.id,
        ok=True,
        think=answer.think,
        boxes=tuple(box.xyxy for box in answer.boxes),
        iou=iou,
    )
    for reason, found in chain.checks():
        if found is not None:
            return replace(verdict, ok=False, reason=reason, detail=found)
    return verdict


@dataclass(frozen=True, slots=True)
class _Chain:
    call: Call
    sample: Sample
    answer: Answer
    iou: float | None  # with the truth; None where the answer cannot be read
    settings: Verify

    def checks(self) -> Iterator[tuple[Reason, str | None]]:
        """What each check found, lazily: the text checks need an answer of the right form."""
        yield Reason.FORM, self._form()
        yield Reason.WRONG_BOX, self._wrong_box()
        sample, settings, think = self.sample, self.settings, self.answer.think or ""
        count = len(thinking.words(think))
        few, many = settings.min_words, settings.max_words
        yield Reason.SHORT, f"{count} words, expected {few}" if count < few else None
        yield Reason.LONG, f"{count} words, allowed {many}" if count > many else None
        yield Reason.REPETITION, thinking.repetition(think, most=settings.max_repeated)
        yield Reason.LEAK, thinking.leak(think, question=sample.question)
        yield (
            Reason.COORDINATES,
            thinking.coordinates(
                think,
                question=sample.question,
                truth=sample.boxes,
                size=self.call.sizes[sample.target_image],
            ),
        )
        num_images = len(sample.images)
        yield (
            Reason.WRONG_IMAGE,
            thinking.wrong_image(think, target=sample.target_image, num_images=num_images),
        )

    def _form(self) -> str | None:
        if self.call.finish == "length":
            return "cut off at the token limit"
        if self.answer.status is not Status.OK:
            return self.answer.status.replace("_", " ")
        if not self.answer.well_formed:
            return "not one think block, then one answer block, and nothing else"
        return None

    def _wrong_box(self) -> str | None:
        found, expected = len(self.answer.boxes), len(self.sample.boxes)
        if found != expected:
            return f"{found} boxes, expected {expected}"
        if self.iou is not None and self.iou < self.settings.min_iou:
            return f"IoU {self.iou:.3f}, expected {self.settings.min_iou:g}"
        return None


def _keep(store: Store, item: Item, verdicts: list[Verdict]) -> None:
    with store.together():
        for verdict in verdicts:
            store.set_verdict(verdict)
            if item.pick and item.pick.call == verdict.call and not verdict.ok:
                store.drop_pick(item.sample.id)
