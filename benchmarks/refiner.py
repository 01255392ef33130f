"""Tool-refined grounding: what a model makes of a weak and of a strong detector.

Makes cold-start chains from the starting model's own first thoughts, trains practice.yaml once and
sft.yaml, grpo.yaml and grpo_iou.yaml of a setting by seed, and evaluates held-out samples under
detectors of set quality (oracle:...). Settings: ``scenes`` (configs/tiny/refiner, one task of one
image and five of several) and ``photos`` (configs/bccd/refiner, after benchmarks/bccd.py). What is
done already is not done again.

    python benchmarks/refiner.py scenes --seeds 3 --out docs/results/refiner.json
    python benchmarks/refiner.py photos --seeds 1 --out docs/results/refiner_photos.json
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common import HELD_OUT, averaged, parser, publish, trained, training_seconds

from reground.data.source import save_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.scoring.refinement import figures, refined
from reground.grounding.boxes import Box, Frame, iou, place
from reground.grounding.sample import Detection, Sample, Target
from reground.protocols.rethink import it_is, pointed_at
from reground.teacher.rethink import chains, first_answers

TASKS = ("referring", "diff", "common_object", "region", "reasoning", "correspondence")
TEACHING = "oracle:right=0.75,wrong=0.4,hallucinated=0.25,missing=0.35,jitter=0.06"
SILENT = "oracle:right=0,wrong=0,hallucinated=0,missing=1"
TOOLS = {"weak": "oracle:weak,several=0", "strong": "oracle:strong,several=0"}  # one box or none
# The same samples with a correct, a wrong and no box, and with a correct one among others.
PROBES = {
    "correct": "oracle:right=1,several=0",
    "wrong": "oracle:right=0,wrong=1,hallucinated=0,missing=0,several=0",
    "none": SILENT,
    "several": "oracle:right=1,several=1",
}
ARMS = ("sft", "grpo", "grpo_iou")
SAME = 0.9  # IoU above which two boxes are one
SEED = 50  # of the first repetition; the next ones add 100 each
THOUGHTS_SEED = 41
MEASURES = (
    "tool_accuracy",
    "accuracy",
    "accuracy_difference",
    "ccr",
    "nsri",
    "nsri_w",
    "nsri_c",
    "inherited_error_rate",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is learnt from what. ``thoughts`` and ``held_out`` are data and how much of each.

    Every thought gets ``variants`` chains, about as many noisy results of the detector, and as
    many to practise on before them: reading numbers is a skill that a model of this size lacks.
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
    _make_chains(setting)
    practised = _trained(setting, "practice", 0)
    runs = {arm: [_trained(setting, arm, seed) for seed in range(asked.seeds)] for arm in ARMS}
    models = {"base": [setting.start]} | {
        arm: [str(run) for run in own] for arm, own in runs.items()
    }
    result = {
        "table": {
            f"{arm}, {name}": _measured(setting, own, tool)
            for name, tool in TOOLS.items()
            for arm, own in models.items()
        },
        "probes": {
            f"{arm}, {name}": _measured(setting, models[arm], tool)
            for arm in ARMS
            for name, tool in PROBES.items()
        },
        "direct, without a tool": {
            arm: _accuracy(_all_scores(setting, own, None)) for arm, own in models.items()
        },
        "right with the weak tool, less with none": {
            arm: _paired(setting, models[arm], _hit, TOOLS["weak"], SILENT) for arm in ARMS
        },
        "followed, correct box less wrong box": {
            arm: _paired(setting, models[arm], _followed, PROBES["correct"], PROBES["wrong"])
            for arm in ARMS
        },
        "training_seconds": {
            arm: [round(training_seconds(run)) for run in own]
            for arm, own in ({"practice": [practised]} | runs).items()
        },
    }
    config = {
        "configs": [str(path) for path in sorted(setting.configs.glob("*.yaml"))],
        "held_out": setting.held_out,
        "held_out_seed": HELD_OUT,
        "tools": TOOLS | PROBES | {"chains": TEACHING},
    }
    publish(result, out=asked.out, config=config, seed=SEED)


def _make_chains(setting: Setting) -> None:
    """The starting model's own thoughts, and what is to be learnt from each: files by kind."""
    for name, (data, limit) in setting.thoughts.items():
        thoughts = setting.runs / "thoughts" / name
        missing = [kind for kind in KINDS if not (setting.runs / kind / f"{name}.jsonl").exists()]
        if missing:
            asked = Question(
                model=setting.start, data=data, seed=THOUGHTS_SEED, limit=limit, max_tokens=96
            )
            predict_folder(thoughts, asked)
        for kind in missing:
            rows = KINDS[kind](thoughts, setting.variants)
            save_dataset(setting.runs / kind / f"{name}.jsonl", rows)


