"""Sampling one GRPO group: the policy of ReGround against ``generate`` of transformers.

The same random Qwen2.5-VL of about 30 M parameters and the same prompt with one image on both
sides, n = 8 samples of 96 tokens at temperature 1. End-of-text is banned on both sides, so that
every token is made. Sides take turns.

    python benchmarks/rollout.py --repeats 5 --out docs/results/rollout.json
"""

from __future__ import annotations

from typing import Any

import torch
from common import compared, measured, median_seconds, parser, publish
from grpo_update import C, G, make_checkpoint, make_plain, make_prompt, settings

from reground.model.chat import Prompt
from reground.model.load import Checkpoint
from reground.rollout.policy import Sampling
from reground.rollout.transformers_policy import TransformersPolicy


def main() -> None:
    """Warm up, then time both sides in turns."""
    command_line = parser(__doc__)
    command_line.add_argument("--repeats", type=int, default=3)
    arguments = command_line.parse_args()
    checkpoint = make_checkpoint()
    chat = checkpoint.chat
    chat.banned_ids = (*chat.banned_ids, chat.end_id)
    plain, prompt = make_plain(checkpoint), make_prompt(checkpoint)
    sample(checkpoint, prompt, 2)
    generate(plain, checkpoint, prompt, 2)
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        ours.append(measured(lambda: sample(checkpoint, prompt, C)))
        theirs.append(measured(lambda: generate(plain, checkpoint, prompt, C)))
    figures = compared(ours, theirs) | {
        "policy_seconds": median_seconds(ours),
        "generate_seconds": median_seconds(theirs),
        "P": len(prompt.ids),
        "C": C,
        "n": G,
    }
    publish(figures, out=arguments.out, config=settings(arguments.repeats))


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
