"""Algorithms against numbers worked out by hand, and what must hold for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reground.config import config, load
from reground.errors import ConfigError
from reground.training.algorithms import AlgorithmSettings, algorithm_of
from reground.training.algorithms.clipped import Dapo, DrGrpo, Grpo, Gspo
from reground.training.algorithms.parts import Algorithm, DynamicSampling, Tokens, wanted
from reground.training.algorithms.reinforce import Cispo, RejectionSampling, Rloo

ALL = (Grpo(), DrGrpo(), Dapo(), Rloo(), Gspo(), Cispo(), RejectionSampling())
ROOT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class Rollout:
    reward: float
    iou: float
    num_sampled: int = 2


@config
class Section:
    algorithm: AlgorithmSettings = Grpo()


def group(*rewards: float, lengths: tuple[int, ...] = ()) -> list[Rollout]:
    sizes = lengths or (2,) * len(rewards)
    return [Rollout(r, min(r, 1.0), n) for r, n in zip(rewards, sizes, strict=True)]


def tokens(
    new: list[float],
    old: list[float],
    advantages: list[float],
    weights: list[float],
    sequence: list[int],
    reference: list[float] | None = None,
) -> Tokens:
    return Tokens(
        torch.tensor(new, dtype=torch.float64, requires_grad=True),
        torch.tensor(old, dtype=torch.float64),
        torch.tensor(advantages, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(sequence),
        None if reference is None else torch.tensor(reference, dtype=torch.float64),
    )


# ---- by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "advantages", "weights", "divisor"),
    [
        # Rewards 1, 0, 0.5, 0.5 of lengths 1, 2, 4, 1: mean 0.5, unbiased std sqrt(0.5 / 3).
        (Grpo(difficulty="none"), [1.2247, -1.2247, 0, 0], [1, 1 / 2, 1 / 4, 1], 4),
        (
            Grpo(difficulty="none", normalise="token"),
            [1.2247, -1.2247, 0, 0],
            [1, 1, 1, 1],
            8,
        ),
        # phi of mIoU 0.5: exp(0.5) = 1.64872.
        (Grpo(), [2.0192, -2.0192, 0, 0], [1, 1 / 2, 1 / 4, 1], 4),
        (DrGrpo(), [0.5, -0.5, 0, 0], [1 / 8] * 4, 4),
        (Dapo(), [1.2247, -1.2247, 0, 0], [1, 1, 1, 1], 8),
        # The others' means are 1/3, 2/3, 1/2, 1/2.
        (Rloo(), [2 / 3, -2 / 3, 0, 0], [1, 1, 1, 1], 4),
        (Gspo(), [1.2247, -1.2247, 0, 0], [1, 1 / 2, 1 / 4, 1], 4),
        (Cispo(), [1.2247, -1.2247, 0, 0], [1, 1, 1, 1], 8),
        (RejectionSampling(), [1, 0, 1, 1], [1, 1 / 2, 1 / 4, 1], 3),
        (RejectionSampling(best_only=True), [1, 0, 0, 0], [1, 1 / 2, 1 / 4, 1], 1),
    ],
)
def test_credit_by_hand(
    algorithm: Algorithm, advantages: list[float], weights: list[float], divisor: float
) -> None:
    found = algorithm.credit(group(1, 0, 0.5, 0.5, lengths=(1, 2, 4, 1)), max_tokens=8)
    assert found.advantages == pytest.approx(advantages, abs=1e-3)  # std has a floor of 1e-4
    assert found.weights == pytest.approx(weights)
    assert found.divisor == divisor


LOG2, LOG3 = math.log(2), math.log(3)


@pytest.mark.parametrize(
    ("algorithm", "total", "gradient"),
    [
        # Three tokens with ratios 2, 1/2 and 1, advantages 1, 1, -1, weights 1, 1, 2.
        # min(2, 1.2) + min(0.5, 0.8) + 2 * -1 = -0.3; the clipped first token has no gradient.
        (Grpo(kl=0.0), 0.3, [0, -0.5, 2]),
        (Grpo(kl=0.0, clip_high=0.5), 0.0, [0, -0.5, 2]),
        (Dapo(), 0.22, [0, -0.5, 2]),
        (DrGrpo(), 0.3, [0, -0.5, 2]),
        (Rloo(), -0.5, [-2, -0.5, 2]),
        # The first two tokens are one sequence: sqrt(2 * 1/2) = 1, never clipped.
        (Gspo(), 0.0, [-1, -1, 2]),
        # -(2 log pi_1 + 0.5 log pi_2 - 2 log pi_3), log pi = log 2, -log 2, 0.
        (Cispo(), -1.5 * LOG2, [-2, -0.5, 2]),
        (Cispo(max_weight=1.0), -0.5 * LOG2, [-1, -0.5, 2]),
        (RejectionSampling(), 0.0, [-1, -1, 2]),
    ],
)
def test_loss_by_hand(algorithm: Algorithm, total: float, gradient: list[float]) -> None:
    given = tokens([LOG2, -LOG2, 0], [0, 0, 0], [1, 1, -1], [1, 1, 2], [0, 0, 1])
    found = algorithm.loss(given)
    assert float(found.total.detach()) == pytest.approx(total, abs=1e-12)
    found.total.backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx(gradient, abs=1e-12)


def test_gspo_clips_the_ratio_of_a_whole_sequence() -> None:
    # Ratios 3 and 1/3 in one sequence cancel out; 3 and 1 give sqrt 3, which is clipped.
    both = tokens([LOG3, -LOG3, LOG3, 0], [0] * 4, [1] * 4, [0.5] * 4, [0, 0, 1, 1])
    found = Gspo(clip=0.2, clip_high=0.2).loss(both)
    assert float(found.total.detach()) == pytest.approx(-(1 + 1.2))
    assert found.clipped.tolist() == [False, False, True, True]


@pytest.mark.parametrize("algorithm", [Grpo(kl=0.5), Rloo(kl=0.5), RejectionSampling(kl=0.5)])
def test_kl_is_added_token_by_token_and_no_advantage_scales_it(algorithm: Algorithm) -> None:
    # k3 of pi_ref / pi = 2: 2 - log 2 - 1.
    given = tokens([0, 0], [0, 0], [0, 0], [1, 3], [0, 0], reference=[LOG2, 0])
    assert float(algorithm.loss(given).total.detach()) == pytest.approx(0.5 * (1 - LOG2))


# ---- what holds for all ------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: each.type)
@given(value=st.floats(0, 0.49), size=st.integers(2, 8))
def test_a_group_without_variance_earns_nothing(
    algorithm: Algorithm, value: float, size: int
) -> None:
    found = algorithm.credit(group(*[value] * size), max_tokens=4)
    assert found.advantages == (0.0,) * size
    assert not found.teaches


@pytest.mark.parametrize("algorithm", ALL[:-1], ids=lambda each: each.type)
@given(rewards=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_advantages_sum_to_zero_and_keep_the_order_of_rewards(
    algorithm: Algorithm, rewards: list[float]
) -> None:
    found = algorithm.credit(group(*rewards), max_tokens=4).advantages
    assert sum(found) == pytest.approx(0, abs=1e-6)
    for (a, first), (b, second) in zip(
        zip(found, rewards, strict=True), zip(found[1:], rewards[1:], strict=True), strict=False
    ):
        assert (first - second) * (a - b) >= 0


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: each.type)
def test_on_the_policy_the_gradient_is_that_of_reinforce(algorithm: Algorithm) -> None:
    """With old = new every loss moves a token by -weight * advantage."""
    given = tokens([-0.3, -0.7, -0.2], [-0.3, -0.7, -0.2], [1, 1, -2], [0.5, 0.5, 1], [0, 0, 1])
    algorithm.loss(given).total.backward()
    assert given.logprobs.grad is not None
    assert given.logprobs.grad.tolist() == pytest.approx([-0.5, -0.5, 2])


@pytest.mark.parametrize("algorithm", ALL, ids=lambda each: each.type)
def test_no_tokens_are_no_loss(algorithm: Algorithm) -> None:
    assert float(algorithm.loss(tokens([], [], [], [], [])).total.detach()) == 0


def test_dynamic_sampling_keeps_groups_that_differ_by_more_than_the_threshold() -> None:
    flat, apart = group(0.5, 0.5), group(0.5, 0.8)
    assert wanted(flat, None) and wanted(apart, None)
    assert not wanted(flat, DynamicSampling())
    assert wanted(apart, DynamicSampling(threshold=0.2))
    assert not wanted(apart, DynamicSampling(threshold=0.4))


# ---- in a config -------------------------------------------------------------------------------


def test_a_type_names_the_algorithm_and_takes_its_settings() -> None:
    found = load(Section, overrides=["algorithm={type: gspo, clip: 0.1}"]).algorithm
    assert found == Gspo(clip=0.1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{type: gspo, difficulty: exp}", "difficulty"),  # another's setting
        ("{type: grpo, clip: -0.1}", "clip"),
        ("{type: grpo, kl: -1}", "kl"),
        ("{type: cispo, max_weight: 0.5}", "max_weight"),
        ("{type: dapo, dynamic_sampling: {threshold: -1}}", "threshold"),
        ("{type: dapo, dynamic_sampling: {max_draws: 0}}", "max_draws"),
        ("{type: gropo}", "gropo"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(Section, overrides=[f"algorithm={override}"])
    assert "\n" not in str(raised.value)


OWN = """
from dataclasses import dataclass
from reground.training.algorithms.parts import Credit, Loss

