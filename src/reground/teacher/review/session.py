"""One reviewer's way through a sample of the picked chains; knows nothing of HTTP."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from reground.data import images
from reground.errors import ConfigError, RunError, UserError
from reground.grounding.codecs import FORM_TAG
from reground.grounding.sample import ImageRef
from reground.teacher.review.results import Results, Tally, results
from reground.teacher.review.sampling import choose
from reground.teacher.rows import Chain, Item, Review
from reground.teacher.store import Store

Decision = Literal["accept", "reject", "edit", "undo"]
MAX_TEXT = 20_000  # characters of an edit or a reason
MAX_NAME = 60
_SIDES = (64, 4096)  # least and most pixels of an image's longer side, as it is sent
_CRISP_SIDE = 256  # smaller images are sent exactly (PNG) and enlarged without blur


class RefusedError(UserError):
    """A decision that cannot be stored as it is."""


class OutdatedError(UserError):
    """A decision about a chain that is the pick no more."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it is sent to a browser."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """The chains that ``reviewer`` is shown, by sample id, in the database at ``path``.

    It holds ids alone and opens the database anew for each question, so that any thread may ask
    and any number of reviewers may be at work; an index that is none raises ``IndexError``.
    """

    path: Path
    reviewer: str
    queue: tuple[str, ...]
    num_picked: int

    @classmethod
    def begin(cls, path: Path, *, reviewer: str, share: float, seed: int) -> Self:
        """A session over ``share`` of the picked chains.

        Raises ``RunError`` where there is none, ``ConfigError`` for an impossible name or share.
        """
        name = " ".join(reviewer.split())
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise ConfigError(
                f"found the reviewer {reviewer[:MAX_NAME]!r}; expected a name of 1 to {MAX_NAME} "
                "letters that can be printed; give one with --reviewer"
            )
        with Store.open(path) as store:
            tasks = store.picked()
        if not tasks:
            raise RunError(f"{path}: no chain is picked yet; run `reground teach judge` first")
        return cls(path, name, choose(tasks, share=share, seed=seed), len(tasks))

    def unjudged(self) -> list[int]:
        """Where chains are that this reviewer has not judged yet."""
        with Store.open(self.path) as store:
            done, picked = self._own(store), store.picked()
        return [
            index
            for index, sample_id in enumerate(self.queue)
            if sample_id not in done and sample_id in picked
        ]

    def tally(self) -> Tally:
        """What this reviewer said so far about the chains of this session."""
        with Store.open(self.path) as store:
            own = self._own(store)
        judged = [own[sample_id].decision for sample_id in self.queue if sample_id in own]
        return Tally.of(self.reviewer, judged)

    def item(self, index: int) -> dict[str, Any]:
        """What the page shows of one chain, as JSON; raises ``OutdatedError`` if it has none."""
        with Store.open(self.path) as store:
            item = store.item(self._id(index))
            own = store.latest_reviews(reviewer=self.reviewer, sample_id=item.sample.id)
        row = _to_json(item, self._picked(item))
        decision = {"decision": own[0].decision, "text": own[0].text} if own else None
        return row | {"index": index, "own": decision}

    def image(self, index: int, number: int, *, side: int) -> EncodedImage:
        """An image of a sample, no side longer than ``side``; raises ``DataError`` as loading."""
        with Store.open(self.path) as store:
            sample = store.sample(self._id(index))
        if not 0 <= number < len(sample.images):
            raise IndexError(number)
        image = images.load(sample.images[number])
        is_crisp = max(image.size) <= _CRISP_SIDE
        least, most = _SIDES
        image.thumbnail((min(max(side, least), most),) * 2)
        out = io.BytesIO()
        image.save(out, format="PNG" if is_crisp else "JPEG", quality=88)
        return EncodedImage("image/png" if is_crisp else "image/jpeg", out.getvalue())

    def decide(self, index: int, *, call: int, decision: str, text: str | None = None) -> None:
        """Store a decision on the chain ``call``, which the reviewer has seen.

        Raises ``RefusedError`` where it is none, or an edit is no thinking; ``OutdatedError``
        where another chain has been picked since.
        """
        with Store.open(self.path) as store:
            item = store.item(self._id(index))
            if (chain := self._picked(item)).call.id != call:
                raise OutdatedError("another chain has been picked since; look at it again")
            kept = _checked(decision, text, thinking=_thinking(chain))
            store.add_review(
                Review(
                    sample=item.sample.id,
                    call=call,
                    reviewer=self.reviewer,
                    decision=decision,  # type: ignore[arg-type]  # checked above
                    text=kept,
                )
            )

    def results(self) -> tuple[Results, Mapping[str, str]]:
        """What all reviews of this database add up to, and the thinking of chains that were edited.

        Other reviewers' decisions count too, and those that were made with another seed or share.
        """
        with Store.open(self.path) as store:
            reviews, tasks = store.latest_reviews(), store.picked()
            found = results([each for each in reviews if each.sample in tasks], tasks=tasks)
            edited = (store.item(review.sample) for review in found.edits)
            return found, {each.sample.id: _thinking(self._picked(each)) for each in edited}

    def _id(self, index: int) -> str:
        if index < 0:
            raise IndexError(index)
        return self.queue[index]

    def _own(self, store: Store) -> dict[str, Review]:
        return {each.sample: each for each in store.latest_reviews(reviewer=self.reviewer)}

    def _picked(self, item: Item) -> Chain:
        for chain in item.chains:
            if item.pick is not None and chain.call.id == item.pick.call:
                return chain
        raise OutdatedError(f"sample {item.sample.id!r} has no picked chain any more; go on")


def edit_problem(text: str, *, thinking: str) -> str | None:
    """Why ``text`` cannot stand in place of ``thinking``; None where it can."""
    if not text.strip():
        return "the thinking is empty; reject the chain instead"
    if found := FORM_TAG.search(text):
        return f"the tag {found.group()} would open or end a block of the answer; take it out"
    if text.strip() == thinking.strip():
        return "nothing was changed; accept the chain instead"
    return None


def _checked(decision: str, text: str | None, *, thinking: str) -> str | None:
    """The text that is kept with a decision."""
    if decision not in get_args(Decision):
        raise RefusedError(f"unknown decision {decision!r}")
    text = (text or "").strip()
    if len(text) > MAX_TEXT:
        raise RefusedError(f"the text has {len(text)} characters; at most {MAX_TEXT} are kept")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RefusedError("the text holds half a letter (a lone surrogate); take it out")
    if decision == "edit" and (problem := edit_problem(text, thinking=thinking)):
        raise RefusedError(problem)
    return text or None if decision in ("edit", "reject") else None


def _thinking(chain: Chain) -> str:
    return (chain.verdict.think if chain.verdict else None) or ""


def _to_json(item: Item, chain: Chain) -> dict[str, Any]:
    sample, verdict = item.sample, chain.verdict
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "call": chain.call.id,
        "model": chain.call.model,
        "think": _thinking(chain),
        "answer": chain.call.text.rpartition("</think>")[2].strip(),
        "iou": verdict.iou if verdict else None,
        "pick": item.pick.rule if item.pick else None,
        "images": [
            _image_to_json(image)
            | {
                "is_target": number == sample.target_image,
                "truth": [each.box.xyxy for each in sample.targets if each.image == number],
                "chain": verdict.boxes if verdict and number == sample.target_image else [],
            }
            for number, image in enumerate(sample.images)
        ],
    }


def _image_to_json(image: ImageRef) -> dict[str, Any]:
    is_crisp = max(image.width, image.height) <= _CRISP_SIDE
    return {"width": image.width, "height": image.height, "is_crisp": is_crisp}
