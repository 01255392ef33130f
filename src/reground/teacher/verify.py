"""Verification without a model: is a chain well formed, right, and reasoned for itself?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace

from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import set_iou
from reground.grounding.sample import Sample
from reground.teacher import reasoning
from reground.teacher.rows import Finding, Rejection, TeacherCall
from reground.teacher.settings import PROTOCOL, Verify, noted
from reground.teacher.store import Store


def verify(store: Store, settings: Verify, *, again: bool = False) -> Counter[str]:
    """Judge every answered chain that is not verified yet; with ``again`` all of them.

    Returns how many were found ``ok`` and how many of each reason. A pick whose chain is verified
    no more is taken back. Raises ``RunError`` where no chain is stored.
    """
    store.check_asked()
    counts: Counter[str] = Counter()
    by = noted(asdict(settings))
    for entry in store.entries():
        with store.together():
            for call in [each.call for each in entry.chains if again or each.finding is None]:
                finding = replace(finding_on(call, entry.sample, settings), settings=by)
                store.set_finding(finding)
                if entry.pick and entry.pick.call == call.id and not finding.ok:
                    store.drop_pick(entry.sample.id)
                counts[finding.reason or "ok"] += 1
    return counts


def finding_on(call: TeacherCall, sample: Sample, settings: Verify) -> Finding:
    """What is wrong with an answered call: the first check that fails, in ``Rejection``'s order."""
    answer = PROTOCOL.read(call.text, call.sizes[sample.target_image])
    finding = Finding(
        call=call.id,
        ok=True,
        think=answer.think,
        boxes=tuple(box.xyxy for box in answer.boxes),
        iou=set_iou(answer.boxes, sample.boxes) if answer.status is Status.OK else None,
    )
    for reason, found in _checks(call, sample, answer, finding.iou, settings):
        if found is not None:
            return replace(finding, ok=False, reason=reason, detail=found)
    return finding


def _checks(
    call: TeacherCall, sample: Sample, answer: Answer, iou: float | None, settings: Verify
) -> Iterator[tuple[Rejection, str | None]]:
    """What each check found, lazily: the text checks need an answer of the right form."""
    yield Rejection.FORM, _form(call, answer)
    yield Rejection.WRONG_BOX, _wrong_box(answer, sample, iou, settings.min_iou)
    think, question, target = answer.think or "", sample.question, sample.target_image
    count, few, many = len(reasoning.words(think)), settings.min_words, settings.max_words
    yield Rejection.SHORT, f"{count} words, expected {few}" if count < few else None
    yield Rejection.LONG, f"{count} words, allowed {many}" if count > many else None
    yield Rejection.REPETITION, reasoning.repetition(think, most=settings.max_repeated)
    yield Rejection.LEAK, reasoning.leak(think, question=question)
    size, truth = call.sizes[target], sample.boxes
    found = reasoning.coordinates(think, question=question, truth=truth, size=size)
    yield Rejection.COORDINATES, found
    found = reasoning.wrong_image(think, target=target, num_images=len(sample.images))
    yield Rejection.WRONG_IMAGE, found


def _form(call: TeacherCall, answer: Answer) -> str | None:
    if call.finish == "length":
        return "cut off at the token limit"
    if answer.status is not Status.OK:
        return answer.status.replace("_", " ")
    if not answer.well_formed:
        return "not one think block, then one answer block, and nothing else"
    return None


def _wrong_box(answer: Answer, sample: Sample, iou: float | None, min_iou: float) -> str | None:
    found, expected = len(answer.boxes), len(sample.boxes)
    if found != expected:
        return f"{found} boxes, expected {expected}"
    if iou is not None and iou < min_iou:
        return f"IoU {iou:.3f}, expected {min_iou:g}"
    return None
