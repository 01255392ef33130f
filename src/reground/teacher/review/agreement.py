"""How sure a share is, and how far people who judged the same things agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

_Z = 1.959963984540054  # of the normal distribution, for 95 % between -z and z


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927), which is sound near 0 and 1 too.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    middle = hits + _Z**2 / 2
    half = _Z * math.sqrt(hits * (n - hits) / n + _Z**2 / 4)
    return max(0.0, (middle - half) / (n + _Z**2)), min(1.0, (middle + half) / (n + _Z**2))


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often ``reviewers`` said the same about the ``n`` items that all of them judged.

    ``share`` is of pairs of judgements of one item. ``kappa`` is what chance does not explain of
    it: Cohen's for two, Fleiss' for more; None where nobody ever said anything else, for then
    chance explains everything.
    """

    reviewers: tuple[str, ...]
    n: int
    share: float
    kappa: float | None


def agreements(judged: Mapping[str, Mapping[str, str]]) -> list[Agreement]:
    """Of all reviewers together where they are more than two, then of every two of them.

    ``judged`` holds each reviewer's judgements by item; groups without a common item are left out.
    """
    names = sorted(judged)
    together = [tuple(names)] if len(names) > 2 else []
    groups = chain(together, combinations(names, 2))
    found = (_agreement(group, [judged[name] for name in group]) for group in groups)
    return [each for each in found if each is not None]


def _agreement(names: tuple[str, ...], judged: Sequence[Mapping[str, str]]) -> Agreement | None:
    common = set(judged[0]).intersection(*judged[1:])
    rows = [[each[item] for each in judged] for item in sorted(common)]
    if not rows:
        return None
    kappa = cohen_kappa(rows) if len(names) == 2 else fleiss_kappa(rows)
    return Agreement(names, len(rows), observed(rows), kappa)


def observed(rows: Sequence[Sequence[str]]) -> float:
    """The share of pairs of judgements of one item that are the same; an item is a row.

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
