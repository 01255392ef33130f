"""The loop between a policy and an environment: turns of a rollout, all rollouts at a time.

A rollout is a list of turns after a prompt: sampled by the policy, or observations that the
environment made. Turns are ids and are concatenated, never written out and read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain

from reground.grounding.sample import Sample
from reground.model.chat import EncodedImage, Prompt
from reground.protocols.calls import Function
from reground.protocols.protocol import AnswerProtocol, Plan
from reground.rollout.environment import Observation, Pending, PlannedEnvironment, Start
from reground.rollout.policy import Completion, Heard, Policy, Prefix, Prefixes, Sampling


class RolloutStatus(StrEnum):
    """How a rollout ended."""

    COMPLETED = "completed"
    NO_CALL = "no_call"  # ended by itself and never asked for the tool that was there
    TOOL_FAILED = "tool_failed"  # ended by itself, but a tool that it asked gave no result
    OVER_LONG = "over_long"  # cut at the limit of tokens


@dataclass(frozen=True, slots=True)
class Turn:
    """Ids that the policy sampled, with their log-probs, or an observation (``logprobs`` None).

    ``images`` are those whose tokens are among the ids; a policy samples none.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...] | None
    images: tuple[EncodedImage, ...] = ()


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a policy made of one prompt, and how it ended.

    ``ids``, ``sampled`` and ``logprobs`` are streams of one length, after the prompt.
    Concatenating the turns' ids gives exactly what the policy saw. ``sample`` holds what tools
    found for it; ``text`` and ``protocol`` are there once somebody has decoded the ids.

    >>> observed = Turn((9,), None)
    >>> turns = (Turn((7, 8), (-0.5, -0.25)), observed)
    >>> two = Trajectory(None, None, turns, RolloutStatus.COMPLETED)
    >>> two.ids, two.sampled, two.logprobs, two.num_sampled
    ((7, 8, 9), (True, True, False), (-0.5, -0.25, 0.0), 2)
    """

    sample: Sample
    prompt: Prompt
    turns: tuple[Turn, ...]
    status: RolloutStatus
    policy_version: int = 0
    text: str = ""
    protocol: AnswerProtocol | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids after the prompt."""
        return tuple(chain.from_iterable(turn.ids for turn in self.turns))

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """All images after the prompt, in the order of their tokens."""
        return tuple(chain.from_iterable(turn.images for turn in self.turns))

    @property
    def sampled(self) -> tuple[bool, ...]:
        """Whether the policy sampled each id; the others are observations."""
        return tuple(turn.logprobs is not None for turn in self.turns for _ in turn.ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """The log-prob at which each id was sampled; 0 on observations."""
        return tuple(
            chain.from_iterable(turn.logprobs or (0.0,) * len(turn.ids) for turn in self.turns)
        )

    @property
    def num_sampled(self) -> int:
        """How many ids the policy sampled."""
        return sum(self.sampled)


def roll_out(
    policy: Policy,
    environment: PlannedEnvironment,
    starts: Sequence[Start],
    *,
    n: int,
    sampling: Sampling,
    keys: Sequence[int] | None = None,
    heard: Heard | None = None,
) -> list[tuple[Trajectory, ...]]:
    """``n`` rollouts of every start; ``sampling.max_tokens`` limits what one samples in all turns.

    All rollouts of one plan take each turn together, so that one prompt is read once for all of
    them, and one call of ``answer`` serves all that wait. ``heard`` is told the place of a start
    and all ids of its one rollout (n = 1) so far, observations included, as they grow.
    """
    if not starts:
        return []
    environment.begin(starts)
    growing = [[_Growing(start, sampling.max_tokens) for _ in range(n)] for start in starts]
    plans: dict[Plan, list[int]] = {}
    for place, start in enumerate(starts):
        plans.setdefault(environment.plan(start.sample), []).append(place)
    for plan, places in plans.items():
        own = None if keys is None else [keys[place] for place in places]
        groups = [growing[place] for place in places]
        hears = _hears(heard, places, groups) if heard else None
        _grow(policy, environment, plan, groups, sampling, own, hears)
    return [_trajectories(group, environment) for group in growing]


def one_turn(
    policy: Policy,
    starts: Sequence[Start],
    *,
    sampling: Sampling,
    keys: Sequence[int] | None = None,
    heard: Heard | None = None,
) -> list[Trajectory]:
    """One turn after each start, whatever its protocol plans, and the end."""
    prompts, begun = zip(*((start.prompt, [Prefix(start.begun)]) for start in starts), strict=True)
    done = policy.generate(prompts, n=1, sampling=sampling, keys=keys, prefixes=begun, heard=heard)
    return [
        Trajectory(
            start.sample,
            start.prompt,
            (Turn(start.begun, None), Turn(own.ids, own.logprobs)),
            RolloutStatus.OVER_LONG if own.finish == "length" else RolloutStatus.COMPLETED,
            own.policy_version,
        )
        for start, (own,) in zip(starts, done, strict=True)
    ]


def _grow(
    policy: Policy,
    environment: PlannedEnvironment,
    plan: Plan,
    groups: Sequence[Sequence[_Growing]],
    sampling: Sampling,
    keys: Sequence[int] | None,
    heard: Heard | None,
) -> None:
    """Take all turns of the groups, which have one plan."""
    prompts = [group[0].start.prompt for group in groups]
    every = list(chain.from_iterable(groups))
    prefixes: list[Prefixes] | None = None
    for num_answers in range(plan.max_calls + 1):
        own = replace(
            sampling,
            stop=() if num_answers == plan.max_calls else plan.stop,
            max_tokens=max(each.left for each in every if each.is_open),
        )
        completed = policy.generate(
            prompts, n=len(groups[0]), sampling=own, keys=keys, prefixes=prefixes, heard=heard
        )
        for each, completion in zip(every, chain.from_iterable(completed), strict=True):
            each.add(completion, waits=bool(own.stop))
        waiting = [each for each in every if each.is_open]
        if not waiting:
            break
        asking = [Pending(each.start, each.prefix.ids) for each in waiting]
        for each, observation in zip(waiting, environment.answer(asking), strict=True):
            each.observe(observation)
        prefixes = [[each.prefix if each.is_open else None for each in group] for group in groups]


def _hears(heard: Heard, places: Sequence[int], groups: Sequence[Sequence[_Growing]]) -> Heard:
    """Hears of one turn and tells of the whole rollout, by the place of its start."""
    return lambda row, ids: heard(places[row], (*groups[row][0].prefix.ids, *ids))


def _trajectories(
    group: Sequence[_Growing], environment: PlannedEnvironment
) -> tuple[Trajectory, ...]:
    """The rollouts of one start, which have ended."""
    sample = environment.observed(group[0].start.sample)
    offered = Function.RESULT in environment.plan(sample).functions
    return tuple(each.trajectory(sample, offered=offered) for each in group)


@dataclass(slots=True)
class _Growing:
    """A rollout on its way."""

    start: Start
    left: int  # tokens that it may still sample
    turns: list[Turn] = field(default_factory=list)
    is_open: bool = True  # it has not ended
    is_cut: bool = False
    failed: bool = False
    version: int = 0

    @property
    def prefix(self) -> Prefix:
        return Prefix(
            tuple(chain.from_iterable(turn.ids for turn in self.turns)),
            tuple(chain.from_iterable(turn.images for turn in self.turns)),
        )

    def add(self, completion: Completion, *, waits: bool) -> None:
        if not self.is_open:
            return
        ids, logprobs = completion.ids[: self.left], completion.logprobs[: self.left]
        self.is_cut = completion.finish == "length" or len(ids) < len(completion.ids)
        self.is_open = waits and completion.finish == "stop_string" and not self.is_cut
        self.left -= len(ids)
        if self.is_open and not self.left:
            self.is_open, self.is_cut = False, True
        self.version = completion.policy_version
        self.turns.append(Turn(ids, logprobs))

    def observe(self, observation: Observation) -> None:
        self.failed = self.failed or observation.failed
        self.turns.append(Turn(observation.ids, None, observation.images))

    def trajectory(self, sample: Sample, *, offered: bool) -> Trajectory:
        status = RolloutStatus.COMPLETED
        if self.is_cut:
            status = RolloutStatus.OVER_LONG
        elif self.failed:
            status = RolloutStatus.TOOL_FAILED
        elif offered and len(self.turns) == 1:
            status = RolloutStatus.NO_CALL
        return Trajectory(sample, self.start.prompt, tuple(self.turns), status, self.version)
