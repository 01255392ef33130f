"""The stage that picks the best of a sample's verified chains: a judge's votes, or a rule.

Judges prefer places (Zheng et al. 2023, "Judging LLM-as-a-Judge"), so k chains are shown in k
orders, each the one before turned by one, so that every chain has every place once. Each
reply is a vote; :func:`by_rule` decides ties, and all where there is no judge.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_uppercase
from typing import Literal

from reground.errors import RunError
from reground.grounding.sample import Sample
from reground.protocols.prompts import PromptProfile, load_profile
from reground.teacher.ask import teacher_text
from reground.teacher.calling import Caller, CallOutcome
from reground.teacher.pictures import Pictures
from reground.teacher.reasoning import words
from reground.teacher.rows import Chain, Entry, Pick, TeacherCall
from reground.teacher.settings import TeachConfig, noted, noted_prompt
from reground.teacher.store import Store
from reground.teacher.teachers import TeacherRequest

LABELS = ascii_uppercase  # of chains, in the order in which they are shown
Order = tuple[Chain, ...]  # candidates as they are labelled A, B, C, ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOutcome:
    """How many picks were made, how many samples wait for a judge, and what the judge's run did.

    ``overtaken`` samples have verified chains that were not there when they were picked for;
    ``settings`` are as noted.
    """

    picked: int
    waiting: int
    overtaken: int
    settings: str
    outcome: CallOutcome


def judge(
    store: Store,
    config: TeachConfig,
    *,
    again: bool = False,
    begin: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[TeacherCall], None] = lambda call: None,
) -> JudgeOutcome:
    """Pick a chain for every sample that has verified ones and no pick; with ``again`` for all.

    A sample is picked for once all of its orders are answered; stored replies are not asked for
    again. ``begin`` is called with how many calls are done and how many there are in all, then
    ``watch`` with each that is made. Raises ``RunError`` where there is no chain or one that is not
    verified yet, ``UserError`` where nobody can be asked.
    """
    _check_verified(store)
    votes, outcome = None, CallOutcome(settings=noted({"judge": "rule"}))
    if config.judge.teacher.url is not None:
        profile = load_profile(config.judge.prompt, needs=("boxes", "chains"))
        votes = _Votes(store, config, profile, again)
        outcome = votes.ask(begin, watch)
    picked = waiting = 0
    for entry in _open(store, again=again):
        chains = _candidates(entry)
        pick = by_rule(chains) if votes is None or len(chains) == 1 else votes.pick(entry)
        if pick is None:
            waiting += 1
            continue
        by_whom = pick.settings if pick.rule == "only" else outcome.settings
        candidates = tuple(chain.call.id for chain in chains)
        store.set_pick(replace(pick, candidates=candidates, settings=by_whom))
        picked += 1
    return JudgeOutcome(
        picked=picked,
        waiting=waiting,
        overtaken=sum(map(_is_overtaken, store.entries())),
        settings=outcome.settings,
        outcome=outcome,
    )


def _check_verified(store: Store) -> None:
    store.check_asked()
    unverified = sum(chain.finding is None for entry in store.entries() for chain in entry.chains)
    if unverified:
        raise RunError(
            f"{store.path}: {unverified} chains are not verified yet; run `reground teach verify` "
            "first"
        )


def _open(store: Store, *, again: bool) -> Iterator[Entry]:
    """Samples to pick for."""
    for entry in store.entries():
        if _candidates(entry) and (again or entry.pick is None):
            yield entry


def _candidates(entry: Entry) -> Sequence[Chain]:
    return entry.verified[: len(LABELS)]


def _is_overtaken(entry: Entry) -> bool:
    return entry.pick is not None and any(
        chain.call.id not in entry.pick.candidates for chain in _candidates(entry)
    )


@dataclass(frozen=True, slots=True)
class _Votes:
    """The votes of the judge that the settings name, asked by ``profile``."""

    store: Store
    config: TeachConfig
    profile: PromptProfile
    again: bool

    def ask(
        self, begin: Callable[[int, int], None], watch: Callable[[TeacherCall], None]
    ) -> CallOutcome:
        """Ask for the votes that the database lacks."""
        how, prompt = self.config.judge, noted_prompt(self.profile)
        return Caller(
            store=self.store,
            teacher=how.teacher,
            stage="judge",
            prompt_sha256=self.profile.sha256,
            settings=noted(
                {"judge": how.teacher.model, "prompt": prompt, "rotations": how.rotations}
            ),
            temperature=0.0,
            max_tokens=how.max_tokens,
            max_cost=how.max_cost,
            begin=begin,
            watch=watch,
        ).run(self._requests)

    def pick(self, entry: Entry) -> Pick | None:
        """The pick of the votes about an entry; None where one is lacking."""
        chains = _candidates(entry)
        shown = orders(chains, self.config.judge.rotations)
        replies = self._replies(entry.sample)
        if any(_number(order) not in replies for order in shown):
            return None
        return decide([vote(replies[_number(order)], len(chains)) for order in shown], shown)

    def _requests(self) -> Iterator[TeacherRequest]:
        how = self.config.ask
        for entry in _open(self.store, again=self.again):
            sample, chains = entry.sample, _candidates(entry)
            if len(chains) == 1:
                continue
            pictures = Pictures(sample.images, max_pixels=how.max_pixels, factor=how.factor)
            answered = self._replies(sample)
            for order in orders(chains, self.config.judge.rotations):
                if (number := _number(order)) not in answered:
                    text = partial(self._text, sample, order)
                    yield TeacherRequest(sample, number, text, pictures, seed=number >> 1)

    def _text(self, sample: Sample, order: Order) -> str:
        labelled = [f"{label}: {chain.think}" for label, chain in zip(LABELS, order, strict=False)]
        return teacher_text(sample, self.profile, chains="\n\n".join(labelled))

    def _replies(self, sample: Sample) -> dict[int, str]:
        """What this judge has answered about a sample, by the number of the order."""
        return {
            call.number: call.text
            for call in self.store.calls(stage="judge", sample_id=sample.id)
            if (call.state, call.model, call.prompt_sha256)
            == ("answered", self.config.judge.teacher.model, self.profile.sha256)
        }


def _number(order: Order) -> int:
    """Tells an order from others, also of more or fewer candidates: a vote is about one order."""
    return zlib.crc32(",".join(str(chain.call.id) for chain in order).encode())


def by_rule(chains: Sequence[Chain]) -> Pick:
    """The pick without a judge.

    The chains whose boxes fit best (IoU to two decimals: less is rounding); of these the one of
    median length in words, the shorter of two, since the curt ones leave steps out and the long
    ones ramble; of equally long ones the first.
    """
    best = max(map(_iou, chains))
    fitting = [chain for chain in chains if _iou(chain) == best]
    fitting.sort(key=lambda chain: (len(words(chain.think)), chain.call.number, chain.call.id))
    call = fitting[(len(fitting) - 1) // 2].call
    return Pick(sample=call.sample, call=call.id, rule="only" if len(chains) == 1 else "rule")


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
    if "<think>" in text:  # cut off as it thought
        return None
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
    is_tie = len(leading) > 1
    rule: Literal["judge", "rule"] = "judge" if counts else "rule"
    return replace(by_rule(leading), rule=rule, tie=is_tie, detail=detail)


def _iou(chain: Chain) -> float:
    assert chain.finding is not None and chain.finding.iou is not None
    return round(chain.finding.iou, 2)
