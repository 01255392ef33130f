"""A GRPO step of the demo's shape, here and at another commit, in turns on the same machine.

32 prompts by 8 completions of up to 72 tokens, from the same CoT-SFT model of the demo; medians
over the steps of a run, the first left out. The other commit is checked out beside a temporary
folder and runs with the same Python; commit 163b556, the default, still calls the method ``grpo``.

    reground demo
    reground export runs/demo/cot_sft --out runs/demo/start --dtype float32
    python benchmarks/demo_step.py runs/demo/start --repeats 5 --out docs/results/demo_step.json
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import parser, publish, spread

from reground.io import read_jsonl

ROOT = Path(__file__).parents[1]
SHARED = """
model: {model}
data:
  - mix: {{"synth:diff": 1.0}}
steps: {steps}
batch_size: 32
micro_batch_tokens: 8000
optim: {{lr: 1.0e-4, warmup: 0.05, final: 0.3}}
save_every: 100000
"""
OURS = """
method: rl
rollout: {group_size: 8, temperature: 1.0, max_tokens: 72}
rewards: [{type: iou}, {type: format, weight: 0.2}]
algorithm: {kl: 0.0, difficulty: none, normalise: token}
"""
THEIRS = """
method: grpo
grpo: {group_size: 8, temperature: 1.0, max_tokens: 72, difficulty: none, kl: 0.0,
       format_reward: 0.2, normalise: token}
"""
PHASES = ("seconds/batch", "seconds/update")


def main() -> None:
    """Run both sides in turns and publish seconds a step and their ratio."""
    command_line = parser(__doc__, repeats=5)
    command_line.add_argument("model", type=Path, help="a model folder that both can load")
    command_line.add_argument("--against", default="163b556", metavar="COMMIT")
    command_line.add_argument("--steps", type=int, default=8)
    asked = command_line.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git("worktree", "add", "--detach", str(other), asked.against)
        try:
            turns = [
                {
                    name: step_seconds(source, form, Path(folder), asked)
                    for name, source, form in (("before", other, THEIRS), ("now", ROOT, OURS))
                }
                for _ in range(asked.repeats)
            ]
        finally:
            git("worktree", "remove", "--force", str(other))
    config = {"against": asked.against, "steps": asked.steps, "repeats": asked.repeats}
    publish(summary(turns), out=asked.out, config=config)


def step_seconds(source: Path, form: str, folder: Path, asked: Any) -> dict[str, float]:
    """Median seconds of each phase over the steps of one run of the code in ``source``."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        config, out = Path(own) / "config.yaml", Path(own) / "run"
        config.write_text(SHARED.format(model=asked.model.resolve(), steps=asked.steps) + form)
        command = [sys.executable, "-m", "reground", "train", str(config), f"out={out}"]
        environment = os.environ | {"PYTHONPATH": str(source / "src")}
        subprocess.run(command, env=environment, cwd=own, check=True, stdout=subprocess.DEVNULL)
        rows = list(read_jsonl(out / "timings.jsonl", dict))[1:]
        return {phase: statistics.median(row[phase] for row in rows) for phase in PHASES}


def summary(turns: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Seconds of each side and the ratio of whole steps, turn by turn."""
    seconds = {
        name: {phase: spread([turn[name][phase] for turn in turns]) for phase in PHASES}
        for name in ("before", "now")
    }
    ratios = [sum(turn["now"].values()) / sum(turn["before"].values()) for turn in turns]
    return seconds | {"now_over_before": spread(ratios)}


def git(*arguments: str) -> None:
    """Run git in this repository."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    main()
