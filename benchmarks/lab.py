"""What each way of training gives, from the same start on the same data, with seeds.

An experiment is a folder of configs; each is an arm. What an arm gives with one seed is a row of
docs/results/rl.json, made once: trained (resumed where it was killed), its FLOPs counted, held-out
scenes answered greedily and with 8 samples. Arms are then compared seed by seed; the tables are in
docs/results.md (scripts/figures.py).

    python benchmarks/lab.py ablation --seeds 0 1 2
    python benchmarks/lab.py lab --arms rloo gspo --seeds 0

Two of these may run side by side, with OMP_NUM_THREADS=1 and other seeds.
"""

from __future__ import annotations

import fcntl
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import HELD_OUT, parser, trained, training_seconds
from flops import counted
from scipy.stats import t as student

from reground.config import load
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.scoring.bootstrap import intervals
from reground.evaluation.scoring.metrics import HIT_THRESHOLD, is_hit
from reground.io import read_jsonl, write_json
from reground.provenance import commit, result_header
from reground.training.settings import TrainConfig

RESULTS = Path("docs/results/rl.json")
SAMPLES, SAMPLED = 8, 100  # answers to each of so many scenes of a task
LIMIT = 400  # held-out scenes of a task, for greedy answers
POINTS = 10  # of a curve
CURVES = ("reward/iou", "difficulty/easy", "difficulty/medium", "difficulty/hard", "sft/nll")


@dataclass(frozen=True, slots=True)
class Experiment:
    """A folder of configs, and the arms that all others are compared with.

    All arms that go on from another get the FLOPs of ``budget``, whatever steps their configs say.
    """

    configs: Path
    over: tuple[str, ...]
    budget: str | None = None


EXPERIMENTS = {
    "ablation": Experiment(Path("benchmarks/configs/ablation"), ("cot_sft", "more_sft", "grpo")),
    "lab": Experiment(Path("benchmarks/configs/lab"), ("start", "more_sft", "grpo"), budget="grpo"),
}


def main() -> None:
    """Make the rows that are missing."""
    command_line = parser(__doc__)
    command_line.add_argument("experiment", choices=EXPERIMENTS)
    command_line.add_argument("--arms", nargs="*", help="default: every config of the folder")
    command_line.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    asked = command_line.parse_args()
    own = EXPERIMENTS[asked.experiment]
    every = sorted(path.stem for path in own.configs.glob("*.yaml") if path.stem != "base")
    for arm in every if asked.arms is None else asked.arms:
        for seed in asked.seeds:
            if not made(asked.experiment, arm, seed):
                keep(asked.experiment, row(asked.experiment, own.configs / f"{arm}.yaml", seed))


