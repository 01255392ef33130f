"""What the shipped tiny model can do, with images and without: the figures behind the README.

Evaluates scenes of every task, then the same with blanked (grey) images, and writes the result.

    python benchmarks/tiny.py --out docs/results/tiny.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.tinyworld import scenes as synth

SEED = 7
KEPT = ("n", "acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr", "status")
MULTI = [task for task in synth.TASKS if task not in ("referring", "phrases", "listing")]


def main() -> None:
    """Evaluate, print one JSON object, and keep it where asked."""
    command_line = parser(__doc__)
    command_line.add_argument("--model", default="tiny")
    command_line.add_argument("--limit", type=int, default=500, help="scenes of synth:referring")
    command_line.add_argument(
        "--task-limit", type=int, default=200, help="scenes of every other task"
    )
    asked = command_line.parse_args()
    limits = {"referring": asked.limit} | dict.fromkeys(MULTI, asked.task_limit)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, blank in (("seen", False), ("blank", True)):
            result[kind] = {
                task: _report(Path(folder) / f"{task}-{kind}", asked.model, task, limit, blank)
                for task, limit in limits.items()
            }
    config = {"model": asked.model, "limits": limits}
    publish(result, out=asked.out, config=config, seed=SEED)


def _report(out: Path, model: str, task: str, limit: int, blank: bool) -> dict[str, Any]:
    data = f"synth:{task}"
    asked = Question(model=model, data=data, seed=SEED, limit=limit, max_tokens=128, blank=blank)
    report = evaluate(out, asked)
    kept = {key: report[key] for key in KEPT}
    strata = {
        f"{name}={value}": {key: row[key] for key in KEPT[:4]}
        for name, slices in report["slices"].items()
        if name in ("kind", "distractor", "objects")
        for value, row in slices.items()
    }
    print(
        f"{out.name}: Acc@0.5 {report['acc@0.5']:.3f} ± {report['acc@0.5_stderr']:.3f}", flush=True
    )
    return kept | ({"strata": strata} if task == "referring" else {})


if __name__ == "__main__":
    main()
