"""What reviews found: acceptance with its interval, agreement, rejections, edits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, Self

from reground.data.tasks import in_order
from reground.teacher.review.agreement import Agreement, agreements, wilson
from reground.teacher.rows import Review

_STRICTER = ("accept", "edit", "reject")


@dataclass(frozen=True, slots=True)
class Tally:
    """How many chains were judged, and how: of one reviewer, of one task, of all."""

    name: str
    accepted: int
    edited: int
    rejected: int

    @classmethod
    def of(cls, name: str, decisions: Iterable[str]) -> Self:
        """Counts decisions."""
        counts = Counter(decisions)
        return cls(name, counts["accept"], counts["edit"], counts["reject"])

    @property
    def n(self) -> int:
        """Chains judged."""
        return self.accepted + self.edited + self.rejected

    @property
    def rate(self) -> float | None:
        """The share accepted as it stood."""
        return self.accepted / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the rate."""
        return wilson(self.accepted, self.n) if self.n else None


@dataclass(frozen=True, slots=True)
class Results:
    """Of chains that several judged, the strictest judgement counts in ``overall`` and ``tasks``.

    ``edits`` and ``rejections`` are those of every reviewer.
    """

    overall: Tally
    tasks: tuple[Tally, ...]
    reviewers: tuple[Tally, ...]
    agreements: tuple[Agreement, ...]
    edits: tuple[Review, ...]
    rejections: tuple[Review, ...]


def results(reviews: Sequence[Review], *, tasks: Mapping[str, str]) -> Results:
    """What ``reviews``, the last of each reviewer on each chain, add up to; ``tasks`` is by id."""
    judged: dict[str, dict[str, str]] = defaultdict(dict)
    for review in reviews:
        judged[review.reviewer][review.sample] = review.decision
    final = {sample: review.decision for sample, review in combined(reviews).items()}
    by_task: dict[str, list[str]] = defaultdict(list)
    for sample, decision in final.items():
        by_task[tasks[sample]].append(decision)
    return Results(
        overall=Tally.of("all", final.values()),
        tasks=tuple(Tally.of(task, by_task[task]) for task in in_order(by_task)),
        reviewers=tuple(Tally.of(name, judged[name].values()) for name in sorted(judged)),
        agreements=tuple(agreements(judged)),
        edits=tuple(review for review in reviews if review.decision == "edit"),
        rejections=tuple(review for review in reviews if review.decision == "reject"),
    )


def combined(reviews: Iterable[Review]) -> dict[str, Review]:
    """One review for each sample: the strictest (reject, edit, accept), of several the last.

    One careful reader who rejects a chain outweighs those who did not see why.
    """
    by_sample: dict[str, Review] = {}
    for review in reviews:
        before = by_sample.get(review.sample)
        if before is None or _rank(review) >= _rank(before):
            by_sample[review.sample] = review
    return by_sample


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of a text that was edited."""

    kind: Literal["same", "removed", "added"]
    text: str


def changes(before: str, after: str) -> list[Piece]:
    """What an edit did, word by word.

    >>> [(piece.kind, piece.text) for piece in changes("the red cup", "the blue cup")]
    [('same', 'the'), ('removed', ' red'), ('added', ' blue'), ('same', ' cup')]
    """
    old, new = (re.findall(r"\s*\S+|\s+", text) for text in (before, after))
    pieces = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("same", "".join(old[i:j])))
            continue
        pieces.append(Piece("removed", "".join(old[i:j])))
        pieces.append(Piece("added", "".join(new[k:m])))
    return [piece for piece in pieces if piece.text]


def _rank(review: Review) -> int:
    return _STRICTER.index(review.decision)
