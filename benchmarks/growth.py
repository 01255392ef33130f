"""How the cost of a GRPO update grows with completions, images and the size of the model.

A random Qwen2.5-VL in float32, all weights trained, completions of 96 tokens, images of 256
tokens. Every point changes one thing of the base point, configs/bench/30m.yaml. It is measured in
a process of its own, all points in turns; beside it stand the FLOPs of its matrix products,
convolutions and attention, counted by torch, and the memory of gradients, AdamW's moments and what
autograd keeps.

    python benchmarks/growth.py --repeats 3 --out docs/results/growth.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import parser, publish, spread
from device import in_own_process
from update import measure

from reground.config import load
from reground.training.settings import TrainConfig

CONFIG = Path(__file__).parent / "configs/bench/30m.yaml"
SIDE = 448
SCALES = (10, 12)  # of width and depth, beside the config's 8


def main() -> None:
    """Measure every point in turns, and compare how time and FLOPs grow."""
    asked = parser(__doc__, repeats=3).parse_args()
    larger = [Point(load(TrainConfig, CONFIG, shape(scale)), 1) for scale in SCALES]
    chosen = [*points(Point(load(TrainConfig, CONFIG), 1)), *larger]
    config = {"config": CONFIG.name, "side": SIDE, "repeats": asked.repeats,
              "threads": torch.get_num_threads()}  # fmt: skip
    publish(growth(chosen, side=SIDE, repeats=asked.repeats), out=asked.out, config=config)


def shape(scale: int) -> list[str]:
    """Overrides that make the model wider and deeper."""
    language = f"hidden: {64 * scale}, layers: {scale}, heads: {scale}"
    half = scale // 2
    vision = f"vision_hidden: {32 * scale}, vision_depth: {half}, vision_heads: {scale}"
    return [f"model_settings={{{language}, {vision}}}"]


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured: updates of ``config`` on a prompt of so many images."""

    config: TrainConfig
    images: int

    def sized(self, *, completions: int) -> Point:
        """The same with another number of completions in a group."""
        rollout = replace(self.config.rollout, group_size=completions)
        return replace(self, config=replace(self.config, rollout=rollout))


def points(start: Point) -> tuple[Point, ...]:
    """``start``, then half to four times its completions, and one to eight images."""
    group = start.config.rollout.group_size
    varied = [start.sized(completions=max(2, group * times // 2)) for times in (1, 4, 8)]
    varied += [replace(start, images=count) for count in (1, 2, 4, 8)]
    return (start, *(own for own in varied if own != start))


def growth(asked: Sequence[Point], *, side: int, repeats: int) -> dict[str, Any]:
    """Updates of each point in turns, each in a process of its own, beside the first point.

    Images have ``side`` x ``side`` pixels. ``seconds over FLOPs`` is by how much more the time
    grew than the counted FLOPs did.
    """
    turns = [[in_own_process(_measured, point, side) for point in asked] for _ in range(repeats)]
    rows = [_summary(point, place, turns) for place, point in enumerate(asked)]
    ratios = [row["seconds over FLOPs"]["median"] for row in rows]
    furthest = max(max(ratio, 1 / ratio) for ratio in ratios)
    return {"points": rows, "furthest from FLOPs": round(furthest, 3)}


def _measured(point: Point, side: int) -> dict[str, Any]:
    return measure(point.config, images=point.images, side=side, repeats=1)


def _summary(point: Point, place: int, turns: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    own, base = [turn[place] for turn in turns], [turn[0] for turn in turns]
    flops = sum(own[0]["gflop"].values()) / sum(base[0]["gflop"].values())
    seconds, start = ([turn["seconds"]["median"] for turn in each] for each in (own, base))
    ratios = [mine / first / flops for mine, first in zip(seconds, start, strict=True)]
    return {
        "completions": point.config.rollout.group_size,
        "images": point.images,
        **own[0],
        "seconds": spread(seconds),
        "peak MiB": spread([turn["peak MiB"] for turn in own]),
        "seconds over FLOPs": spread(ratios),
    }


if __name__ == "__main__":
    main()
