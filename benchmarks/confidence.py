"""Which score tells hits of the tiny model from misses: the tokens' or the samples' agreement.

Samples eight answers to each scene and reports the calibration of both scores of the voted ones,
with the paired difference of their AUROC.

    python benchmarks/confidence.py --out docs/results/confidence.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question

SEED, TASKS = 7, ("referring", "object_tracking")


def main() -> None:
    """Evaluate, print one JSON object, and keep it where asked."""
    command_line = parser(__doc__)
    command_line.add_argument("--limit", type=int, default=600, help="scenes of each task")
    command_line.add_argument("--samples", type=int, default=8)
    command_line.add_argument("--runs", type=Path, help="keep the runs in this folder")
    asked = command_line.parse_args()
    tasks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            question = Question(
                model="tiny",
                data=f"synth:{task}",
                seed=SEED,
                limit=asked.limit,
                draws=asked.samples,
                temperature=1.0,
            )
            report = evaluate((asked.runs or Path(folder)) / task, question)
            tasks[task] = {key: report[key] for key in ("n", "acc@0.5", "sampled", "calibration")}
    config = {"limit": asked.limit, "samples": asked.samples, "temperature": 1.0}
    publish({"tasks": tasks}, out=asked.out, config=config, seed=SEED)


if __name__ == "__main__":
    main()
