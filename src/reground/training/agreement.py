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
from reground.training.packing import MicroBatch, TrainGroup, TrainSequence, collate


def importance_weights(trainer: Tensor, engine: Tensor, most: float | None) -> Tensor:
    """Weights min(p_trainer / p_engine, most), flat [N]; 1 where ``most`` is None.

    >>> importance_weights(torch.tensor([0.0, -2.0]), torch.tensor([-2.0, -2.0]), 2.0).tolist()
    [2.0, 1.0]
    """
    if most is None:
        return torch.ones_like(trainer)
    return torch.exp(trainer - engine).clamp(max=most)


@torch.no_grad()
def logprobs_of(
    checkpoint: Checkpoint,
    prompt: Prompt,
    sequences: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Log-probs of all ids of sequences after a prompt, flat [N], on the CPU."""
    chat, model = checkpoint.chat, checkpoint.model
    own = tuple(TrainSequence(tuple(ids), (1.0,) * len(ids)) for ids in sequences)
    packed = collate([TrainGroup(prompt, own)], pad_id=chat.pad_id, device=model.device)
    return shared_logprobs(
        model, packed.batch, temperature=temperature, banned_ids=chat.banned_ids
    ).cpu()


def gaps(
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    sampled: Sequence[Sequence[Completion]],
    *,
    temperature: float,
) -> Tensor:
    """Absolute differences in log-prob of all sampled tokens, the checkpoint's model asked now."""
    found = []
    for prompt, group in zip(prompts, sampled, strict=True):
        ids = [each.ids for each in group]
        theirs = torch.tensor([value for each in group for value in each.logprobs])
        found.append(logprobs_of(checkpoint, prompt, ids, temperature=temperature) - theirs)
    return torch.cat(found).abs()


class GapError(EngineError):
    """Log-probs too far apart; ``record`` is the rollout with the largest gap, for a file."""

    help = "engine-and-trainer-disagree"

    def __init__(self, message: str, record: dict[str, Any]) -> None:
        super().__init__(message)
        self.record = record

    @classmethod
    def of(cls, micro: MicroBatch, trainer: Tensor, tolerance: float) -> GapError:
        """Names the sequence where ``trainer`` [N] and the engine differ most."""
        gaps = (trainer - micro.flat(micro.sampled_logprobs)).abs().nan_to_num(float("inf"))
        row, number, _ = micro.batch.scored.nonzero()[int(gaps.argmax())].tolist()
        name = micro.names[row][number]
        message = (
            f"the engine's log-probs are {float(gaps.mean()):.3g} from the trainer's on the mean "
            f"and {float(gaps.max()):.3g} at worst ({name}); expected a mean of at most "
            f"{tolerance:g} (engine.tolerance); compare dtypes and the engine's version"
        )
        scored = micro.batch.scored[row, number]
        own = micro.sequence == row * micro.batch.scored.shape[1] + number
        length = int(scored.nonzero().max()) + 1  # up to the last scored token
        record = {
            "name": name,
            "prompt_ids": micro.batch.prompt_ids[row][micro.batch.prompt_mask[row]].tolist(),
            "ids": micro.batch.suffix_ids[row, number][:length].tolist(),
            "scored": scored[:length].tolist(),
            "engine_logprobs": micro.sampled_logprobs[row, number][scored].tolist(),
            "trainer_logprobs": trainer[own].tolist(),
        }
        return cls(message, record)
