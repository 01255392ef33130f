"""GRPO's credit and loss against the papers' formulas, one token at a time."""

from __future__ import annotations

import math
import statistics
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reground.training.algorithms.clipped import DrGrpo, Grpo
from reground.training.algorithms.parts import (
    EASY,
    HARD,
    STD_FLOOR,
    Credit,
    Difficulty,
    Tokens,
    difficulty_weight,
)

Normalise = Literal["sequence", "token", "dr_grpo"]
FORMS: tuple[Difficulty, ...] = ("exp", "log", "square", "none")
NORMALISATIONS: tuple[Normalise, ...] = ("sequence", "token", "dr_grpo")
MAX_TOKENS = 9
CLIP = 0.2

unit = st.floats(0, 1)
rewards = st.lists(st.floats(0, 2), min_size=2, max_size=8)


def algorithm(normalise: Normalise, kl: float = 0.0) -> Grpo | DrGrpo:
    if normalise == "dr_grpo":
        return DrGrpo(clip=CLIP, kl=kl)
    return Grpo(clip=CLIP, kl=kl, normalise=normalise)


def credit(values: list[float], overlaps: list[float], *, difficulty: Difficulty) -> Credit:
    group: list[Any] = [
        SimpleNamespace(reward=r, iou=o, num_sampled=3)
        for r, o in zip(values, overlaps, strict=True)
    ]
    return Grpo(difficulty=difficulty).credit(group, max_tokens=MAX_TOKENS)


# ---- credit ------------------------------------------------------------------------------------


@given(rewards)
def test_advantages_are_deviations_over_the_unbiased_std(values: list[float]) -> None:
    found = credit(values, [0.5] * len(values), difficulty="none").advantages
    if max(values) - min(values) < 1e-9:
        assert found == (0.0,) * len(values)
        return
    mean, std = statistics.fmean(values), statistics.stdev(values)
    assert found == pytest.approx([(v - mean) / (std + 1e-4) for v in values], rel=1e-9, abs=1e-9)


def test_rewards_that_differ_by_rounding_alone_earn_nothing() -> None:
    assert not credit([0.1 + 0.2, 0.3, 0.3], [0, 0, 0], difficulty="none").teaches


def test_the_std_floor_is_the_authors() -> None:
    assert STD_FLOOR == 1e-4
    found = credit([1.0, 0.0], [0, 0], difficulty="none").advantages[0]
    assert found == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4), rel=1e-12)


@given(rewards, st.lists(unit, min_size=8, max_size=8), st.sampled_from(FORMS))
def test_phi_looks_at_the_overlap_alone(
    values: list[float], overlaps: list[float], form: Difficulty
) -> None:
    overlaps = overlaps[: len(values)]
    found = credit(values, overlaps, difficulty=form)
    assert found.phi == difficulty_weight(math.fsum(overlaps) / len(overlaps), form)
    plain = credit(values, overlaps, difficulty="none").advantages
    assert found.advantages == pytest.approx([found.phi * each for each in plain])


# ---- phi ---------------------------------------------------------------------------------------


@given(unit, unit, st.sampled_from(FORMS))
def test_phi_is_never_negative_and_never_rises(a: float, b: float, form: Difficulty) -> None:
    harder, easier = (difficulty_weight(m, form) for m in sorted((a, b)))
    assert harder >= easier >= 0
    assert math.isfinite(harder)


