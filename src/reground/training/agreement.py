"""Whether the engine that sampled and the trainer see the same model (rounding aside)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reground.errors import EngineError
from reground.model.chat import Prompt
from reground.model.forward import shared_logprobs
from reground.model.load import Checkpoint
from reground.rollout.policy import Completion
from reground.training.grpo_batch import GrpoMicro
from reground.training.packing import Group, Suffix, collate


def truncated(trainer: Tensor, engine: Tensor, most: float | None) -> Tensor:
    """Weights min(p_trainer / p_engine, most), flat [N]; 1 where ``most`` is None.

    >>> truncated(torch.tensor([0.0, -2.0]), torch.tensor([-2.0, -2.0]), 2.0).tolist()
    [2.0, 1.0]
    """
    if most is None:
        return torch.ones_like(trainer)
    return torch.exp(trainer - engine).clamp(max=most)


@torch.no_grad()
def gaps(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    sampled: Sequence[Sequence[Completion]],
    *,
    temperature: float,
) -> Tensor:
    """Absolute differences in log-prob of all sampled tokens, the checkpoint's model asked now."""
    chat, found = checkpoint.chat, []
    for prompt, group in zip(prompts, sampled, strict=True):
        suffixes = tuple(Suffix(each.ids, (1.0,) * len(each.ids)) for each in group)
        packed = collate(
            [Group(0, prompt, suffixes)], pad_id=chat.pad_id, device=checkpoint.model.device
        )
        ours = shared_logprobs(
            checkpoint.model, packed.batch, temperature=temperature, banned_ids=chat.banned_ids
        )
        theirs = torch.tensor([value for each in group for value in each.logprobs])
        found.append((ours.cpu() - theirs).abs())
    return torch.cat(found)


class GapError(EngineError):
    """Log-probs too far apart; ``record`` is the rollout with the largest gap, for a file."""

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record

    @classmethod
    def of(cls, micro: GrpoMicro, trainer: Tensor, tolerance: float) -> GapError:
        """Names the token where ``trainer`` and the engine differ most."""
        gaps = (trainer - micro.sampled_logprobs).abs().nan_to_num(float("inf"))
        row, number, _ = micro.packed.batch.scored.nonzero()[int(gaps.argmax())].tolist()
        group = micro.groups[row]
        rollout = group.rollouts[number]
        own = _of_rollout(trainer, micro, row, number)
        message = (
            f"the engine's log-probs are {float(gaps.mean()):.3g} from the trainer's on the mean "
            f"and {float(gaps.max()):.3g} at worst (sample {group.sample.id}); expected a mean of "
            f"at most {tolerance:g} (engine.tolerance); compare dtypes and the engine's version"
        )
        record = {
            "sample": group.sample.id,
            "question": group.sample.question,
            "prompt_ids": group.prompt.ids,
            "ids": rollout.ids,
            "weights": rollout.weights,
            "engine_logprobs": rollout.logprobs,
            "trainer_logprobs": own.tolist(),
        }
        return cls(message, record)


def _of_rollout(flat: Tensor, micro: GrpoMicro, row: int, number: int) -> Tensor:
    scored = micro.packed.batch.scored
    table = torch.zeros(scored.shape, dtype=flat.dtype, device=flat.device)
    table[scored] = flat
    return table[row, number][scored[row, number]]