@dataclass(frozen=True)
class Mine:
    scale: float = 1.0
    kl: float = 0.0
    dynamic_sampling: None = None

    def credit(self, group, *, max_tokens):
        return Credit(tuple(self.scale * g.reward for g in group), (1.0,) * len(group), 1.0)

    def loss(self, tokens):
        total = -(tokens.advantages * tokens.logprobs).sum()
        return Loss(total, tokens.logprobs * 0, tokens.logprobs > 0)

class Half:
    kl = 0.0
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def from_config(override: str) -> Any:
    return algorithm_of(load(Section, overrides=[f"algorithm={override}"]).algorithm)


def test_a_users_own_algorithm_is_a_class_in_a_file(own: Path) -> None:
    made = from_config(f"{{type: own, path: '{own}:Mine', settings: {{scale: 2.0}}}}")
    assert made.credit(group(1, 0), max_tokens=4).advantages == (2.0, 0.0)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (":Mine', settings: {clip: 2.0}", "cannot be made of its settings"),
        (":Yours'", "holds no 'Yours'"),
        (":Half'", "has no credit"),
    ],
)
def test_what_is_wrong_with_a_users_own_is_one_sentence(own: Path, rest: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        from_config(f"{{type: own, path: '{own}{rest}}}")
    assert "\n" not in str(raised.value)