def _taught(thoughts: Path, variants: int) -> Iterator[Sample]:
    return _variants(thoughts, TEACHING, variants)


def _alone(thoughts: Path, variants: int) -> Iterator[Sample]:
    """The detector found nothing: the model is not to forget what it knew."""
    return _variants(thoughts, SILENT, 1)


def _own(thoughts: Path, variants: int) -> Iterator[Sample]:
    """The questions as the starting model is asked them: without these it forgets how to point."""
    for sample, _ in first_answers(thoughts):
        yield replace(sample, protocol="think")


def _practice(thoughts: Path, variants: int) -> Iterator[Sample]:
    """The detector's box is anywhere and is the answer: only reading its numbers finds it.

    A model that was never shown numbers does not learn to read and copy them from boxes of which
    its own look at the image explains most of the digits; nor to compare places where the task
    tells which answer is likely (docs/log.md). So in half of the cases a box is where the first
    thought was.
    """
    return _practised(thoughts, variants, most=1)


def _several(thoughts: Path, variants: int) -> Iterator[Sample]:
    """The same with two or three boxes: the one where the first thought was, or else the first."""
    return _practised(thoughts, variants, most=3)


def _practised(thoughts: Path, variants: int, *, most: int) -> Iterator[Sample]:
    firsts = list(first_answers(thoughts))
    for number in range(variants):
        for sample, first in firsts:
            rng = random.Random(f"{sample.id}/{number}")
            target, own = sample.target_image, next(iter(first.boxes), None)
            there = place(own) if own and number % 2 else None
            boxes = _scattered(rng, sample.images[target].frame, most, there)
            answer = next((box for box in boxes if place(box) == there), boxes[0])
            found = tuple(Detection(target, box) for box in boxes)
            which = f" {it_is([answer])}" if len(boxes) > 1 else ""
            yield replace(
                sample,
                id=f"{sample.id}-{number}",
                targets=(Target(target, answer),),
                tool_results=found,
                think=first.think,
                rethink=pointed_at(found, own) + which,
            )


def _scattered(rng: random.Random, frame: Frame, most: int, there: str | None) -> list[Box]:
    """At most so many boxes in different places, one of them ``there``."""
    boxes: dict[str, Box] = {}
    count = rng.randint(min(2, most), most)
    while len(boxes) < count:
        box = _anywhere(rng, frame)
        kept_free = there is not None and there not in boxes
        if place(box) == there or len(boxes) < count - kept_free:
            boxes[place(box)] = box
    scattered = list(boxes.values())
    rng.shuffle(scattered)
    return scattered


def _anywhere(rng: random.Random, frame: Frame) -> Box:
    x1, x2 = _span(rng, frame.width)
    y1, y2 = _span(rng, frame.height)
    return Box(x1, y1, x2, y2, frame)


def _span(rng: random.Random, length: float) -> tuple[int, int]:
    """A stretch of a side, in every third case at an edge, where numbers are short."""
    stretch = rng.uniform(0.12, 0.4) * length
    first = rng.uniform(0, length - stretch)
    if rng.random() < 1 / 3:
        first = rng.choice((0.1 * first, length - stretch - 0.1 * first))
    return round(first), round(first + stretch)


def _variants(thoughts: Path, tool: str, count: int) -> Iterator[Sample]:
    for number in range(count):
        spec = f"{tool},seed={number}"
        results = thoughts / f"{_short(spec)}.jsonl"
        for sample in chains(thoughts, spec, timeout_s=60, results=results):
            yield replace(sample, id=f"{sample.id}-{number}")


