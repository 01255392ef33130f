"""What one GRPO update of a config costs on this machine: seconds, peak memory, counted FLOPs.

The model is the config's, with what it trains; images and completions are random. ``utilisation``
is the share of the speed of one large matrix product on the same device. A GPU computes in
bfloat16 and is timed with both kernels of attention.

    python benchmarks/update.py benchmarks/configs/bench/30m.yaml rollout.group_size=16 --images 4
    python benchmarks/update.py configs/univg_r1/qwen2_vl_7b_grpo.yaml --out update.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import device
import numpy as np
import torch
from accelerate import Accelerator
from common import parser, publish, spread
from counting import counted
from torch import nn

from reground.config import load
from reground.errors import ConfigError
from reground.model import sharing
from reground.model.chat import Chat, Prompt
from reground.training import optimiser
from reground.training.algorithms import algorithm_of
from reground.training.algorithms.parts import Tokens
from reground.training.method import LogProbs
from reground.training.packing import MicroBatch, TrainGroup, TrainSequence, collate
from reground.training.run import runtime_for, set_tuning, starting_checkpoint
from reground.training.settings import TrainConfig

QUESTION = "find the red circle that is left of the large blue square, and answer with a box"


@dataclass(frozen=True, slots=True)
class Update:
    """One prompt with ``rollout.group_size`` completions; credit is random."""

    config: TrainConfig
    accelerator: Accelerator
    module: nn.Module
    optimizer: torch.optim.Optimizer
    packed: MicroBatch

    def __call__(self) -> None:
        """Forward, loss, backward pass, clipping and AdamW, as training does them."""
        logprobs = self.module(self.packed.batch)
        packed = self.packed
        credit, weights = packed.flat(packed.advantages), packed.flat(packed.batch.weights)
        tokens = Tokens(logprobs, logprobs.detach(), credit, weights, packed.sequence)
        loss = algorithm_of(self.config.algorithm).loss(tokens).total
        self.accelerator.backward(loss / self.config.rollout.group_size)
        optimiser.clip_gradients(self.module, self.config.optim)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on one."""
        return bool(self.accelerator.device.type == "cuda")


def main() -> None:
    """Measure the config that the command line names."""
    command_line = parser(__doc__, repeats=3)
    command_line.add_argument("config", type=Path, help="a config of GRPO (YAML)")
    command_line.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="other settings")
    command_line.add_argument("--images", type=int, default=1, help="of the prompt")
    command_line.add_argument("--side", type=int, default=448, help="of an image, in pixels")
    asked = command_line.parse_intermixed_args()
    settings = load(TrainConfig, asked.config, asked.overrides)
    size = {"images": asked.images, "side": asked.side, "repeats": asked.repeats}
    about = {"config": str(asked.config), "overrides": asked.overrides, **size}
    publish(measure(settings, **size), out=asked.out, config=about, seed=settings.seed)


def measure(config: TrainConfig, *, images: int, side: int, repeats: int) -> dict[str, Any]:
    """Measure updates of ``config``'s model on a prompt with random images of ``side`` pixels.

    Completions have ``rollout.max_tokens`` random tokens; there is no reference model. Memory is by
    how much the first two updates raise its peak: of the GPU, or of this process. Utilisation is
    by the speed of one large matrix product. A GPU's two kernels of attention are both timed, and
    FLOPs are counted with SDPA, whose numbers torch knows. Raises ``ConfigError`` where the config
    is not GRPO's.
    """
    update = prepared(config, images=images, side=side)
    before = device.peak_mib()
    taken = [device.seconds(update) for _ in range(2)][1:]  # the first one makes the moments
    peak = device.peak_mib() - before
    taken += [device.seconds(update) for _ in range(repeats - 1)]
    with mock.patch.dict(sharing.BEST, clear=True):  # any device computes with SDPA
        counts = counted(update.module, update)
        plain = [device.seconds(update) for _ in range(repeats)] if update.on_gpu else []
    speed = sum(counts["gflop"].values()) / spread(taken)["median"]
    best = device.best_gflops()
    batch = update.packed.batch
    return {
        "device": device.name(),
        "parameters": sum(own.numel() for own in update.module.parameters()),
        "trained": sum(own.numel() for own in update.module.parameters() if own.requires_grad),
        "prompt tokens": batch.prompt_ids.shape[1],
        "completion tokens": batch.suffix_ids.numel(),
        "seconds": spread(taken),
        **({"seconds with SDPA": spread(plain)} if plain else {}),
        "peak MiB": round(peak, 1),
        "GFLOP a second": round(speed, 1),
        "GFLOP a second of a matrix product": round(best, 1),
        "utilisation": round(speed / best, 3),
        **counts,
    }


def prepared(config: TrainConfig, *, images: int, side: int) -> Update:
    """A model as the config trains it, random images and completions, random advantages."""
    if config.method != "rl":
        raise ConfigError(f"method is {config.method}; expected rl: give a config of it")
    runtime = runtime_for(config)
    accelerator = Accelerator(cpu=runtime.device.type == "cpu", mixed_precision="no")
    torch.manual_seed(config.seed)
    checkpoint = starting_checkpoint(config, runtime)
    set_tuning(checkpoint, config.tuning)
    chat = checkpoint.chat
    module = LogProbs(
        checkpoint.model, temperature=config.rollout.temperature, banned_ids=chat.banned_ids
    )
    prompt = chat.prompt(device.noise(images, side), QUESTION)
    rollout = config.rollout
    group = random_group(
        chat, prompt, size=rollout.group_size, length=rollout.max_tokens, seed=config.seed
    )
    packed = collate([group], pad_id=chat.pad_id, device=accelerator.device)
    wrapped = accelerator.prepare(module)
    optimizer = optimiser.optimizer(wrapped, config.optim)
    return Update(config, accelerator, wrapped, optimizer, packed)


def random_group(chat: Chat, prompt: Prompt, *, size: int, length: int, seed: int) -> TrainGroup:
    """Completions of ``length`` random tokens, each with a random advantage."""
    rng = np.random.default_rng(seed)
    special = {*chat.tokenizer.all_special_ids, *chat.banned_ids}
    known = sorted(set(range(len(chat.tokenizer))) - special)
    drawn = rng.choice(known, (size, length)).tolist()
    credit = rng.standard_normal(size).tolist()
    suffixes = (
        TrainSequence(tuple(ids), (1 / length,) * length, (), (advantage,) * length)
        for ids, advantage in zip(drawn, credit, strict=True)
    )
    return TrainGroup(prompt, tuple(suffixes))


if __name__ == "__main__":
    main()
