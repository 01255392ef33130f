"""Sampling GRPO groups: against ``generate`` of transformers, and think-rethink against direct.

One group: the same random Qwen2.5-VL of about 30 M parameters and the same prompt with one image on
both sides, n = 8 samples of 96 tokens at temperature 1. End-of-text is banned on both sides, so
that every token is made. Sides take turns.

Think-rethink: 16 prompts by 8 rollouts, 96 sampled tokens each, in one turn or in two of 48 with a
detector's result between them, for which the prompts' keys and values are kept. The cost is per
sampled token; the tokens of the result are only read.

    python benchmarks/rollout.py --repeats 5 --out docs/results/rollout.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from common import compared, in_turns, median_seconds, parser, publish
from grpo_update import C, G, make_checkpoint, make_plain, make_prompt, settings

from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample
from reground.model.chat import Prompt
from reground.model.load import Checkpoint
from reground.model.prompting import Prompter
from reground.protocols.calls import CALL
from reground.protocols.choice import Answering, Protocols
from reground.rollout.environment import PlannedEnvironment, Start
from reground.rollout.episode import Trajectory, roll_out
from reground.rollout.policy import Completion, Sampling
from reground.rollout.transformers_policy import TransformersPolicy


def main() -> None:
    """Warm up, then time both sides in turns."""
    asked = parser(__doc__, repeats=3).parse_args()
    checkpoint = make_checkpoint()
    chat = checkpoint.chat
    chat.banned_ids = (*chat.banned_ids, chat.end_id)
    plain, prompt = make_plain(checkpoint), make_prompt(checkpoint)
    sample(checkpoint, prompt, 2)
    generate(plain, checkpoint, prompt, 2)
    costs = in_turns(
        asked.repeats,
        ours=lambda: sample(checkpoint, prompt, C),
        theirs=lambda: generate(plain, checkpoint, prompt, C),
    )
    figures = compared(costs["ours"], costs["theirs"]) | {
        "policy_seconds": median_seconds(costs["ours"]),
        "generate_seconds": median_seconds(costs["theirs"]),
        "P": len(prompt.ids),
        "C": C,
        "n": G,
        "think_rethink": two_turns(checkpoint, prompt, max(1, asked.repeats // 2)),
    }
    publish(figures, out=asked.out, config=settings(asked.repeats))


PROMPTS = 16
BOX = (60.0, 80.0, 400.0, 520.0)


@dataclass(slots=True)
class CallsHalfway:
    """A policy whose every rollout asks the tool after half of its tokens."""

    policy: TransformersPolicy

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling, **options: Any
    ) -> list[tuple[Completion, ...]]:
        """The first turn is cut and ends with a call; it still looks for the stop string."""
        if options.get("prefixes") is not None:
            return self.policy.generate(prompts, sampling=sampling, **options)
        half = replace(sampling, max_tokens=sampling.max_tokens // 2)
        groups = self.policy.generate(prompts, sampling=half, **options)
        call = tuple(self.policy.checkpoint.chat.encode(CALL))
        return [
            tuple(
                replace(own, ids=(*own.ids[: -len(call)], *call), finish="stop_string")
                for own in group
            )
            for group in groups
        ]


def two_turns(checkpoint: Checkpoint, prompt: Prompt, repeats: int) -> dict[str, Any]:
    """Cost of think-rethink rollouts over that of direct ones, a sampled token."""
    image = prompt.images[0].size
    found = (Detection(0, Box(*BOX, image.pixels)),)
    refs = (ImageRef("", image.width, image.height),)
    samples = [
        Sample(str(number), refs, "the cup", (), "find", tool_results=found)
        for number in range(PROMPTS)
    ]
    starts = [Start(each, replace(prompt)) for each in samples]
    policy = TransformersPolicy(checkpoint)
    environment, alone = (
        PlannedEnvironment(
            Prompter(checkpoint, Protocols.of(Answering(family="vg_refiner"), flag=name))
        )
        for name in ("think_rethink", "direct")
    )
    sampling = Sampling(temperature=1.0, max_tokens=C)

    def direct() -> list[tuple[Trajectory, ...]]:
        return roll_out(policy, alone, starts, n=G, sampling=sampling)

    def refined() -> list[tuple[Trajectory, ...]]:
        return roll_out(CallsHalfway(policy), environment, starts, n=G, sampling=sampling)

    told = {len(own.ids) - own.num_sampled for group in refined() for own in group}
    counts = {own.num_sampled for group in [*direct(), *refined()] for own in group}
    assert counts == {C}, counts
    costs = in_turns(repeats, direct=direct, refined=refined)
    ratio = compared(costs["direct"], costs["refined"])
    return {
        "cost_ratio": ratio["speedup"],
        "cost_ratio_min": ratio["speedup_min"],
        "cost_ratio_max": ratio["speedup_max"],
        "direct_seconds": median_seconds(costs["direct"]),
        "think_rethink_seconds": median_seconds(costs["refined"]),
        "prompts": PROMPTS,
        "n": G,
        "sampled_tokens": C,
        "told_tokens": max(told),
        "repeats": repeats,
    }


def sample(checkpoint: Checkpoint, prompt: Prompt, max_tokens: int) -> None:
    """One group by the policy."""
    sampling = Sampling(temperature=1.0, max_tokens=max_tokens)
    (group,) = TransformersPolicy(checkpoint).generate([prompt], n=G, sampling=sampling)
    made = {len(completion.ids) for completion in group}
    assert made == {max_tokens}, made


def generate(plain: Any, checkpoint: Checkpoint, prompt: Prompt, max_tokens: int) -> None:
    """One group by ``generate``, with the settings that the policy has."""
    ids = torch.tensor([prompt.ids])
    chat = checkpoint.chat
    out = plain.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == chat.image_token_id).int(),
        pixel_values=torch.cat([image.pixel_values for image in prompt.images]),
        image_grid_thw=torch.tensor([image.grid for image in prompt.images]),
        max_new_tokens=max_tokens,
        num_return_sequences=G,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        suppress_tokens=list(chat.banned_ids),
        pad_token_id=chat.pad_id,
    )
    assert out.shape == (G, len(prompt.ids) + max_tokens), out.shape


if __name__ == "__main__":
    main()
