"""One reviewer's way through a sample of the picked chains; knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from PIL import Image

from reground.data import images
from reground.errors import ConfigError, RunError, UserError
from reground.grounding.codecs import FORM_TAG
from reground.teacher.review.results import Decisions, Results, results
from reground.teacher.rows import Chain, Decision, Entry, Review
from reground.teacher.store import Store

MAX_TEXT = 20_000  # characters of an edit or a reason
MAX_NAME = 60
_SIDES = (64, 4096)  # least and most pixels of an image's longer side, as it is sent
_CRISP_SIDE = 256  # smaller images are sent exactly (PNG) and enlarged without blur


class RefusedError(UserError):
    """A decision that cannot be stored as it is."""

    help = "reviewing-chains"


class OutdatedError(UserError):
    """A decision about a chain that is the pick no more."""

    help = "reviewing-chains"


@dataclass(frozen=True, slots=True)
class SentImage:
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
        return cls(path, name, chosen_ids(tasks, share=share, seed=seed), len(tasks))

    def unjudged(self) -> list[int]:
        """Where chains are that this reviewer has not judged yet."""
        with Store.open(self.path) as store:
            done, picked = self._own(store), store.picked()
        return [
            index
            for index, sample_id in enumerate(self.queue)
            if sample_id not in done and sample_id in picked
        ]

    def tally(self) -> Decisions:
        """What this reviewer said so far about the chains of this session."""
        with Store.open(self.path) as store:
            own = self._own(store)
        judged = [own[sample_id].decision for sample_id in self.queue if sample_id in own]
        return Decisions.of(self.reviewer, judged)

    def sample(self, index: int) -> dict[str, Any]:
        """What the page shows of one chain, as JSON; raises ``OutdatedError`` if it has none."""
        with Store.open(self.path) as store:
            entry = store.entry(self.queue[index])
            own = store.latest_reviews(reviewer=self.reviewer, sample_id=entry.sample.id)
        decision = {"decision": own[0].decision, "text": own[0].text} if own else None
        return {"index": index, "own": decision, **_to_json(entry, _picked(entry))}

    def image(self, index: int, number: int, *, side: int) -> SentImage:
        """An image of a sample, no side longer than ``side``; raises ``DataError`` as loading."""
        with Store.open(self.path) as store:
            sample = store.entry(self.queue[index]).sample
        image = images.load(sample.images[number])
        kind = "PNG" if _is_crisp(*image.size) else "JPEG"
        least, most = _SIDES
        image.thumbnail((min(max(side, least), most),) * 2)
        out = io.BytesIO()
        image.save(out, format=kind, quality=88)
        return SentImage(Image.MIME[kind], out.getvalue())

    def decide(self, index: int, *, call: int, decision: str, text: str | None = None) -> None:
        """Store a decision on the chain ``call``, which the reviewer was shown.

        Raises ``RefusedError`` where it is none, or an edit is no reasoning; ``OutdatedError``
        where another chain has been picked since.
        """
        with Store.open(self.path) as store:
            chain = _picked(store.entry(self.queue[index]))
            if chain.call.id != call:
                raise OutdatedError("another chain has been picked since; look at it again")
            review = Review(
                sample=chain.call.sample,
                call=call,
                reviewer=self.reviewer,
                decision=decision,  # type: ignore[arg-type]  # checked on the next line
                text=_checked(decision, text, reasoning=chain.think),
            )
            store.add_review(review)

    def results(self) -> tuple[Results, Mapping[str, str]]:
        """What all reviews of this database add up to, and the reasoning before each edit.

        Other reviewers' decisions count too, and those that were made with another seed or share.
        """
        with Store.open(self.path) as store:
            reviews, tasks = store.latest_reviews(), store.picked()
            found = results([each for each in reviews if each.sample in tasks], tasks=tasks)
            edited = (store.entry(review.sample) for review in found.edits)
            return found, {each.sample.id: _picked(each).think for each in edited}

    def _own(self, store: Store) -> dict[str, Review]:
        return {each.sample: each for each in store.latest_reviews(reviewer=self.reviewer)}


def _picked(entry: Entry) -> Chain:
    if entry.picked is None:
        raise OutdatedError(f"sample {entry.sample.id!r} has no picked chain any more; go on")
    return entry.picked


def _checked(decision: str, text: str | None, *, reasoning: str) -> str | None:
    """The text that is kept with a decision."""
    if decision not in get_args(Decision):
        raise RefusedError(f"unknown decision {decision!r}")
    text = (text or "").strip()
    if len(text) > MAX_TEXT:
        raise RefusedError(f"the text has {len(text)} characters; at most {MAX_TEXT} are kept")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise RefusedError("the text holds half a letter (a lone surrogate); take it out")
    if decision == "edit":
        _check_edit(text, reasoning=reasoning)
    return text or None if decision in ("edit", "reject") else None


def _check_edit(text: str, *, reasoning: str) -> None:
    """Raise ``RefusedError`` where ``text`` cannot take the place of ``reasoning``."""
    if not text:
        raise RefusedError("the reasoning is empty; reject the chain instead")
    if found := FORM_TAG.search(text):
        raise RefusedError(
            f"the tag {found.group()} would open or end a block of the answer; take it out"
        )
    if text == reasoning.strip():
        raise RefusedError("nothing was changed; accept the chain instead")


def _to_json(entry: Entry, chain: Chain) -> dict[str, Any]:
    sample, finding = entry.sample, chain.finding
    return {
        "id": sample.id,
        "task": sample.task,
        "question": sample.question,
        "call": chain.call.id,
        "model": chain.call.model,
        "think": chain.think,
        "answer": chain.call.text.rpartition("</think>")[2].strip(),
        "iou": finding.iou if finding else None,
        "pick": entry.pick.rule if entry.pick else None,
        "images": [
            {
                "width": image.width,
                "height": image.height,
                "is_crisp": _is_crisp(image.width, image.height),
                "is_target": number == sample.target_image,
                "truth": [each.box.xyxy for each in sample.targets if each.image == number],
                "chain": finding.boxes if finding and number == sample.target_image else [],
            }
            for number, image in enumerate(sample.images)
        ],
    }


def _is_crisp(width: int, height: int) -> bool:
    return max(width, height) <= _CRISP_SIDE


def chosen_ids(tasks: Mapping[str, str], *, share: float, seed: int) -> tuple[str, ...]:
    """At least ``share`` of the samples of each task (id -> task), and one of every task.

    The choice and its order follow a hash of seed and id: whatever the order of ``tasks``, a larger
    share holds a smaller one, and tasks come mixed, so that a review which stops early has still
    seen a random part. Raises ``ConfigError`` for a share that is not above 0 and at most 1.

    >>> chosen_ids({"a": "diff", "b": "diff", "c": "region"}, share=0.5, seed=1)
    ('a', 'c')
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share: found {share}, expected a number above 0 and at most 1")

    def order(sample_id: str) -> bytes:
        return hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()

    num_of, taken = Counter(tasks.values()), Counter[str]()
    chosen = []
    for sample_id in sorted(tasks, key=order):
        task = tasks[sample_id]
        if taken[task] < share * num_of[task] - 1e-9:  # 0.07 * 100 is above 7
            taken[task] += 1
            chosen.append(sample_id)
    return tuple(chosen)
