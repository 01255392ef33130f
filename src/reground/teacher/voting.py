"""How the best of several chains is found: orders in which they are shown, votes, and a rule.

Judges prefer places (Zheng et al. 2023, "Judging LLM-as-a-Judge"), so k chains are shown in k
orders, each the one before turned by one, so that every chain has every place once. Each
reply is a vote; :func:`by_rule` decides ties, and all where there is no judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from reground.teacher import reasoning
from reground.teacher.rows import Chain, Pick

LABELS = ascii_uppercase  # of chains, in the order in which they are shown
Order = tuple[Chain, ...]  # candidates as they are labelled A, B, C, ...


def by_rule(chains: Sequence[Chain]) -> Pick:
    """The pick without a judge.

    The chains whose boxes fit best (IoU to two decimals: less is rounding); of these the one of
    median length in words, the shorter of two, since the curt ones leave steps out and the long
    ones ramble; of equally long ones the first.
    """
    if len(chains) == 1:
        return _pick(chains[0], "only")
    best = max(_iou(chain) for chain in chains)
    fitting = [chain for chain in chains if _iou(chain) == best]
    fitting.sort(key=lambda chain: (_length(chain), chain.call.number, chain.call.id))
    return _pick(fitting[(len(fitting) - 1) // 2], "rule")


def orders(chains: Sequence[Chain], rotations: int | None = None) -> list[Order]:
    """The first ``rotations`` of the k orders in which k chains are shown; all without a number."""
    shown = tuple(chains)
    turned = [shown[start:] + shown[:start] for start in range(len(shown))]
    return turned[:rotations]


def vote(text: str, num_chains: int) -> int | None:
    """The chain that a judge's reply names, counted from 0; None where it does not say.

    The reply is a letter, or ends in one after a word such as "best" or "answer".

    >>> vote("B.", 3), vote("Both are good. The best chain is: **C**", 3), vote("A or B?", 3)
    (1, 2, None)
    """
    text = text.rpartition("</think>")[2]
    found = _LETTER.fullmatch(text.strip()) or _NAMED.search(text[-_TAIL:])
    if found is None:
        return None
    index = LABELS.index(found[1])
    return index if index < num_chains else None


_LETTER = re.compile(r"[^\w]{0,10}([A-Z])[^\w]{0,10}")
_NAMED = re.compile(
    r"\b(?i:answer|best|choice|choose|pick|winner|verdict)(?i:\W{1,6}(?:chain|one|is|option)){0,3}"
    r"\W{1,6}([A-Z])\W{0,10}\Z"
)
_TAIL = 200  # characters in which the conclusion is looked for


def decide(votes: Sequence[int | None], shown: Sequence[Order]) -> Pick:
    """The pick that ``votes`` make, each about the order at the same place of ``shown``."""
    chains = {chain.call.id: chain for chain in shown[0]}
    counts = Counter(
        order[index].call.id for index, order in zip(votes, shown, strict=True) if index is not None
    )
    most = max(counts.values(), default=0)
    leading = [chain for call, chain in chains.items() if counts[call] == most]
    listed = ", ".join(f"chain {chains[call].call.number}: {n}" for call, n in counts.most_common())
    detail = f"votes of {len(votes)}: {listed or 'none'}"
    if len(leading) == 1:
        return _pick(leading[0], "judge", detail=detail)
    settled = by_rule(leading)
    return _pick(chains[settled.call], "judge" if counts else "rule", tie=True, detail=detail)


def _pick(
    chain: Chain, rule: Literal["judge", "rule", "only"], *, tie: bool = False, detail: str = ""
) -> Pick:
    call = chain.call
    return Pick(sample=call.sample, call=call.id, rule=rule, tie=tie, detail=detail)


def _iou(chain: Chain) -> float:
    assert chain.finding is not None and chain.finding.iou is not None
    return round(chain.finding.iou, 2)


def _length(chain: Chain) -> int:
    assert chain.finding is not None
    return len(reasoning.words(chain.finding.think or ""))
