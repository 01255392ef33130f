"""How the cost of a GRPO update grows with completions, images and the size of the model.

A random Qwen2.5-VL in float32, all weights trained, completions of 96 tokens, images of 256
tokens. Every point changes one thing of the base point, configs/bench/30m.yaml. It is measured in
a process of its own, all points in turns; beside it stand the FLOPs of its matrix products,
convolutions and attention, counted by torch, and the memory of gradients, AdamW's moments and what
autograd keeps.

    python benchmarks/growth.py --repeats 3 --out docs/results/growth.json
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import parser, publish

from reground.bench.growth import Point, growth, points
from reground.config import load
from reground.training.settings import TrainConfig

CONFIG = Path(__file__).parents[1] / "configs/bench/30m.yaml"
SIDE = 448
SCALES = (10, 12)  # of width and depth, beside the config's 8


def main() -> None:
    """Measure every point in turns, and compare how time and FLOPs grow."""
    command_line = parser(__doc__)
    command_line.add_argument("--repeats", type=int, default=3)
    asked = command_line.parse_args()
    larger = [Point(load(TrainConfig, CONFIG, _shape(scale)), 1) for scale in SCALES]
    chosen = [*points(Point(load(TrainConfig, CONFIG), 1)), *larger]
    config = {"config": CONFIG.name, "side": SIDE, "repeats": asked.repeats,
              "threads": torch.get_num_threads()}  # fmt: skip
    publish(growth(chosen, side=SIDE, repeats=asked.repeats), out=asked.out, config=config)


def _shape(scale: int) -> list[str]:
    return [
        f"shape.hidden={64 * scale}",
        f"shape.layers={scale}",
        f"shape.heads={scale}",
        f"shape.vision_hidden={32 * scale}",
        f"shape.vision_depth={scale // 2}",
        f"shape.vision_heads={scale}",
    ]


if __name__ == "__main__":
    main()
