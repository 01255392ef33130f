"""A reward of your own: the centre of the answered box lies inside the true one.

    python examples/own_reward.py

trains the shipped tiny model with it for two steps of GRPO and prints what was earned. In a config
it is `rewards: [{path: examples/own_reward.py:centre, weight: 0.5}]`.
"""

import json
import tempfile
from pathlib import Path

from reground.config import load
from reground.training.run import train
from reground.training.settings import TrainConfig


def centre(answer, sample, trajectory):
    """1 where the centre of the first box lies inside the first true box, else 0."""
    if not answer.boxes or not sample.boxes:
        return 0.0
    box, true = answer.boxes[0], sample.boxes[0]
    x, y = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
    return float(true.x1 <= x <= true.x2 and true.y1 <= y <= true.y2)


if __name__ == "__main__":
    settings = [
        "method=rl",
        "model=tiny",
        "data=[{mix: {'synth:diff': 1}}]",
        "steps=2",
        "batch_size=2",
        "rollout={group_size: 4, max_tokens: 64}",
        f"rewards=[{{type: iou}}, {{path: '{__file__}:centre', weight: 0.5}}]",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = train(load(TrainConfig, None, settings), Path(folder) / "run")
        for line in run.metrics.read_text().splitlines():
            row = json.loads(line)
            print(f"step {row['step']}: reward/centre {row['reward/centre']:.2f}")
