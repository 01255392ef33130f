"""The stage that picks the best of a sample's verified chains: a judge's votes, or the rule."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from reground.errors import RunError
from reground.grounding.sample import Sample
from reground.protocols.prompts import PromptProfile, load_profile
from reground.teacher.ask import teacher_text
from reground.teacher.calling import Caller, CallOutcome
from reground.teacher.pictures import Pictures
from reground.teacher.rows import Chain, Entry, Pick, TeacherCall
from reground.teacher.settings import TeachConfig, noted, noted_prompt
from reground.teacher.store import Store
from reground.teacher.teachers import TeacherRequest
from reground.teacher.voting import LABELS, Order, by_rule, decide, orders, vote


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
    votes, outcome, settings = None, CallOutcome(), noted({"judge": "rule"})
    if config.judge.teacher.url is not None:
        profile = load_profile(config.judge.prompt, needs=("boxes", "chains"))
        votes = _Votes(store, config, profile)
        settings = votes.noted()
        outcome = votes.ask(again=again, begin=begin, watch=watch)
    picked = waiting = 0
    for entry in _open(store, again=again):
        chains = _candidates(entry)
        pick = by_rule(chains) if votes is None or len(chains) == 1 else votes.pick(entry)
        if pick is None:
            waiting += 1
            continue
        by_whom = pick.settings if pick.rule == "only" else settings
        candidates = tuple(chain.call.id for chain in chains)
        store.set_pick(replace(pick, candidates=candidates, settings=by_whom))
        picked += 1
    return JudgeOutcome(
        picked=picked,
        waiting=waiting,
        overtaken=sum(map(_is_overtaken, store.entries())),
        settings=settings,
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
    return [chain for chain in entry.chains if chain.is_verified][: len(LABELS)]


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

    def noted(self) -> str:
        """The settings as they are stored with the picks."""
        how = self.config.judge
        prompt = noted_prompt(self.profile)
        return noted({"judge": how.teacher.model, "prompt": prompt, "rotations": how.rotations})

    def ask(
        self,
        *,
        again: bool,
        begin: Callable[[int, int], None],
        watch: Callable[[TeacherCall], None],
    ) -> CallOutcome:
        """Ask for the votes that the database lacks."""
        how = self.config.judge
        with self.store.exclusively():
            left = sum(1 for _ in self._requests(again=again))
            begin(0, left)
            if not left:
                return CallOutcome()
            return Caller(
                store=self.store,
                teacher=how.teacher,
                stage="judge",
                prompt_sha256=self.profile.sha256,
                settings=self.noted(),
                temperature=0.0,
                max_tokens=how.max_tokens,
                max_cost=how.max_cost,
                watch=watch,
            ).run(self._requests(again=again))

    def pick(self, entry: Entry) -> Pick | None:
        """The pick of the votes about an entry; None where one is lacking."""
        chains = _candidates(entry)
        shown = orders(chains, self.config.judge.rotations)
        replies = self._replies(entry.sample)
        if any(_number(order) not in replies for order in shown):
            return None
        return decide([vote(replies[_number(order)], len(chains)) for order in shown], shown)

    def _requests(self, *, again: bool) -> Iterator[TeacherRequest]:
        how = self.config.ask
        for entry in _open(self.store, again=again):
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
        labelled = (
            f"{label}: {chain.finding.think}"
            for label, chain in zip(LABELS, order, strict=False)
            if chain.finding
        )
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
