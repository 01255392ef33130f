"""UniVG-R1's Tables 4 and 5 in miniature: what the cold start, GRPO and the weight phi each give.

Trains every arm of configs/tiny/ablation/ from the shipped tiny model with one seed and evaluates
held-out scenes of eleven tasks. Arms that are done already are not trained again.

    python benchmarks/ablation.py --seed 0 --out docs/results/ablation.json
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from common import parser, publish, training_seconds

from reground.config import load
from reground.evaluation.evaluate import evaluate
from reground.training.run import train
from reground.training.settings import TrainConfig

RUNS = Path("runs/ablation")
CONFIGS = Path("configs/tiny/ablation")
START = "cot_sft"
FROM_TINY = (START, "box_sft", "pure_rl")  # the other arms go on from START
TABLES = {
    "table 4": ("pure_rl", "box_sft", START, "more_sft", "grpo", "grpo_exp"),
    "table 5": ("grpo", "grpo_exp", "grpo_log", "grpo_square"),
}
HELD_OUT = 1_000_007  # seed of the scenes that are evaluated: no run draws from it
KEPT = ("n", "acc@0.5", "acc@0.5_stderr")


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("--seed", type=int, default=0)
    command_line.add_argument("--limit", type=int, default=100, help="held-out scenes of each task")
    asked = command_line.parse_args()
    rows: dict[str, dict[str, Any]] = {"tiny": _evaluated("tiny", "tiny", asked.limit)}
    for arm in dict.fromkeys((START, *TABLES["table 4"], *TABLES["table 5"])):
        run = _trained(arm, asked.seed)
        rows[arm] = _evaluated(str(run), run.name, asked.limit) | {"seconds": training_seconds(run)}
    tables = {name: {arm: rows[arm]["macro"] for arm in arms} for name, arms in TABLES.items()}
    config = {"configs": str(CONFIGS), "held_out_seed": HELD_OUT, "limit": asked.limit}
    publish({"arms": rows} | tables, out=asked.out, config=config, seed=asked.seed)


def _config(arm: str, seed: int) -> TrainConfig:
    overrides = [f"seed={100 + seed}"]
    if arm not in FROM_TINY:
        overrides.append(f"model={RUNS / f'{START}-{seed}'}")
    return load(TrainConfig, CONFIGS / f"{arm}.yaml", overrides)


def _trained(arm: str, seed: int) -> Path:
    """The run of an arm with a seed; trained, or resumed, unless it is done."""
    out, config = RUNS / f"{arm}-{seed}", _config(arm, seed)
    if not (out / "checkpoints" / f"step-{config.steps:06d}").exists():
        train(config, out, resume=out.exists())
    return out


def _evaluated(model: str, name: str, limit: int) -> dict[str, Any]:
    """Acc@0.5 of each task that the arms train on, and their mean over tasks."""
    tasks = next(iter(_config(START, 0).data)).mix
    rows = {}
    for data in tasks:
        report = evaluate(
            RUNS / "results" / name / data.removeprefix("synth:"),
            model=model,
            data=data,
            seed=HELD_OUT,
            limit=limit,
            max_tokens=128,
        )
        rows[data] = {key: report[key] for key in KEPT}
    result = {"tasks": rows, "macro": _macro(list(rows.values()))}
    print(f"{name}: macro Acc@0.5 {result['macro']}", flush=True)
    return result


def _macro(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Unweighted mean over tasks; the tasks' scenes are independent of one another."""
    variance = sum(row["acc@0.5_stderr"] ** 2 for row in rows)
    return {
        "n": sum(row["n"] for row in rows),
        "acc@0.5": sum(row["acc@0.5"] for row in rows) / len(rows),
        "acc@0.5_stderr": math.sqrt(variance) / len(rows),
    }


if __name__ == "__main__":
    main()
