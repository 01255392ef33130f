"""UniVG-R1's Tables 4 and 5 in miniature: what the cold start, GRPO and the weight phi each give.

Trains every arm of configs/tiny/ablation/ from the shipped tiny model with one seed and evaluates
held-out scenes of eleven tasks. Arms that are done already are not trained again.

    python benchmarks/ablation.py --seed 0 --out docs/results/ablation.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import HELD_OUT, parser, publish, trained, training_seconds

from reground.config import load
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.scoring.metrics import macro_accuracy
from reground.training.settings import TrainConfig

RUNS = Path("runs/ablation")
CONFIGS = Path("configs/tiny/ablation")
START = "cot_sft"
FROM_TINY = (START, "box_sft", "pure_rl")  # the other arms go on from START
TABLES = {
    "table 4": ("pure_rl", "box_sft", START, "more_sft", "grpo", "grpo_exp"),
    "table 5": ("grpo", "grpo_exp", "grpo_log", "grpo_square"),
}
KEPT = ("n", "acc@0.5", "acc@0.5_stderr")


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("--seed", type=int, default=0)
    command_line.add_argument("--limit", type=int, default=100, help="held-out scenes of each task")
    asked = command_line.parse_args()
    rows: dict[str, dict[str, Any]] = {"tiny": _evaluated("tiny", "tiny", asked.limit)}
    for arm in dict.fromkeys((START, *TABLES["table 4"], *TABLES["table 5"])):
        start = () if arm in FROM_TINY else (f"model={RUNS / START}-{asked.seed}",)
        out = RUNS / f"{arm}-{asked.seed}"
        run = trained(CONFIGS / f"{arm}.yaml", out, f"seed={100 + asked.seed}", *start)
        rows[arm] = _evaluated(str(run), run.name, asked.limit) | {"seconds": training_seconds(run)}
    tables = {name: {arm: rows[arm]["macro"] for arm in arms} for name, arms in TABLES.items()}
    config = {"configs": str(CONFIGS), "held_out_seed": HELD_OUT, "limit": asked.limit}
    publish({"arms": rows} | tables, out=asked.out, config=config, seed=asked.seed)


def _evaluated(model: str, name: str, limit: int) -> dict[str, Any]:
    """Acc@0.5 of each task that the arms train on, and their mean over tasks."""
    rows, scores = {}, list[SampleScore]()
    for data in load(TrainConfig, CONFIGS / f"{START}.yaml").data[0].mix:
        out = RUNS / "results" / name / data.removeprefix("synth:")
        asked = Question(model=model, data=data, seed=HELD_OUT, limit=limit, max_tokens=128)
        report = evaluate(out, asked)
        rows[data] = {key: report[key] for key in KEPT}
        scores += read_scores(out)
    mean = macro_accuracy(scores)
    macro = {"n": len(scores), "acc@0.5": mean.value, "acc@0.5_stderr": mean.stderr}
    print(f"{name}: macro Acc@0.5 {macro}", flush=True)
    return {"tasks": rows, "macro": macro}


if __name__ == "__main__":
    main()
