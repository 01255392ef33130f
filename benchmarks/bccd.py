"""Blood cells in real photos: before, SFT, GRPO, beside what needs no learning.

Converts the photos, has chains made (teach.yaml), trains configs/bccd/{dense,sft,grpo,direct}.yaml
with several seeds and evaluates the test photos by class. Runs that are done already are not
trained again.

    python benchmarks/bccd.py BCCD_FOLDER --seeds 3 --out docs/results/bccd.json
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import averaged, parser, publish, trained, training_seconds

from reground.data.convert import convert
from reground.data.source import open_dataset, save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import read_scores
from reground.grounding.boxes import Box, as_array, iou_matrix
from reground.grounding.sample import Sample

RUNS = Path("runs/bccd")
CONFIGS = Path("configs/bccd")
# file of questions, split and views of each photo
DATA = {
    "objects": ("objects", "train", 40),
    "views": ("questions", "train", 40),
    "train": ("questions", "train", 0),
    "val": ("questions", "val", 0),
    "test": ("questions", "test", 0),
}
START = {"dense": "tiny", "sft": "dense", "direct": "dense", "grpo": "sft"}
SEED = 20  # of the first repetition; the next ones add 100 each
KEPT = ("n", "acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr")


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("photos", type=Path, help="with JPEGImages and Annotations")
    command_line.add_argument("--seeds", type=int, default=3)
    asked = command_line.parse_args()
    _convert(asked.photos)
    chains = [sys.executable, "-m", "reground", "teach", "run", str(CONFIGS / "teach.yaml")]
    subprocess.run(chains, check=True)
    test = open_dataset(_data("test"))
    constant = _constant_boxes(open_dataset(_data("train")))
    result: dict[str, Any] = {"constant_box": _constant_scores(constant, test)}
    result["before"] = _evaluated("tiny", "before")
    for seed in range(asked.seeds):
        runs = {name: _trained(name, seed) for name in START}
        arms = [name for name in START if name != "dense"]
        scores = {name: _evaluated(str(runs[name]), runs[name].name) for name in arms}
        scores["blank"] = _evaluated(str(runs["grpo"]), f"blank-{seed}", blank=True)
        seconds = {name: round(training_seconds(run)) for name, run in runs.items()}
        result[f"seed {seed}"] = scores | {"training_seconds": seconds}
    result["above constant box"] = {
        arm: _above(constant, [f"{arm}-{seed}" for seed in range(asked.seeds)])
        for arm in ("sft", "grpo", "direct")
    }
    config = {"configs": [str(path) for path in sorted(CONFIGS.glob("*.yaml"))]}
    publish(result, out=asked.out, config=config, seed=SEED)


def _data(name: str) -> str:
    return str(RUNS / "data" / f"{name}.jsonl")


def _convert(photos: Path) -> None:
    for name, (questions, split, views) in DATA.items():
        path = CONFIGS / f"{questions}.yaml"
        rows = convert("voc", photos, split=split, questions=path, views=views)
        save_dataset(Path(_data(name)), rows)


def _trained(name: str, seed: int) -> Path:
    """The finished run of an arm with a seed."""
    start = () if START[name] == "tiny" else (f"model={RUNS / START[name]}-{seed}",)
    overrides = (f"seed={100 * seed + SEED}", *start)
    return trained(CONFIGS / f"{name}.yaml", RUNS / f"{name}-{seed}", *overrides)


def _evaluated(model: str, name: str, *, blank: bool = False) -> dict[str, Any]:
    question = Question(model=model, data=_data("test"), max_tokens=64, blank=blank)
    report = evaluate(RUNS / "results" / name, question)
    classes = report["slices"]["class"]
    kept = {f"class={key}": {name: row[name] for name in KEPT} for key, row in classes.items()}
    print(name, {key: round(row["acc@0.5"], 3) for key, row in kept.items()}, flush=True)
    return kept


def _constant_boxes(rows: Sequence[Sample]) -> dict[str, Box]:
    """For each class the one box that hits most training photos."""
    result = {}
    for kind in sorted({sample.strata["class"] for sample in rows}):
        seen = [sample.boxes[0] for sample in rows if sample.strata["class"] == kind]
        table = as_array(seen)
        result[kind] = seen[int((iou_matrix(table, table) > 0.5).mean(1).argmax())]
    return result


def _constant_scores(constant: dict[str, Box], rows: Sequence[Sample]) -> dict[str, Any]:
    result = {}
    for kind, box in constant.items():
        own = [sample for sample in rows if sample.strata["class"] == kind]
        overlaps = _overlaps(box, own)
        images = [sample.images[0].path for sample in own]
        hits = averaged("acc@0.5", [float(overlap > 0.5) for overlap in overlaps], images)
        means = averaged("mean_iou", overlaps.tolist(), images)
        result[f"class={kind}"] = {"n": len(own)} | hits | means
    return result


def _above(constant: dict[str, Box], runs: Iterable[str]) -> dict[str, Any]:
    """By class: hits of the runs less those of the constant box, on the same photos, and z.

    The mean is over photos and seeds; its standard error is clustered by photo, so that seeds
    do not count as photos.
    """
    scores = [score for run in runs for score in read_scores(RUNS / "results" / run)]
    result = {}
    for kind, box in constant.items():
        own = [score for score in scores if score.sample.strata["class"] == kind]
        hits = np.array([(score.iou or 0.0) > 0.5 for score in own], dtype=np.float64)
        base = _overlaps(box, [score.sample for score in own]) > 0.5
        images = [score.sample.images[0].path for score in own]
        lead = averaged("acc@0.5", (hits - base).tolist(), images)
        z = lead["acc@0.5"] / lead["acc@0.5_stderr"]
        result[f"class={kind}"] = lead | {"z": round(z, 2)}
    return result


def _overlaps(box: Box, rows: Sequence[Sample]) -> np.ndarray:
    boxes = as_array([sample.boxes[0] for sample in rows])
    return np.asarray(iou_matrix(as_array([box]), boxes)[0])


if __name__ == "__main__":
    main()
