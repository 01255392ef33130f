"""How sure a model was of each box: the probability of the tokens that spell it.

An answer that is less sure than was asked for is an abstention: its boxes count for nothing.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from reground.grounding.answers import Answer, Status
from reground.grounding.grammars import NUMBER, number

_SCAN = re.compile(NUMBER)


def box_scores(
    pieces: Sequence[str], logprobs: Sequence[float], quads: Sequence[Sequence[float]]
) -> tuple[float | None, ...]:
    """A score in [0, 1] for each box: the geometric mean probability of its numbers' tokens.

    ``pieces`` are the tokens of a text and ``logprobs`` the log-prob of each; ``quads`` are the
    boxes as they stand in the text (:func:`reground.grounding.answers.quads`). They are looked for
    from its end, where an answer stands. None for a box whose numbers are not there as such, and
    for those before it.

    >>> pieces = ["It is ", "(", "1", "2", ",", "3", "),(", "4", "5", ",", "60", ")"]
    >>> logprobs = [-9, -9, -0.1, -0.3, -9, 0, -9, -0.2, -0.2, -9, -0.4, -9]
    >>> [round(score, 3) for score in box_scores(pieces, logprobs, [[12, 3, 45, 60]])]
    [0.819]
    """
    found = [*_SCAN.finditer("".join(pieces))]
    values = [number(each[0]) for each in found]
    ends = [*accumulate(map(len, pieces))]
    scores: list[float | None] = []
    end = len(found)
    for quad in reversed(quads):
        wanted, start = sorted(quad), end - len(quad)
        while start >= 0 and sorted(values[start : start + len(quad)]) != wanted:
            start -= 1
        own = found[start : start + len(quad)] if start >= 0 else []
        tokens = sorted({place for each in own for place in _tokens(each, ends)})
        total = math.fsum(logprobs[place] for place in tokens)
        scores.append(math.exp(total / len(tokens)) if own else None)
        end = max(start, 0)
    return tuple(reversed(scores))


def least(scores: Sequence[float | None]) -> float | None:
    """An answer's score: that of its least sure box; None without boxes, or where one has none.

    >>> least([0.9, 0.7]), least([0.9, None]), least([])
    (0.7, None, None)
    """
    known = [score for score in scores if score is not None]
    return min(known) if known and len(known) == len(scores) else None


def unless_unsure(
    answer: Answer, scores: Sequence[float | None], min_score: float | None
) -> Answer:
    """The answer; without its boxes, and ``abstained``, where one of these is less sure than that.

    A box without a score is not known to be sure enough. An answer that says that nothing is there
    has no box that could fall short.

    >>> from reground.grounding.boxes import THOUSAND, Box
    >>> answer = Answer(Status.OK, (Box(0, 0, 500, 500, THOUSAND),))
    >>> [unless_unsure(answer, [0.7], least).status.value for least in (None, 0.7, 0.8)]
    ['ok', 'ok', 'abstained']
    """
    if min_score is None or not answer.boxes:
        return answer
    sure = len(scores) == len(answer.boxes) and (least(scores) or 0.0) >= min_score
    return answer if sure else replace(answer, status=Status.ABSTAINED, boxes=(), num_clipped=0)


def _tokens(found: re.Match[str], ends: Sequence[int]) -> range:
    """The tokens, by where each ends in the text, that hold some of what was found."""
    return range(bisect_right(ends, found.start()), bisect_right(ends, found.end() - 1) + 1)
