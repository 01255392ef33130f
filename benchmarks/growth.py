"""How the cost of a GRPO update grows with completions, images and the size of the model.

One update as training does it: the group-shared forward, the loss, the backward pass, clipping and
AdamW, all weights of a random Qwen2.5-VL in float32, completions of 96 tokens, images of 256
tokens. Every point changes one thing of the base point. It is measured in a process of its own, all
points in turns; beside it stand the FLOPs of its matrix products, convolutions and attention,
counted by torch, and the memory of gradients, AdamW's moments and what autograd keeps.

    python benchmarks/growth.py --repeats 3 --out docs/results/growth.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from common import measured, parser, publish
from counting import counted
from grpo_update import QUESTION, C
from PIL import Image
from torch import Tensor

from reground.model import tiny
from reground.model.load import Checkpoint
from reground.training import objective, optimiser
from reground.training.method import LogProbs
from reground.training.objective import GrpoTerms
from reground.training.packing import Group, MicroBatch, Suffix, collate
from reground.training.settings import Optim

SIDE = 448  # pixels; 1,024 patches and 256 tokens an image


@dataclass(frozen=True, slots=True)
class Point:
    """What one update works on; ``scale`` sets width and depth of the model."""

    completions: int = 8
    images: int = 1
    scale: int = 8


BASE = Point()
SERIES = {"completions": (4, 8, 16, 32), "images": (1, 2, 4, 8), "scale": (8, 10, 12)}
VARIED = [replace(BASE, **{name: own}) for name, values in SERIES.items() for own in values]
POINTS = tuple(dict.fromkeys([BASE, *VARIED]))


def main() -> None:
    """Measure every point in turns, and compare how time and FLOPs grow."""
    command_line = parser(__doc__)
    command_line.add_argument("--repeats", type=int, default=3)
    command_line.add_argument("--point", type=int, nargs=3, help=argparse.SUPPRESS)
    asked = command_line.parse_args()
    if asked.point:
        print(json.dumps(measure(Point(*asked.point))))
        return
    turns = [{point: _in_own_process(point) for point in POINTS} for _ in range(asked.repeats)]
    points = [summary(point, turns) for point in POINTS]
    ratios = [point["seconds over FLOPs"]["median"] for point in points]
    config = {"model": "random Qwen2.5-VL", "C": C, "side": SIDE, "base": asdict(BASE),
              "repeats": asked.repeats, "threads": torch.get_num_threads()}  # fmt: skip
    furthest = round(max(max(ratio, 1 / ratio) for ratio in ratios), 3)
    publish({"points": points, "furthest from FLOPs": furthest}, out=asked.out, config=config)


def summary(point: Point, turns: Sequence[dict[Point, dict[str, Any]]]) -> dict[str, Any]:
    """A point over all turns; its seconds over its FLOPs, that of the base point being 1."""
    own, base = [turn[point] for turn in turns], [turn[BASE] for turn in turns]
    growth = sum(own[0]["gflop"].values()) / sum(base[0]["gflop"].values())
    ratios = [
        mine["seconds"] / start["seconds"] / growth for mine, start in zip(own, base, strict=True)
    ]
    return {
        **asdict(point),
        **own[0],
        "seconds": _spread([turn["seconds"] for turn in own]),
        "peak MiB": _spread([turn["peak MiB"] for turn in own]),
        "seconds over FLOPs": _spread(ratios),
    }


@dataclass(frozen=True, slots=True)
class Case:
    """All that an update needs; ``advantages`` and ``weights`` are flat [N], a value a token."""

    module: LogProbs
    optimizer: torch.optim.Optimizer
    packed: MicroBatch
    advantages: Tensor
    weights: Tensor


def make_case(point: Point) -> Case:
    """A random model, random images and completions, random advantages."""
    checkpoint = make_checkpoint(point.scale)
    chat = checkpoint.chat
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (point.images, SIDE, SIDE, 3), dtype=np.uint8)
    prompt = chat.prompt([Image.fromarray(pixels) for pixels in noise], QUESTION)
    drawn = rng.integers(20, len(chat.tokenizer), (point.completions, C)).tolist()
    suffixes = tuple(Suffix(tuple(ids), (1.0,) * C) for ids in drawn)
    packed = collate([Group(0, prompt, suffixes)], pad_id=chat.pad_id, device=torch.device("cpu"))
    module = LogProbs(checkpoint.model, temperature=0.9, banned_ids=chat.banned_ids)
    weights = objective.token_weights(packed.batch.scored, normalise="sequence", max_tokens=C)
    advantages = torch.from_numpy(rng.standard_normal(point.completions, dtype=np.float32))
    return Case(
        module,
        optimiser.optimizer(module, Optim()),
        packed,
        advantages.repeat_interleave(C),
        weights.flatten(),
    )


def make_checkpoint(scale: int) -> Checkpoint:
    """A random Qwen2.5-VL that takes images of ``SIDE`` as they are: 31, 59 or 101 M weights."""
    return tiny.make(
        "qwen2_5_vl",
        hidden=64 * scale,
        layers=scale,
        heads=scale,
        head_dim=64,
        vision_hidden=32 * scale,
        vision_depth=scale // 2,
        vision_heads=scale,
        max_pixels=SIDE * SIDE,
    )


def update(case: Case) -> None:
    """One step of the weights, as the training loop makes it; one update a batch, no reference."""
    logprobs = case.module(case.packed.batch)
    terms = GrpoTerms(
        logprobs,
        logprobs.detach(),
        None,
        case.advantages,
        torch.ones_like(case.advantages),
        case.weights,
    )
    loss = objective.grpo_loss(terms, clip=0.2, kl=0.0).total / case.packed.batch.scored.shape[1]
    loss.backward()
    optimiser.clip_gradients(case.module, Optim())
    case.optimizer.step()
    case.optimizer.zero_grad()


def measure(point: Point) -> dict[str, Any]:
    """Seconds of an update, by how much two of them raise the peak of memory, and the counts."""
    case = make_case(point)
    before = _peak_mib()  # no less than the parent's, which made no model
    update(case)  # not timed: it makes the moments
    seconds = measured(partial(update, case)).wall
    rise = _peak_mib() - before  # before the counters, which hold on to some tensors
    return {
        "parameters": sum(own.numel() for own in case.module.parameters()),
        "prompt tokens": case.packed.batch.prompt_ids.shape[1],
        "seconds": seconds,
        "peak MiB": rise,
        **counted(case.module, partial(update, case)),
    }


def _in_own_process(point: Point) -> dict[str, Any]:
    command = [sys.executable, __file__, "--point", *map(str, astuple(point))]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _spread(values: Sequence[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


if __name__ == "__main__":
    main()
