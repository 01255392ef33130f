"""Dynamic sampling: draws until the batch is full, the same groups on any number of ranks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reground.errors import TrainingError
from reground.model.load import load
from reground.model.prompting import Prompter
from reground.rollout.environment import PlannedEnvironment
from reground.rollout.transformers_policy import TransformersPolicy
from reground.training import rl
from reground.training.algorithms.parts import spread
from reground.training.draw import Draws
from reground.training.rl import Reinforcement
from reground.training.run import train
from reground.training.scored import ScoredGroup
from reground.training.settings import TrainConfig
from worlds import World, column

pytestmark = pytest.mark.usefixtures("one_thread")
STEP = 2


class Ranks:
    """Threads that stand for ranks: ``gathered`` waits for all of them."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier = count, threading.Barrier(count, timeout=120)
        self.slots: list[list[Any]] = [[] for _ in range(count)]
        self.own = threading.local()

    def place(self) -> tuple[int, int]:
        return self.own.rank, self.count

    def gathered(self, own: list[Any]) -> list[Any]:
        self.slots[self.own.rank] = own
        self.barrier.wait()
        everything = [each for slot in self.slots for each in slot]
        self.barrier.wait()
        return everything


def method_of(config: TrainConfig) -> Reinforcement:
    checkpoint = load(config.model)
    prompter = Prompter.of(checkpoint)
    draws = Draws(config.data, seed=config.seed, total=config.steps * config.batch_size)
    environment = PlannedEnvironment(prompter)
    return Reinforcement(prompter, draws, environment, TransformersPolicy(checkpoint), config)


def accepted(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, *, ranks: int) -> list[Any]:
    """Items and texts of the groups that all ranks learn from, and how many were drawn."""
    together = Ranks(ranks)
    monkeypatch.setattr(rl, "place", together.place)
    monkeypatch.setattr(rl, "gathered", together.gathered)

    methods = [method_of(config) for _ in range(ranks)]  # models are loaded one after the other

    def one(rank: int) -> tuple[list[ScoredGroup], int]:
        together.own.rank, method = rank, methods[rank]
        first = (STEP - 1) * config.batch_size
        items = range(first + rank, first + config.batch_size, ranks)
        groups, drawn = method._groups(STEP, items)
        return groups, len(drawn)

    with ThreadPoolExecutor(ranks) as workers:
        found = list(workers.map(one, range(ranks)))
    groups = sorted((group for own, _ in found for group in own), key=lambda each: each.item)
    texts = [[each.trajectory.text for each in group.members] for group in groups]
    assert all(spread(group.members) > 0.2 for group in groups)
    return [[group.item for group in groups], texts, sum(count for _, count in found)]


def test_the_batch_is_full_of_the_same_groups_on_any_number_of_ranks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "algorithm={type: dapo, dynamic_sampling: {threshold: 0.2}}"
    config = world.config("rl", own)
    alone = accepted(config, monkeypatch, ranks=1)
    items, _, drawn = alone
    assert len(items) == config.batch_size < drawn, "some of the groups were drawn again"
    assert accepted(config, monkeypatch, ranks=2) == alone


def test_a_batch_that_cannot_be_filled_stops_the_run_in_one_sentence(
    world: World, tmp_path: Path
) -> None:
    never = "algorithm={type: dapo, dynamic_sampling: {threshold: 9.0, max_draws: 2}}"
    config = world.config("rl", never, "rollout.max_tokens=4", "steps=1")
    with pytest.raises(TrainingError, match="step 1: 0 of 8 groups have rewards") as raised:
        train(config, tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["dapo", "rloo", "gspo", "cispo", "rejection_sampling"])
def test_every_algorithm_trains(world: World, tmp_path: Path, kind: str) -> None:
    run = train(world.config("rl", "steps=2", f"algorithm={{type: {kind}}}"), tmp_path / "run")
    assert max(column(run, "grad_norm")) > 0
    assert len(column(run, "rollout/groups")) == 2
