"""Tool-refined grounding: what a model makes of a weak and of a strong detector.

Makes cold-start chains from the starting model's own first thoughts, trains sft.yaml, grpo.yaml and
grpo_iou.yaml of a setting by seed, and evaluates held-out samples under detectors of set quality
(oracle:...). Settings: ``scenes`` (configs/tiny/refiner, five tasks of the scene world) and
``photos`` (configs/bccd/refiner, after benchmarks/bccd.py). What is done already is not done again.

    python benchmarks/refiner.py scenes --seeds 3 --out docs/results/refiner.json
    python benchmarks/refiner.py photos --seeds 1 --out docs/results/refiner_photos.json
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import parser, publish, trained, training_seconds

from reground.config import load
from reground.data import synth
from reground.data.source import save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.scoring.metrics import clustered_mean
from reground.evaluation.scoring.refinement import figures, refined
from reground.grounding.boxes import Box
from reground.grounding.rethink import pointed_at
from reground.grounding.sample import Detection, Sample, Target
from reground.teacher.rethink import chains, names_of
from reground.training.settings import TrainConfig

TASKS = ("diff", "common_object", "region", "reasoning", "correspondence")
TEACHING = "oracle:right=0.65,wrong=0.4,hallucinated=0.25,missing=0.35,jitter=0.06"
SILENT = "oracle:right=0,wrong=0,hallucinated=0,missing=1"
TOOLS = {"weak": "oracle:weak", "strong": "oracle:strong"}
# The same samples with a correct, a wrong and no box.
PROBES = {
    "correct": "oracle:right=1,several=0",
    "wrong": "oracle:right=0,wrong=1,hallucinated=0,missing=0,several=0",
    "none": SILENT,
}
START = {"sft": None, "grpo": "sft", "grpo_iou": "sft"}
SEED = 50  # of the first repetition; the next ones add 100 each
THOUGHTS_SEED, HELD_OUT = 41, 1_000_007  # no run draws scenes of the latter
MEASURES = (
    "tool_accuracy",
    "accuracy",
    "accuracy_difference",
    "ccr",
    "nsri",
    "nsri_w",
    "nsri_c",
    "follow_correct_rate",
    "inherited_error_rate",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is learnt from what. ``thoughts`` and ``held_out`` are data and how much of each.

    Every thought gets ``variants`` chains, about as many noisy results of the detector. Before
    these a model of this size practises to copy numbers (``practice.jsonl``).
    """

    runs: Path
    configs: Path
    start: str
    thoughts: dict[str, tuple[str, int | None]]
    held_out: dict[str, tuple[str, int | None]]
    variants: int


SETTINGS = {
    "scenes": Setting(
        Path("runs/refiner"),
        Path("configs/tiny/refiner"),
        "tiny",
        {task: (f"synth:{task}", 1500) for task in TASKS},
        {task: (f"synth:{task}", 100) for task in TASKS},
        4,
    ),
    "photos": Setting(
        Path("runs/bccd/refiner"),
        Path("configs/bccd/refiner"),
        "runs/bccd/sft-0",
        {"views": ("runs/bccd/data/views.jsonl", None)},
        {"test": ("runs/bccd/data/test.jsonl", None)},
        2,
    ),
}


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("setting", choices=sorted(SETTINGS))
    command_line.add_argument("--seeds", type=int, default=3)
    asked = command_line.parse_args()
    setting = SETTINGS[asked.setting]
    _make_practice(setting.runs / "data" / "practice.jsonl")
    _make_chains(setting)
    runs = {arm: [_trained(setting, arm, seed) for seed in range(asked.seeds)] for arm in START}
    models = {"base": [setting.start]} | {
        arm: [str(run) for run in own] for arm, own in runs.items()
    }
    taught = tuple(START)
    result = {
        "table": {
            f"{arm}, {name}": _measured(setting, own, tool)
            for name, tool in TOOLS.items()
            for arm, own in models.items()
        },
        "probes": {
            f"{arm}, {name}": _measured(setting, models[arm], tool)
            for arm in taught
            for name, tool in PROBES.items()
        },
        "direct, without a tool": {
            arm: _accuracy(_all_scores(setting, own, None)) for arm, own in models.items()
        },
        "weak tool over no tool": {
            arm: _lead(setting, models[arm], TOOLS["weak"], SILENT) for arm in taught
        },
        "training_seconds": {
            arm: [round(training_seconds(run)) for run in own] for arm, own in runs.items()
        },
    }
    config = {
        "configs": [str(path) for path in sorted(setting.configs.glob("*.yaml"))],
        "held_out": setting.held_out,
        "held_out_seed": HELD_OUT,
        "tools": TOOLS | PROBES | {"chains": TEACHING},
    }
    publish(result, out=asked.out, config=config, seed=SEED)