@pytest.mark.parametrize(
    ("form", "at_0", "at_half", "at_1"),
    [
        ("exp", math.e, math.exp(0.5), 1.0),
        ("log", -math.log(0.02), math.log(2), 0.0),
        ("square", 1.0, 0.25, 0.0),
        ("none", 1.0, 1.0, 1.0),
    ],
)
def test_phi_at_the_ends(form: Difficulty, at_0: float, at_half: float, at_1: float) -> None:
    found = [difficulty_weight(m, form) for m in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([at_0, at_half, at_1])
    assert math.copysign(1, found[-1]) == 1, "a weight of minus zero"


def test_the_bins_are_those_of_figure_3() -> None:
    assert (HARD, EASY) == (0.3, 0.7)


# ---- the loss against a reference, sequence by sequence ----------------------------------------


def reference(
    case: GrpoCase, phi: list[float], *, kl: float, normalise: Normalise
) -> tuple[Tensor, float]:
    """The objective as the papers write it, one token at a time; (loss, share of clipped)."""
    sequences, num_tokens, clipped = [], 0, 0
    for group, group_phi in enumerate(phi):
        for rollout in range(case.mask.shape[1]):
            tokens = []
            advantage = case.advantages[group, rollout]
            for place in torch.nonzero(case.mask[group, rollout])[:, 0].tolist():
                new = case.logprobs[group, rollout, place]
                ratio = torch.exp(new - case.old[group, rollout, place])
                plain = ratio * advantage
                bounded = ratio.clamp(1 - CLIP, 1 + CLIP) * advantage
                gap = torch.exp(case.reference[group, rollout, place] - new)
                divergence = gap - torch.log(gap) - 1
                tokens.append(group_phi * torch.minimum(plain, bounded) - kl * divergence)
                clipped += bool(bounded < plain)
            num_tokens += len(tokens)
            sequences.append(torch.stack(tokens))
    total = sum(torch.sum(tokens) for tokens in sequences)
    match normalise:
        case "sequence":
            value = sum(torch.mean(tokens) for tokens in sequences) / len(sequences)
        case "token":
            value = total / num_tokens
        case "dr_grpo":
            value = total / MAX_TOKENS / len(sequences)
    return -torch.as_tensor(value), clipped / num_tokens


class GrpoCase:
    """Random log-probs [B, G, C] with gradients, advantages [B, G] and a ragged mask."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (3, 4, MAX_TOKENS)

        def drawn(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=torch.float64)

        self.logprobs = (drawn(*shape) - 2).requires_grad_()
        # Far enough from the new log-probs that a good part of the ratios is clipped.
        self.old = self.logprobs.detach() + 0.3 * drawn(*shape)
        self.reference = self.logprobs.detach() + 0.3 * drawn(*shape)
        self.advantages = drawn(3, 4)
        lengths = torch.randint(1, MAX_TOKENS + 1, (3, 4), generator=generator)
        self.mask = torch.arange(MAX_TOKENS) < lengths[..., None]

    def terms(self, phi: list[float], normalise: Normalise) -> Tokens:
        flat, lengths = self.mask, self.mask.sum(-1, keepdim=True)
        group: list[Any] = [
            SimpleNamespace(reward=0.0, iou=0.0, num_sampled=int(n)) for n in lengths.flatten()
        ]
        found = algorithm(normalise).credit(group, max_tokens=MAX_TOKENS)
        own = torch.tensor(found.weights, dtype=torch.float64)
        credit = self.advantages * torch.tensor(phi, dtype=torch.float64)[:, None]
        numbers = torch.arange(lengths.numel()).view(lengths.shape)
        return Tokens(
            self.logprobs[flat],
            self.old[flat],
            credit[..., None].expand(flat.shape)[flat],
            own.view(lengths.shape).expand(flat.shape)[flat],
            numbers.expand(flat.shape)[flat],
            self.reference[flat],
        )

    def divisor(self, normalise: Normalise) -> float:
        return float(self.mask.sum() if normalise == "token" else self.mask[..., 0].sum())


def gradient(loss: Tensor, case: GrpoCase) -> Tensor:
    (found,) = torch.autograd.grad(loss, case.logprobs)
    return found


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_the_papers(seed: int, kl: float, normalise: Normalise) -> None:
    case, phi = GrpoCase(seed), [0.2, 1.0, 2.5]
    want, want_clipped = reference(case, phi, kl=kl, normalise=normalise)
    found = algorithm(normalise, kl).loss(case.terms(phi, normalise))
    loss = found.total / case.divisor(normalise)
    torch.testing.assert_close(loss, want, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient(loss, case), gradient(want, case), rtol=1e-6, atol=1e-9)
    assert float(found.clipped.double().mean()) == pytest.approx(want_clipped)
    assert want_clipped > 0.05, "a case in which nothing is clipped proves nothing"


def test_kl_is_the_k3_estimate_and_is_logged_per_token() -> None:
    case = GrpoCase(0)
    terms = case.terms([1.0] * 3, "token")
    gap = (case.reference - case.logprobs)[case.mask].detach()
    found = algorithm("token", 0.04).loss(terms).kl
    torch.testing.assert_close(found, gap.exp() - gap - 1)
    assert bool((found >= 0).all())
    assert not found.requires_grad


@given(st.sampled_from(NORMALISATIONS), st.floats(0, 5))
def test_phi_scales_the_policy_term_and_not_the_kl_term(normalise: Normalise, phi: float) -> None:
    case = GrpoCase(1)

    def loss(phi: float, kl: float) -> float:
        terms = case.terms([phi] * 3, normalise)
        return float(algorithm(normalise, kl).loss(terms).total.detach())

    policy, divergence = loss(1.0, 0.0), loss(0.0, 0.04)
    assert divergence > 0
    assert loss(phi, 0.04) == pytest.approx(phi * policy + divergence, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_parts_of_a_batch_add_up_to_the_whole(normalise: Normalise) -> None:
    case, phi = GrpoCase(2), [0.5, 1.0, 2.0]
    whole = algorithm(normalise, 0.04).loss(case.terms(phi, normalise)).total
    parts = []
    for group in range(3):
        own = GrpoCase(2)
        own.mask = case.mask & (torch.arange(3) == group)[:, None, None]
        parts.append(algorithm(normalise, 0.04).loss(own.terms(phi, normalise)).total.detach())
    torch.testing.assert_close(sum(parts, torch.tensor(0.0)).double(), whole.detach())


def test_with_one_update_the_gradient_is_that_of_the_plain_policy() -> None:
    """Old log-probs of the weights themselves: ratio 1, nothing clipped, gradient -phi A w."""
    case, phi = GrpoCase(0), [0.5, 1.0, 2.0]
    case.old = case.logprobs.detach()
    terms = case.terms(phi, "sequence")
    found = algorithm("sequence").loss(terms)
    want = torch.zeros(case.mask.shape, dtype=torch.float64)
    want[case.mask] = -terms.advantages * terms.weights
    torch.testing.assert_close(gradient(found.total, case), want)
    assert not bool(found.clipped.any())


def test_a_reference_equal_to_the_policy_pulls_nowhere() -> None:
    case = GrpoCase(0)
    case.reference = case.logprobs.detach()
    found = algorithm("sequence", 0.04).loss(case.terms([0.0] * 3, "sequence"))
    assert float(found.total.detach()) == 0
    assert not bool(gradient(found.total, case).any())