def _short(tool: str) -> str:
    return f"{zlib.crc32(tool.encode()):08x}"


def _trained(setting: Setting, arm: str, seed: int) -> Path:
    overrides = (f"seed={SEED + 100 * seed}", f"model={_start(setting, arm, seed)}")
    return trained(setting.configs / f"{arm}.yaml", setting.runs / f"{arm}-{seed}", *overrides)


def _start(setting: Setting, arm: str, seed: int) -> str | Path:
    """What an arm goes on from; the practised model is one for all repetitions."""
    if arm == "practice":
        return setting.start
    return setting.runs / ("practice-0" if arm == "sft" else f"sft-{seed}")


def _measured(setting: Setting, models: Sequence[str], tool: str) -> dict[str, Any]:
    """VG-Refiner's measures over all samples and seeds, errors clustered by image."""
    by_seed = [_scores(setting, model, tool) for model in models]
    scores = [score for own in by_seed for score in own]
    found = figures(refined(scores))
    row: dict[str, Any] = {"n": len(by_seed[0]), "seeds": len(models)}
    for name in MEASURES:
        row |= {name: found[name].value, f"{name}_stderr": found[name].stderr}
    return row | {
        **_mean("follow_rate", _followed, scores),
        "accuracy_by_seed": [_accuracy(own)["accuracy"] for own in by_seed],
        "accuracy_by_task": {
            task: _accuracy(score for score in scores if score.sample.task == task)["accuracy"]
            for task in sorted({score.sample.task for score in scores})
        },
    }


def _paired(
    setting: Setting,
    models: Sequence[str],
    figure: Callable[[SampleScore], float],
    tool: str,
    other: str,
) -> dict[str, Any]:
    """The mean of a figure with one tool less that with another, on the same samples."""
    pairs = [
        pair
        for model in models
        for pair in zip(_scores(setting, model, tool), _scores(setting, model, other), strict=True)
    ]
    assert all(one.sample.id == two.sample.id for one, two in pairs)
    gains = [figure(one) - figure(two) for one, two in pairs]
    return averaged("difference", gains, [one.cluster for one, _ in pairs]) | {"n": len(pairs)}


def _accuracy(scores: Iterable[SampleScore]) -> dict[str, Any]:
    rows = list(scores)
    return _mean("accuracy", _hit, rows) | {"n": len(rows)}


def _mean(
    name: str, figure: Callable[[SampleScore], float], rows: Sequence[SampleScore]
) -> dict[str, Any]:
    return averaged(name, [figure(row) for row in rows], [row.cluster for row in rows])


def _hit(score: SampleScore) -> float:
    return float((score.iou or 0.0) > 0.5)


def _followed(score: SampleScore) -> float:
    """Whether the final box is the detector's, but for the rounding of its numbers."""
    frame = score.sample.images[score.sample.target_image].frame
    final = [Box(*xyxy, frame) for xyxy in score.predicted]
    found = [each.box for each in score.sample.detections]
    return float(any(iou(one, two) > SAME for one in final for two in found))


def _all_scores(setting: Setting, models: Sequence[str], tool: str | None) -> list[SampleScore]:
    return [score for model in models for score in _scores(setting, model, tool)]


def _scores(setting: Setting, model: str, tool: str | None) -> list[SampleScore]:
    """Scores of all held-out samples; evaluated once."""
    scores: list[SampleScore] = []
    for task, (data, limit) in setting.held_out.items():
        name = "no-tool" if tool is None else _short(tool)
        arm = "start" if model == setting.start else Path(model).name
        out = setting.runs / "results" / arm / name / task
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
        return replace(asked, protocol="think")
    asked = replace(asked, tool=ToolUse(spec=tool))
    return replace(asked, protocol="piter") if model == setting.start else asked


KINDS = {
    "own": _own,
    "data": _taught,
    "alone": _alone,
    "practice": _practice,
    "several": _several,
}


if __name__ == "__main__":
    main()