def row(experiment: str, path: Path, seed: int) -> dict[str, Any]:
    """Train an arm with one seed, its start first, and measure what it has become."""
    run = run_of(experiment, path, seed)
    config = load(TrainConfig, run / "config.yaml")
    tasks = [spec.removeprefix("synth:") for spec in config.data[0].mix]
    answers = {task: answered(run, task, seed) for task in tasks}
    drawn = {task: answered(run, task, seed, samples=SAMPLES) for task in tasks}
    hits = {task: bits(is_hit(own) for own in scores) for task, scores in answers.items()}
    return {
        "arm": path.stem,
        "seed": seed,
        "config": str(path),
        "commit": commit(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "steps": config.steps,
        "seconds": round(training_seconds(run)),
        "flops": config.steps * counted(config),
        "n": sum(map(len, hits.values())),
        "acc@0.5": macro(hits),
        "tasks": {task: share(own) for task, own in hits.items()},
        "sampled": sampled(drawn),
        "curves": curves(run),
        "hits": hits,
    }


def run_of(experiment: str, path: Path, seed: int) -> Path:
    """The trained run of a config with one seed; the run it goes on from is trained first."""
    changes = started(experiment, path, seed)
    own = EXPERIMENTS[experiment]
    if own.budget not in (None, path.stem) and len(changes) > 1:
        like = own.configs / f"{own.budget}.yaml"
        budget = load(TrainConfig, like, started(experiment, like, seed))
        config = load(TrainConfig, path, changes)
        changes.append(f"steps={round(budget.steps * counted(budget) / counted(config))}")
    return trained(path, Path("runs") / experiment / f"{path.stem}-{seed}", *changes)


def started(experiment: str, path: Path, seed: int) -> list[str]:
    """What a seed changes in a config: its seed, and the run from which it goes on, if any."""
    config = load(TrainConfig, path)
    changes = [f"seed={100 + seed}"]
    if config.model.startswith("runs/"):
        start = path.with_name(f"{Path(config.model).name}.yaml")
        changes.append(f"model={run_of(experiment, start, seed)}")
    return changes


def answered(run: Path, task: str, seed: int, *, samples: int = 1) -> list[SampleScore]:
    """Scores of held-out scenes of a task, which differ from seed to seed."""
    with tempfile.TemporaryDirectory() as folder:
        question = Question(
            model=str(run),
            data=f"synth:{task}",
            seed=HELD_OUT + seed,
            limit=LIMIT if samples == 1 else SAMPLED,
            max_tokens=128,
            draws=samples,
            temperature=float(samples > 1),
        )
        evaluate(Path(folder), question)
        return list(read_scores(Path(folder)))


def sampled(drawn: Mapping[str, Sequence[SampleScore]]) -> dict[str, Any]:
    """Acc@0.5, mean over tasks, of one sampled answer, the best of 8 and their vote."""
    right = {
        task: [[iou > HIT_THRESHOLD for iou in own.draws] for own in scores]
        for task, scores in drawn.items()
    }
    return {
        "n": sum(map(len, drawn.values())),
        "samples": SAMPLES,
        "one": statistics.fmean(float(np.mean(own)) for own in right.values()),
        "best": statistics.fmean(float(np.mean([any(o) for o in own])) for own in right.values()),
        "vote": macro({task: bits(is_hit(own) for own in rows) for task, rows in drawn.items()}),
    }


def curves(run: Path) -> dict[str, list[float]]:
    """Means of what was logged over each tenth of the training."""
    rows = list(read_jsonl(run / "metrics.jsonl", dict))
    found: dict[str, list[float]] = {}
    for name in CURVES:
        values = [float(each[name]) for each in rows if name in each]
        if len(values) >= POINTS:
            parts = np.array_split(np.array(values), POINTS)
            found[name] = [round(float(part.mean()), 4) for part in parts]
    return found


def bits(hits: Iterator[bool]) -> str:
    """``[True, False]`` as ``"10"``, in the order of the scenes."""
    return "".join(str(int(hit)) for hit in hits)


def share(hits: str) -> float:
    """How many of them are right."""
    return hits.count("1") / len(hits)


def macro(hits: Mapping[str, str]) -> float:
    """The mean over tasks."""
    return statistics.fmean(map(share, hits.values()))


# ---- the file ----------------------------------------------------------------------------------


@contextmanager
def alone() -> Iterator[dict[str, Any]]:
    """The results, for this process alone: written again when it is done with them."""
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        yield found
        write_json(RESULTS, found)
    finally:
        os.close(folder)


def arms_of(experiment: str) -> dict[str, list[dict[str, Any]]]:
    """The rows so far, by arm."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found: dict[str, list[dict[str, Any]]] = results.get(experiment, {}).get("arms", {})
    return found


def made(experiment: str, arm: str, seed: int) -> bool:
    """Whether the row stands in the results."""
    return any(own["seed"] == seed for own in arms_of(experiment).get(arm, []))


def keep(experiment: str, new: dict[str, Any]) -> None:
    """Put a row into the results, and compare all arms anew."""
    command = f"python benchmarks/lab.py {experiment}"
    config = {"held_out_seed": f"{HELD_OUT} + seed", "scenes of a task": LIMIT}
    with alone() as results:
        own = results.setdefault(experiment, {"arms": {}})
        rows = own["arms"].setdefault(new["arm"], [])
        rows.append(new)
        rows.sort(key=lambda each: each["seed"])
        own |= result_header(command=command, config=config, seed=0)
        own["differences"] = differences(own["arms"], EXPERIMENTS[experiment].over)
    print(f"{new['arm']} seed {new['seed']}: Acc@0.5 {new['acc@0.5']:.3f}", flush=True)


def differences(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], over: Sequence[str]
) -> list[dict[str, Any]]:
    """Every arm over each of some others, with the seeds that both have."""
    return [
        {"arm": arm, "over": other} | difference(arms[arm], arms[other])
        for other in over
        for arm in arms
        if arm != other and other in arms
    ]


def difference(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The gain in mean Acc@0.5 over tasks, with two paired 95 % intervals.

    ``seeds_low`` and ``_high`` are Student's, of the gains of the seeds: each seed has trainings
    and scenes of its own. ``low`` and ``high`` are the bootstrap's over scenes, of these trainings.
    """
    pairs = [(a, b) for a in ours for b in theirs if a["seed"] == b["seed"]]
    gains = [a["acc@0.5"] - b["acc@0.5"] for a, b in pairs]
    rows = [
        (float(x) - float(y), task, f"{a['seed']} {task} {place}")
        for a, b in pairs
        for task, hits in a["hits"].items()
        for place, (x, y) in enumerate(zip(hits, b["hits"][task], strict=True))
    ]
    values, tasks, scenes = map(list, zip(*rows, strict=True))
    found = intervals({"gain": values}, tasks=tasks, clusters=scenes)["gain"].macro
    mean = statistics.fmean(gains)
    half = None
    if len(gains) > 1:
        error = statistics.stdev(gains) / len(gains) ** 0.5
        half = float(student.ppf(0.975, len(gains) - 1)) * error
    return {
        "seeds": [a["seed"] for a, _ in pairs],
        "n": len(rows),
        "gains": gains,
        "gain": mean,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "seeds_low": None if half is None else mean - half,
        "seeds_high": None if half is None else mean + half,
    }


if __name__ == "__main__":
    main()
