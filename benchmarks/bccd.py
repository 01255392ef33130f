"""Blood cells in real photos: before, SFT, GRPO, beside what needs no learning.

Converts the photos, trains configs/bccd/{sft,grpo,direct}.yaml with several seeds and evaluates the
test photos by class. Runs that are done already are not trained again.

    python benchmarks/bccd.py BCCD_FOLDER --seeds 3 --out docs/results/bccd.json
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, publish, trained, training_seconds

from reground.config import load
from reground.data.convert import convert
from reground.data.source import open_dataset, save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.metrics import clustered_mean
from reground.grounding.boxes import as_array, iou_matrix
from reground.grounding.sample import Sample
from reground.training.settings import TrainConfig

RUNS = Path("runs/bccd")
CONFIGS = Path("configs/bccd")
ARMS = ("sft", "grpo", "direct")
SEED = 20  # of the first repetition; the next ones add 100 each
KEPT = ("n", "acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr")


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("photos", type=Path, help="with JPEGImages and Annotations")
    command_line.add_argument("--seeds", type=int, default=3)
    asked = command_line.parse_args()
    test = _convert(asked.photos)
    result: dict[str, Any] = {}
    result["constant_box"] = _constant(open_dataset(str(RUNS / "data/train.jsonl")), test)
    result["before"] = _evaluated("tiny", "before")
    for seed in range(asked.seeds):
        arms = {name: _trained(name, seed) for name in ARMS}
        scores = {name: _evaluated(str(run), run.name) for name, run in arms.items()}
        scores["blank"] = _evaluated(str(arms["grpo"]), f"blank-{seed}", blank=True)
        seconds = {name: round(training_seconds(run)) for name, run in arms.items()}
        result[f"seed {seed}"] = scores | {"training_seconds": seconds}
    config = {"configs": [str(path) for path in sorted(CONFIGS.glob("*.yaml"))]}
    publish(result, out=asked.out, config=config, seed=SEED)


def _convert(photos: Path) -> Sequence[Sample]:
    for split in ("train", "val", "test"):
        path = RUNS / "data" / f"{split}.jsonl"
        rows = convert("voc", photos, split=split, questions=CONFIGS / "questions.yaml")
        save_dataset(path, rows)
    return open_dataset(str(RUNS / "data/test.jsonl"))


def _trained(name: str, seed: int) -> Path:
    """The finished run of an arm with a seed."""
    out = RUNS / f"{name}-{seed}"
    overrides = [f"seed={100 * seed + SEED}"]
    if name == "grpo":
        overrides.append(f"model={RUNS / f'sft-{seed}'}")
    return trained(load(TrainConfig, CONFIGS / f"{name}.yaml", overrides), out)


def _evaluated(model: str, name: str, *, blank: bool = False) -> dict[str, Any]:
    report = evaluate(
        RUNS / "results" / name,
        model=model,
        data=str(RUNS / "data/test.jsonl"),
        max_tokens=64,
        blank=blank,
    )
    strata = {key: row for key, row in report["strata"].items() if key.startswith("class=")}
    kept = {key: {name: row[name] for name in KEPT} for key, row in strata.items()}
    print(name, {key: round(row["acc@0.5"], 3) for key, row in kept.items()}, flush=True)
    return kept


def _constant(train_rows: Sequence[Sample], test_rows: Sequence[Sample]) -> dict[str, Any]:
    """For each class the one box that hits most training photos, scored on the test photos."""
    result = {}
    for kind in sorted({sample.strata["class"] for sample in test_rows}):
        seen = _boxes(train_rows, kind)
        best = seen[(iou_matrix(seen, seen) > 0.5).mean(1).argmax()][None]
        own = [sample for sample in test_rows if sample.strata["class"] == kind]
        overlaps = iou_matrix(best, _boxes(test_rows, kind))[0]
        images = [sample.images[0].path for sample in own]
        hits = clustered_mean((overlaps > 0.5).astype(np.float64).tolist(), images)
        mean = clustered_mean(overlaps.tolist(), images)
        values = (len(own), hits.value, hits.stderr, mean.value, mean.stderr)
        result[f"class={kind}"] = dict(zip(KEPT, values, strict=True))
    return result


def _boxes(samples: Sequence[Sample], kind: str) -> np.ndarray:
    own = [sample for sample in samples if sample.strata["class"] == kind]
    return np.concatenate([as_array(sample.boxes[:1]) for sample in own])


if __name__ == "__main__":
    main()
