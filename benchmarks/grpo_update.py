"""The update of one GRPO group: the prompt once for all completions, against one row for each.

The same random Qwen2.5-VL of about 30 M parameters on both sides: the group-shared forward, and
the forward of transformers (SDPA, logits of completion tokens only) on G full rows. Sides take
turns, and each is measured for memory in a process of its own.

    python benchmarks/grpo_update.py --repeats 5 --out docs/results/grpo_update.json
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from common import compared, in_turns, median_seconds, parser, publish
from device import in_own_process, noise, peak_mib
from torch import Tensor
from transformers import AutoModelForImageTextToText
from update import random_group
from vs_trl import QUESTION

from reground.model.chat import Prompt
from reground.model.forward import GroupBatch, shared_logprobs
from reground.model.load import Checkpoint
from reground.tinyworld import models as tiny
from reground.training.packing import collate

SIDE = 672  # pixels; 576 image tokens
G, C = 8, 96


@dataclass(frozen=True, slots=True)
class Case:
    """One group to learn from: its batch, the advantage of each token [G, C]."""

    checkpoint: Checkpoint
    plain: Any
    prompt: Prompt
    batch: GroupBatch
    advantages: Tensor


def main() -> None:
    """Measure memory, then check the gradients against each other, then time both sides."""
    asked = parser(__doc__, repeats=3).parse_args()
    peaks = {side: in_own_process(peak_memory, side) for side in SIDES}
    case = make_case()
    ours, theirs = gradient(case, "shared"), gradient(case, "separate")
    costs = in_turns(asked.repeats, **{side: partial(gradient, case, side) for side in SIDES})
    figures = compared(costs["shared"], costs["separate"]) | {
        "gradient_relative_error": float(((ours - theirs).norm() / theirs.norm()).item()),
        "peak_memory_ratio": round(peaks["separate"] / peaks["shared"], 2),
        "shared_seconds": median_seconds(costs["shared"]),
        "separate_seconds": median_seconds(costs["separate"]),
        "P": len(case.prompt.ids),
        "C": C,
        "G": G,
    }
    publish(figures, out=asked.out, config=settings(asked.repeats))


def settings(repeats: int) -> dict[str, Any]:
    """What was measured, for the head of the result."""
    return {
        "model": "random Qwen2.5-VL, 30 M",
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }


def make_checkpoint() -> Checkpoint:
    """A random Qwen2.5-VL of about 30 M parameters that takes 672 x 672 images as they are."""
    return tiny.make(
        "qwen2_5_vl",
        hidden=512,
        layers=8,
        heads=8,
        head_dim=64,
        vision_hidden=256,
        vision_depth=4,
        vision_heads=8,
        max_pixels=SIDE * SIDE,
    )


def make_plain(checkpoint: Checkpoint) -> Any:
    """The same weights in the model as transformers makes it."""
    config = copy.deepcopy(checkpoint.model.config)
    plain: Any = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa")
    plain.load_state_dict(checkpoint.model.state_dict())
    return plain.eval()


def make_prompt(checkpoint: Checkpoint) -> Prompt:
    """A question of some length about one image of noise."""
    return checkpoint.chat.prompt(noise(1, SIDE), QUESTION)


def make_case() -> Case:
    """A group of random completions with random advantages."""
    checkpoint = make_checkpoint()
    prompt = make_prompt(checkpoint)
    group = random_group(checkpoint.chat, prompt, size=G, length=C, seed=1)
    micro = collate([group], pad_id=checkpoint.chat.pad_id, device=torch.device("cpu"))
    advantages = micro.flat(micro.advantages).view(G, C)
    return Case(checkpoint, make_plain(checkpoint), prompt, micro.batch, advantages)


def shared(case: Case) -> Tensor:
    """Log-probs [G, C] of the completions, the prompt read once."""
    return shared_logprobs(case.checkpoint.model, case.batch).view(G, C)


def separate(case: Case) -> Tensor:
    """Log-probs [G, C] of the completions by the plain model, each behind a prompt of its own."""
    completions = case.batch.suffix_ids[0]
    ids = torch.cat([case.batch.prompt_ids.expand(G, -1), completions], dim=1)
    (image,) = case.prompt.images
    logits = case.plain(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == case.checkpoint.chat.image_token_id).int(),
        pixel_values=image.pixel_values.repeat(G, 1),
        image_grid_thw=torch.tensor([image.grid] * G),
        use_cache=False,
        logits_to_keep=C + 1,
    ).logits[:, :-1]
    chosen: Tensor = logits.gather(-1, completions[..., None])[..., 0] - logits.logsumexp(-1)
    return chosen


SIDES: dict[str, Callable[[Case], Tensor]] = {"shared": shared, "separate": separate}


def gradient(case: Case, side: str) -> Tensor:
    """The gradient of the policy loss, flat; the same order of parameters on both sides."""
    model = case.checkpoint.model if side == "shared" else case.plain
    model.zero_grad()
    logprobs = SIDES[side](case)
    loss = -(torch.exp(logprobs - logprobs.detach()) * case.advantages).mean()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def peak_memory(side: str) -> float:
    """By how much one update raises this process's peak, in MiB."""
    case = make_case()
    before = peak_mib()
    gradient(case, side)
    return peak_mib() - before


if __name__ == "__main__":
    main()
