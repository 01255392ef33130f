"""What reviews found: acceptance with its interval, agreement, rejections, edits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import chain, combinations
from typing import Literal, Self

from reground.data.benchmarks import in_order
from reground.teacher.rows import Review

_STRICTER = ("accept", "edit", "reject")


@dataclass(frozen=True, slots=True)
class Decisions:
    """How many chains were judged, and how: of one reviewer, of one task, of all."""

    name: str
    accepted: int
    edited: int
    rejected: int

    @classmethod
    def of(cls, name: str, decisions: Iterable[str]) -> Self:
        """Count decisions."""
        counts = Counter(decisions)
        return cls(name, counts["accept"], counts["edit"], counts["reject"])

    @property
    def n(self) -> int:
        """Chains judged."""
        return self.accepted + self.edited + self.rejected

    @property
    def rate(self) -> float | None:
        """The share accepted unchanged."""
        return self.accepted / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the rate."""
        return wilson(self.accepted, self.n) if self.n else None


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), which is sound near 0 and 1 too.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    from scipy.stats import binomtest  # 0.7 s

    found = binomtest(hits, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often ``reviewers`` said the same about the ``n`` chains that all of them judged.

    ``share`` is of pairs of judgements of one chain. ``kappa`` is what chance does not explain of
    it: Cohen's for two, Fleiss' for more; None where nobody ever said anything else, for then
    chance explains everything.
    """

    reviewers: tuple[str, ...]
    n: int
    share: float
    kappa: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """Of chains that several judged, the strictest judgement counts in ``overall`` and ``tasks``.

    ``edits`` and ``rejections`` are those of every reviewer.
    """

    overall: Decisions
    tasks: tuple[Decisions, ...]
    reviewers: tuple[Decisions, ...]
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
        overall=Decisions.of("all", final.values()),
        tasks=tuple(Decisions.of(task, by_task[task]) for task in in_order(by_task)),
        reviewers=tuple(Decisions.of(name, judged[name].values()) for name in sorted(judged)),
        agreements=tuple(agreements(judged)),
        edits=tuple(review for review in reviews if review.decision == "edit"),
        rejections=tuple(review for review in reviews if review.decision == "reject"),
    )


def combined(reviews: Iterable[Review]) -> dict[str, Review]:
    """One review for each sample: the strictest (reject, edit, accept), of several the last.

    One careful reader who rejects a chain outweighs those who did not see why.
    """
    by_strictness = sorted(reviews, key=lambda review: _STRICTER.index(review.decision))
    return {review.sample: review for review in by_strictness}


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Some words of a text that was edited."""

    kind: Literal["same", "removed", "added"]
    text: str


def changes(before: str, after: str) -> list[TextPiece]:
    """What an edit did, word by word.

    >>> [(piece.kind, piece.text) for piece in changes("the red cup", "the blue cup")]
    [('same', 'the'), ('removed', ' red'), ('added', ' blue'), ('same', ' cup')]
    """
    old, new = (re.findall(r"\s*\S+|\s+", text) for text in (before, after))
    pieces = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        is_same = kind == "equal"
        pieces.append(TextPiece("same" if is_same else "removed", "".join(old[i:j])))
        pieces.append(TextPiece("added", "" if is_same else "".join(new[k:m])))
    return [piece for piece in pieces if piece.text]


def agreements(judged: Mapping[str, Mapping[str, str]]) -> list[Agreement]:
    """Of all reviewers together where they are more than two, then of every two of them.

    ``judged`` holds each reviewer's judgements by sample; groups without a common one are left out.
    """
    names = sorted(judged)
    together = [tuple(names)] if len(names) > 2 else []
    groups = chain(together, combinations(names, 2))
    found = (_agreement(group, [judged[name] for name in group]) for group in groups)
    return [each for each in found if each is not None]


def _agreement(names: tuple[str, ...], judged: Sequence[Mapping[str, str]]) -> Agreement | None:
    common = set(judged[0]).intersection(*judged[1:])
    rows = [[each[sample] for each in judged] for sample in sorted(common)]
    if not rows:
        return None
    kappa = cohen_kappa(rows) if len(names) == 2 else fleiss_kappa(rows)
    return Agreement(names, len(rows), observed(rows), kappa)


def observed(rows: Sequence[Sequence[str]]) -> float:
    """The share of pairs of judgements of one chain that are the same; a chain is a row.

    >>> observed([["yes", "yes", "no"], ["no", "no", "no"]])  # 1 of 3 pairs, and 3 of 3
    0.6666666666666666
    """
    pairs = [first == second for row in rows for first, second in combinations(row, 2)]
    return sum(pairs) / len(pairs)


def cohen_kappa(rows: Sequence[Sequence[str]]) -> float | None:
    """Cohen's kappa (1960) of two judges: chance is the product of what each says how often."""
    first, second = (Counter(row[judge] for row in rows) for judge in (0, 1))
    by_chance = sum(first[word] * second[word] for word in first) / len(rows) ** 2
    return _beyond(observed(rows), by_chance)


def fleiss_kappa(rows: Sequence[Sequence[str]]) -> float | None:
    """Fleiss' kappa (1971) of several judges: chance is what all say together, squared."""
    words = Counter(chain.from_iterable(rows))
    by_chance = sum(count**2 for count in words.values()) / words.total() ** 2
    return _beyond(observed(rows), by_chance)


def _beyond(share: float, by_chance: float) -> float | None:
    return None if by_chance == 1 else (share - by_chance) / (1 - by_chance)
