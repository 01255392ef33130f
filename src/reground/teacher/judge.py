"""The stage that picks the best of a sample's verified chains: a judge's votes, or the rule."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from reground.errors import RunError
from reground.grounding.sample import Sample
from reground.protocols.prompts import PromptProfile, load_profile
from reground.teacher import changes
from reground.teacher.ask import teacher_text
from reground.teacher.calling import Caller, Outcome
from reground.teacher.limits import Budget
from reground.teacher.pictures import Pictures
from reground.teacher.rows import Call, Chain, Item, Pick
from reground.teacher.settings import TeachConfig
from reground.teacher.store import Store
from reground.teacher.teachers import Question, opened
from reground.teacher.voting import LABELS, Order, by_rule, decide, orders, vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """How many picks were made, how many samples wait for a judge, and what the judge's run did.

    ``overtaken`` samples have verified chains that were not there when they were picked for.
    """

    picked: int
    waiting: int
    overtaken: int
    outcome: Outcome | None


def judge(
    store: Store,
    config: TeachConfig,
    *,
    again: bool = False,
    begin: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[Call], None] = lambda call: None,
) -> Judged:
    """Pick a chain for every sample that has verified ones and no pick; with ``again`` for all.

    A sample is picked for once all of its orders are answered; stored replies are not asked for
    again. ``begin`` is told how many calls are done of how many, then ``watch`` of each that is
    made. Raises ``RunError`` where there is no chain or one that is not verified yet, ``UserError``
    where nobody can be asked.
    """
    _check_verified(store)
    if config.judge.teacher.url is None:
        picked = _pick_all(store, config, lambda item, chains: by_rule(chains), again=again)
        return Judged(picked=picked, waiting=0, overtaken=_overtaken(store), outcome=None)
    profile = load_profile(config.judge.prompt, needs=("boxes", "chains"))
    with store.exclusively():
        left = sum(1 for _ in _questions(store, config, profile, again=again))
        begin(0, left)
        outcome = asyncio.run(_ask(store, config, profile, again, watch)) if left else None
    waiting = 0

    def by_votes(item: Item, chains: Sequence[Chain]) -> Pick | None:
        nonlocal waiting
        pick = _by_votes(store, item, chains, config, profile)
        waiting += pick is None
        return pick

    picked = _pick_all(store, config, by_votes, again=again)
    overtaken = _overtaken(store)
    return Judged(picked=picked, waiting=waiting, overtaken=overtaken, outcome=outcome)


def noted(config: TeachConfig) -> str:
    """The settings as they stand beside the picks that they made."""
    how = config.judge
    if how.teacher.url is None:
        return changes.noted({"judge": "rule"})
    prompt = changes.prompt(load_profile(how.prompt, needs=("boxes", "chains")))
    made = {"judge": how.teacher.model, "prompt": prompt, "rotations": how.rotations}
    return changes.noted(made)


def _check_verified(store: Store) -> None:
    store.check_asked()
    unverified = sum(chain.verdict is None for item in store.items() for chain in item.chains)
    if unverified:
        raise RunError(
            f"{store.path}: {unverified} chains are not verified yet; run `reground teach verify` "
            "first"
        )


def _pick_all(
    store: Store,
    config: TeachConfig,
    pick: Callable[[Item, Sequence[Chain]], Pick | None],
    *,
    again: bool,
) -> int:
    count, by = 0, noted(config)
    for item, chains in _open(store, again=again):
        made = by_rule(chains) if len(chains) == 1 else pick(item, chains)
        if made is not None:
            candidates = tuple(chain.call.id for chain in chains)
            by_whom = made.settings if made.rule == "only" else by
            store.set_pick(replace(made, candidates=candidates, settings=by_whom))
            count += 1
    return count


def _open(store: Store, *, again: bool) -> Iterator[tuple[Item, Sequence[Chain]]]:
    """Samples to pick for, with their verified chains."""
    for item in store.items():
        chains = _candidates(item)
        if chains and (again or item.pick is None):
            yield item, chains


def _candidates(item: Item) -> Sequence[Chain]:
    verified = [chain for chain in item.chains if chain.verdict and chain.verdict.ok]
    return verified[: len(LABELS)]


def _overtaken(store: Store) -> int:
    return sum(
        any(chain.call.id not in item.pick.candidates for chain in _candidates(item))
        for item in store.items()
        if item.pick
    )


async def _ask(
    store: Store,
    config: TeachConfig,
    profile: PromptProfile,
    again: bool,
    watch: Callable[[Call], None],
) -> Outcome:
    how = config.judge
    money = None if how.max_cost is None else how.max_cost - store.counts().cost
    async with opened(how.teacher, temperature=0.0, max_tokens=how.max_tokens) as answerer:
        return await Caller(
            store=store,
            answerer=answerer,
            teacher=how.teacher,
            stage="judge",
            prompt_sha256=profile.sha256,
            settings=noted(config),
            max_tokens=how.max_tokens,
            budget=Budget(calls=None, money=money),
            watch=watch,
        ).run(_questions(store, config, profile, again=again))


def _questions(
    store: Store, config: TeachConfig, profile: PromptProfile, *, again: bool
) -> Iterator[Question]:
    for item, chains in _open(store, again=again):
        if len(chains) == 1:
            continue
        sample = item.sample
        pictures = Pictures(
            sample.images, max_pixels=config.ask.max_pixels, factor=config.ask.factor
        )
        answered = _replies(store, sample, config, profile)
        for order in orders(chains, config.judge.rotations):
            if (number := _number(order)) not in answered:
                text = partial(_text, sample, order, profile)
                yield Question(sample, number, text, pictures, seed=number >> 1)


def _text(sample: Sample, order: Order, profile: PromptProfile) -> str:
    told = (
        f"{label}: {chain.verdict.think}"
        for label, chain in zip(LABELS, order, strict=False)
        if chain.verdict
    )
    return teacher_text(sample, profile, chains="\n\n".join(told))


def _by_votes(
    store: Store, item: Item, chains: Sequence[Chain], config: TeachConfig, profile: PromptProfile
) -> Pick | None:
    shown = orders(chains, config.judge.rotations)
    replies = _replies(store, item.sample, config, profile)
    if any(_number(order) not in replies for order in shown):
        return None
    return decide([vote(replies[_number(order)], len(chains)) for order in shown], shown)


def _replies(
    store: Store, sample: Sample, config: TeachConfig, profile: PromptProfile
) -> dict[int, str]:
    """What the judge of the settings has answered about a sample, by the number of the order."""
    return {
        call.number: call.text
        for call in store.calls_of(sample.id, stage="judge")
        if (call.state, call.model, call.prompt_sha256)
        == ("answered", config.judge.teacher.model, profile.sha256)
    }


def _number(order: Order) -> int:
    """Tells an order from others, also of more or fewer candidates: a vote is about one order."""
    return zlib.crc32(",".join(str(chain.call.id) for chain in order).encode())
