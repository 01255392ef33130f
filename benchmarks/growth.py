"""How the cost of a GRPO update grows with completions, images and the size of the model.

`reground bench` of a random Qwen2.5-VL in float32, all weights trained, completions of 96 tokens,
images of 256 tokens. Every point changes one thing of the base point, configs/bench/30m.yaml. It is
measured in a process of its own, all points in turns; beside it stand the FLOPs of its matrix
products, convolutions and attention, counted by torch, and the memory of gradients, AdamW's
moments and what autograd keeps.

    python benchmarks/growth.py --repeats 3 --out docs/results/growth.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import parser, publish

from reground.training.bench import spread

CONFIG = Path(__file__).parents[1] / "configs/bench/30m.yaml"


@dataclass(frozen=True, slots=True)
class Point:
    """What one update works on; ``scale`` sets width and depth: 31, 59 or 101 M weights."""

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
    asked = command_line.parse_args()
    turns = [{point: _in_own_process(point) for point in POINTS} for _ in range(asked.repeats)]
    points = [summary(point, turns) for point in POINTS]
    ratios = [point["seconds over FLOPs"]["median"] for point in points]
    config = {"config": CONFIG.name, "base": asdict(BASE), "repeats": asked.repeats,
              "threads": torch.get_num_threads()}  # fmt: skip
    furthest = round(max(max(ratio, 1 / ratio) for ratio in ratios), 3)
    publish({"points": points, "furthest from FLOPs": furthest}, out=asked.out, config=config)


def summary(point: Point, turns: Sequence[dict[Point, dict[str, Any]]]) -> dict[str, Any]:
    """A point over all turns; its seconds over its FLOPs, that of the base point being 1."""
    own, base = [turn[point] for turn in turns], [turn[BASE] for turn in turns]
    growth = sum(own[0]["gflop"].values()) / sum(base[0]["gflop"].values())
    seconds, start = ([turn["seconds"]["median"] for turn in each] for each in (own, base))
    ratios = [mine / first / growth for mine, first in zip(seconds, start, strict=True)]
    return {
        **asdict(point),
        **own[0],
        "seconds": spread(seconds),
        "peak MiB": spread([turn["peak MiB"] for turn in own]),
        "seconds over FLOPs": spread(ratios),
    }


def _in_own_process(point: Point) -> dict[str, Any]:
    scale = point.scale
    settings = [
        f"shape.hidden={64 * scale}",
        f"shape.layers={scale}",
        f"shape.heads={scale}",
        f"shape.vision_hidden={32 * scale}",
        f"shape.vision_depth={scale // 2}",
        f"shape.vision_heads={scale}",
        f"grpo.group_size={point.completions}",
    ]
    command = [sys.executable, "-m", "reground", "bench", str(CONFIG), *settings]
    command += ["--images", str(point.images), "--repeats", "1"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


if __name__ == "__main__":
    main()
