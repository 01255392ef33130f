"""Tool-refined grounding of scenes: what a model makes of a weak and of a strong detector.

Makes cold-start chains, trains configs/tiny/refiner/{sft,grpo,grpo_iou}.yaml by seed, and
evaluates held-out scenes of five tasks under detectors of set quality (oracle:...). What is done
already is not done again.

    python benchmarks/refiner.py --seeds 3 --out docs/results/refiner.json
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import parser, publish, trained, training_seconds

from reground.config import load
from reground.data.source import save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.scoring.metrics import clustered_mean
from reground.evaluation.scoring.refinement import figures, refined
from reground.teacher.rethink import chains
from reground.training.settings import TrainConfig

RUNS = Path("runs/refiner")
CONFIGS = Path("configs/tiny/refiner")
TASKS = ("diff", "common_object", "region", "reasoning", "correspondence")
FIRST_THOUGHTS = 1500  # scenes of each task behind the chains
TEACHING = "oracle:right=0.65,wrong=0.4,hallucinated=0.25,missing=0.35,jitter=0.06"
SILENT = "oracle:right=0,wrong=0,hallucinated=0,missing=1"
TOOLS = {"weak": "oracle:weak", "strong": "oracle:strong"}
# The same samples with a correct, a wrong and no box.
PROBES = {
    "correct": "oracle:right=1,several=0",
    "wrong": "oracle:right=0,wrong=1,hallucinated=0,missing=0,several=0",
    "none": SILENT,
}
START = {"sft": "tiny", "grpo": "sft", "grpo_iou": "sft"}
SEED = 50  # of the first repetition; the next ones add 100 each
THOUGHTS_SEED, HELD_OUT = 41, 1_000_007  # no run draws scenes of the latter
KEPT = ("tool_accuracy", "accuracy", "accuracy_difference", "ccr", "nsri", "nsri_w", "nsri_c",
        "follow_correct_rate", "inherited_error_rate")  # fmt: skip


def main() -> None:
    """Train what is missing, evaluate everything, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("--seeds", type=int, default=3)
    command_line.add_argument("--limit", type=int, default=100, help="held-out scenes of each task")
    asked = command_line.parse_args()
    _make_chains()
    runs = {arm: [_trained(arm, seed) for seed in range(asked.seeds)] for arm in START}
    models = {"base": ["tiny"]} | {arm: [str(run) for run in own] for arm, own in runs.items()}
    table = {
        f"{arm}, {name}": _measured(own, tool, asked.limit)
        for name, tool in TOOLS.items()
        for arm, own in models.items()
    }
    probes = {
        f"{arm}, {name}": _measured(models[arm], tool, asked.limit)
        for arm in ("sft", "grpo", "grpo_iou")
        for name, tool in PROBES.items()
    }
    kept = {arm: _direct(own, asked.limit) for arm, own in models.items()}
    lead = {
        f"{arm}, weak over none": _lead(models[arm], TOOLS["weak"], SILENT, asked.limit)
        for arm in ("sft", "grpo", "grpo_iou")
    }
    seconds = {arm: [round(training_seconds(run)) for run in own] for arm, own in runs.items()}
    config = {
        "configs": [str(path) for path in sorted(CONFIGS.glob("*.yaml"))],
        "tasks": TASKS,
        "tools": TOOLS | PROBES | {"training": TEACHING},
        "held_out_seed": HELD_OUT,
        "limit": asked.limit,
    }
    result = {
        "table": table,
        "probes": probes,
        "without a tool, direct": kept,
        "paired": lead,
        "training_seconds": seconds,
    }
    publish(result, out=asked.out, config=config, seed=SEED)


def _make_chains() -> None:
    """The starting model's own thoughts about scenes, and chains about a noisy detector."""
    for task in TASKS:
        out = RUNS / "data" / f"{task}.jsonl"
        if out.exists():
            continue
        thoughts = RUNS / "thoughts" / task
        asked = Question(
            model="tiny", data=f"synth:{task}", seed=THOUGHTS_SEED, limit=FIRST_THOUGHTS
        )
        predict_folder(thoughts, asked)
        save_dataset(out, chains(thoughts, TEACHING, timeout_s=60, cache=None))


def _trained(arm: str, seed: int) -> Path:
    overrides = [f"seed={SEED + 100 * seed}"]
    if START[arm] != "tiny":
        overrides.append(f"model={RUNS / f'{START[arm]}-{seed}'}")
    config = load(TrainConfig, CONFIGS / f"{arm}.yaml", overrides)
    return trained(config, RUNS / f"{arm}-{seed}")


def _measured(models: Sequence[str], tool: str, limit: int) -> dict[str, Any]:
    """VG-Refiner's measures over all samples and seeds, errors clustered by image."""
    by_seed = [_scores(model, tool, limit) for model in models]
    found = figures(refined([score for own in by_seed for score in own]))
    row: dict[str, Any] = {"n": len(by_seed[0]), "seeds": len(models)}
    for name in KEPT:
        row |= {name: found[name].value, f"{name}_stderr": found[name].stderr}
    row["accuracy_by_seed"] = [_accuracy(own)["accuracy"] for own in by_seed]
    return row


def _direct(models: Sequence[str], limit: int) -> dict[str, Any]:
    """The plain answer of UniVG-R1's form, without any tool: what a model kept."""
    return _accuracy([score for model in models for score in _scores(model, None, limit)])


def _lead(models: Sequence[str], tool: str, other: str, limit: int) -> dict[str, Any]:
    """By how much Acc@0.5 with one tool is above that with another, on the same samples."""
    gains, clusters = [], []
    for model in models:
        pairs = zip(_scores(model, tool, limit), _scores(model, other, limit), strict=True)
        for one, two in pairs:
            assert one.sample.id == two.sample.id
            gains.append(_hit(one) - _hit(two))
            clusters.append(one.cluster)
    mean = clustered_mean(gains, clusters)
    return {"lead": mean.value, "lead_stderr": mean.stderr, "n": len(gains)}


def _accuracy(scores: Iterable[SampleScore]) -> dict[str, Any]:
    rows = list(scores)
    mean = clustered_mean([_hit(row) for row in rows], [row.cluster for row in rows])
    return {"accuracy": mean.value, "accuracy_stderr": mean.stderr, "n": len(rows)}


def _hit(score: SampleScore) -> float:
    return float((score.iou or 0.0) > 0.5)


def _scores(model: str, tool: str | None, limit: int) -> list[SampleScore]:
    """Scores of held-out scenes of all tasks; evaluated once."""
    scores: list[SampleScore] = []
    for task in TASKS:
        name = "no-tool" if tool is None else f"{zlib.crc32(tool.encode()):08x}"
        out = RUNS / "results" / Path(model).name / name / task
        if not (out / "report.json").exists():
            evaluate(out, _question(model, task, tool, limit))
        scores += read_scores(out)
    return scores


def _question(model: str, task: str, tool: str | None, limit: int) -> Question:
    """The starting model is asked under PiTER, the others as they were trained."""
    data, seed = f"synth:{task}", HELD_OUT
    if tool is None:
        return Question(
            model=model, data=data, seed=seed, limit=limit, family="univg_r1", prompt="tiny"
        )
    protocol = "piter" if model == "tiny" else None
    use = ToolUse(spec=tool)
    return Question(model=model, data=data, seed=seed, limit=limit, protocol=protocol, tool=use)


if __name__ == "__main__":
    main()
