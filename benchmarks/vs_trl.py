"""GRPO steps of ReGround and of TRL's GRPOTrainer: the same random model, question and images.

A random Qwen2.5-VL of about 30 M weights (configs/bench/30m.yaml), eight completions of up to 96
tokens; what each side does stands in reground/bench/peer.py. ``make bench-peers`` builds the
environment, which needs TRL and torchvision.

    python benchmarks/vs_trl.py --repeats 3 --out docs/results/vs_trl.json
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import parser, publish

from reground.bench.peer import STEPS, beside_trl
from reground.config import load
from reground.training.settings import TrainConfig

CONFIG = Path(__file__).parents[1] / "configs/bench/30m.yaml"
CASES = {"one image": (1, 672), "four images": (4, 532)}  # how many, and their side in pixels


def main() -> None:
    """Measure every case on both sides, in turns."""
    command_line = parser(__doc__)
    command_line.add_argument("--repeats", type=int, default=3)
    asked = command_line.parse_args()
    settings = load(TrainConfig, CONFIG, ["max_pixels=451584"])
    figures = {
        case: beside_trl(settings, images=images, side=side, repeats=asked.repeats)
        for case, (images, side) in CASES.items()
    }
    config = {"config": CONFIG.name, "cases": CASES, "steps": STEPS, "repeats": asked.repeats,
              "threads": torch.get_num_threads()}  # fmt: skip
    publish(figures, out=asked.out, config=config)


if __name__ == "__main__":
    main()