def _make_practice(out: Path) -> None:
    """Chains whose true box is drawn at random and given by the tool: only reading it answers them.

    Without practice a model that was never shown numbers does not learn to read and copy them from
    chains in which its own look at the image explains most of the digits (docs/log.md).
    """
    if not out.exists():
        save_dataset(out, (_practice(scene, draw) for scene in range(1500) for draw in range(8)))


def _practice(scene: int, draw: int) -> Sample:
    sample = synth.sample("attribute", seed=THOUGHTS_SEED, index=scene)
    rng = random.Random(f"{scene}/{draw}")
    image = sample.images[0]
    width, height = rng.randint(14, 44), rng.randint(14, 44)
    x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    box = Box(x, y, x + width, y + height, image.frame)
    found = Detection(0, box)
    return replace(
        sample,
        id=f"{sample.id}-{draw}",
        targets=(Target(0, box),),
        tool_results=(found,),
        rethink=pointed_at([found], names_of(sample)),
    )


def _make_chains(setting: Setting) -> None:
    """The starting model's own thoughts, and chains about a noisy detector's results."""
    for name, (data, limit) in setting.thoughts.items():
        out = setting.runs / "data" / f"{name}.jsonl"
        if not out.exists():
            folder = setting.runs / "thoughts" / name
            asked = Question(
                model=setting.start, data=data, seed=THOUGHTS_SEED, limit=limit, max_tokens=96
            )
            predict_folder(folder, asked)
            save_dataset(out, _variants(folder, setting.variants))


def _variants(thoughts: Path, count: int) -> Iterator[Sample]:
    for number in range(count):
        tool = f"{TEACHING},seed={number}"
        for sample in chains(thoughts, tool, timeout_s=60, cache=None):
            yield replace(sample, id=f"{sample.id}-{number}")


def _trained(setting: Setting, arm: str, seed: int) -> Path:
    start = START[arm]
    model = setting.runs / f"{start}-{seed}" if start else setting.start
    overrides = [f"seed={SEED + 100 * seed}", f"model={model}"]
    config = load(TrainConfig, setting.configs / f"{arm}.yaml", overrides)
    return trained(config, setting.runs / f"{arm}-{seed}")


def _measured(setting: Setting, models: Sequence[str], tool: str) -> dict[str, Any]:
    """VG-Refiner's measures over all samples and seeds, errors clustered by image."""
    by_seed = [_scores(setting, model, tool) for model in models]
    found = figures(refined([score for own in by_seed for score in own]))
    row: dict[str, Any] = {"n": len(by_seed[0]), "seeds": len(models)}
    for name in MEASURES:
        row |= {name: found[name].value, f"{name}_stderr": found[name].stderr}
    return row | {"accuracy_by_seed": [_accuracy(own)["accuracy"] for own in by_seed]}


def _lead(setting: Setting, models: Sequence[str], tool: str, other: str) -> dict[str, Any]:
    """By how much Acc@0.5 with one tool is above that with another, on the same samples."""
    pairs = [
        pair
        for model in models
        for pair in zip(_scores(setting, model, tool), _scores(setting, model, other), strict=True)
    ]
    assert all(one.sample.id == two.sample.id for one, two in pairs)
    mean = clustered_mean(
        [_hit(one) - _hit(two) for one, two in pairs], [one.cluster for one, _ in pairs]
    )
    return {"lead": mean.value, "lead_stderr": mean.stderr, "n": len(pairs)}


def _accuracy(scores: Iterable[SampleScore]) -> dict[str, Any]:
    rows = list(scores)
    mean = clustered_mean([_hit(row) for row in rows], [row.cluster for row in rows])
    return {"accuracy": mean.value, "accuracy_stderr": mean.stderr, "n": len(rows)}


def _hit(score: SampleScore) -> float:
    return float((score.iou or 0.0) > 0.5)


def _all_scores(setting: Setting, models: Sequence[str], tool: str | None) -> list[SampleScore]:
    return [score for model in models for score in _scores(setting, model, tool)]


def _scores(setting: Setting, model: str, tool: str | None) -> list[SampleScore]:
    """Scores of all held-out samples; evaluated once."""
    scores: list[SampleScore] = []
    for task, (data, limit) in setting.held_out.items():
        name = "no-tool" if tool is None else f"{zlib.crc32(tool.encode()):08x}"
        out = setting.runs / "results" / Path(model).name / name / task
        if not (out / "report.json").exists():
            evaluate(out, _question(setting, model, data, limit, tool))
        scores += read_scores(out)
    return scores


def _question(
    setting: Setting, model: str, data: str, limit: int | None, tool: str | None
) -> Question:
    """The starting model is asked under PiTER, the others as they were trained."""
    asked = Question(model=model, data=data, seed=HELD_OUT, limit=limit, max_tokens=160)
    if tool is None:
        return replace(asked, family="univg_r1", prompt="tiny")
    protocol = "piter" if model == setting.start else None
    return replace(asked, tool=ToolUse(spec=tool), protocol=protocol)


if __name__ == "__main__":
    main()
