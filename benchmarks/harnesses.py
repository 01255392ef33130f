"""Our scores beside those of lmms-eval and Inspect, read from the files that each command writes.

    make test-harnesses
    .venv-harnesses/bin/python benchmarks/harnesses.py OUTPUTS --out docs/results/harnesses.json

OUTPUTS holds folders of stored answers to MIG-Bench, one a model, as MIG-Bench's evaluator writes
them. All are scored on every side; the shipped tiny model answers scenes on every side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.evaluation.records import read_run, read_scores
from reground.evaluation.scoring.metrics import HIT_THRESHOLD, HITS
from reground.io import read_jsonl

TASKS = ("referring", "correspondence")  # of one image, and of two
SEED = 21
# How a figure of ours is called in a file of lmms-eval, and by its score and metric in Inspect's.
FIGURES = {
    "acc@0.5": ("acc@0.5", "acc@0.5 mean"),
    "mean_iou": ("mean_iou", "mean_iou mean"),
    "macro@0.5": ("mean_of_tasks", "acc@0.5 mean_of_tasks"),
    "acc@0.5_stderr": ("acc@0.5_stderr_clustered", "acc@0.5 stderr"),
    "mean_iou_stderr": ("mean_iou_stderr_clustered", "mean_iou stderr"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What one side says: its figures, and the text, hit and IoU of each answer by sample id."""

    figures: Mapping[str, float]
    answers: Mapping[str, tuple[str, float, float]]


def main() -> None:
    """Run every side on everything, compare, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("outputs", type=Path)
    command_line.add_argument("--limit", type=int, default=150, help="scenes of each task")
    asked = command_line.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(path for path in asked.outputs.iterdir() if path.is_dir()):
            found[f"mig_bench, {path.name}"] = _stored(path, Path(folder) / path.name)
        for task in TASKS:
            found[f"synth:{task}, tiny"] = _asked(task, asked.limit, Path(folder) / task)
    versions = {name: version(name) for name in ("lmms-eval", "inspect-ai")}
    config = {"tasks": TASKS, "limit": asked.limit}
    publish({"versions": versions, "runs": found}, out=asked.out, config=config, seed=SEED)


def _stored(outputs: Path, out: Path) -> dict[str, Any]:
    """Every side's scores of stored answers."""
    own, solver = out / "own", ["--solver", "reground/stored", "-S", f"answers={out / 'own'}"]
    _run("reground", "score", outputs, "--format", "mig_bench_outputs", "--out", own)
    _run("reground", "harness", "lmms-eval", "--data", own, "--out", out / "tasks")
    _lmms(out, f"answers={own}")
    _inspect(out, f"data={own}", *solver, "--model", "mockllm/model")
    return _compared(out)


def _asked(task: str, limit: int, out: Path) -> dict[str, Any]:
    """Every side's scores of the tiny model, which each asks anew."""
    data = ["--data", f"synth:{task}", "--model", "tiny", "--limit", limit, "--seed", SEED]
    _run("reground", "eval", *data, "--out", out / "own")
    _run("reground", "harness", "lmms-eval", *data, "--out", out / "tasks")
    _lmms(out, "pretrained=tiny", "--batch_size", 64)
    wanted = [f"data=synth:{task}", "-T", f"samples={limit}", "-T", f"seed={SEED}"]
    _inspect(out, *wanted, "--model", "reground/tiny")
    return _compared(out)


def _lmms(out: Path, model_args: str, *more: object) -> None:
    (task,) = (path.stem for path in (out / "tasks").glob("*.yaml"))
    line = ["--include_path", out / "tasks", "--tasks", task, "--model", "reground"]
    line += ["--model_args", model_args, "--output_path", out / "lmms", "--log_samples"]
    _run("lmms-eval", *line, *more)


def _inspect(out: Path, *line: object) -> None:
    to = ["--log-dir", out / "inspect", "--display", "none"]
    _run("inspect", "eval", "reground/grounding", "-T", *line, *to)


def _run(program: str, *line: object) -> None:
    print(program, *line, file=sys.stderr, flush=True)
    command = [str(Path(sys.executable).parent / program), *map(str, line)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _compared(out: Path) -> dict[str, Any]:
    ours, sides = _ours(out / "own"), {"lmms-eval": _lmms_says(out), "inspect": _inspect_says(out)}
    result: dict[str, Any] = {"n": len(ours.answers), "reground": ours.figures}
    for name, theirs in sides.items():
        apart = {key: abs(theirs.figures[key] - value) for key, value in ours.figures.items()}
        pairs = [(own, theirs.answers.get(id, ("", -1, -1))) for id, own in ours.answers.items()]
        result[name] = theirs.figures
        result[f"{name} less reground"] = apart | {
            "other texts": sum(own[0] != other[0] for own, other in pairs),
            "other scores": sum(own[1:] != other[1:] for own, other in pairs),
            "answers": len(theirs.answers),
        }
    return result


def _ours(folder: Path) -> Found:
    report, hit = json.loads((folder / "report.json").read_bytes()), HITS[read_run(folder).hit]
    figures = {name: report[name] for name in FIGURES if report.get(name) is not None}
    rows = [(row, row.iou or 0.0) for row in read_scores(folder)]
    answers = {
        row.sample.id: (row.text.strip(), float(hit(iou, HIT_THRESHOLD)), iou) for row, iou in rows
    }
    return Found(figures, answers)


def _lmms_says(out: Path) -> Found:
    (results,), (samples,) = ((out / "lmms").rglob(name) for name in ("*results.json", "*.jsonl"))
    (own,) = json.loads(results.read_bytes())["results"].values()
    figures = {name: own[f"{theirs},none"] for name, (theirs, _) in FIGURES.items()}
    answers = {
        row["acc@0.5"]["id"]: (
            row["filtered_resps"].strip(),
            row["acc@0.5"]["score"],
            row["mean_iou"]["score"],
        )
        for row in read_jsonl(samples, dict)
    }
    return Found(figures, answers)


def _inspect_says(out: Path) -> Found:
    from inspect_ai.log import read_eval_log

    (path,) = (out / "inspect").iterdir()
    log = read_eval_log(str(path))
    assert log.status == "success" and log.results and log.samples, log.error
    own = {
        f"{score.name} {name.split('/')[-1]}": metric.value
        for score in log.results.scores
        for name, metric in score.metrics.items()
    }
    figures = {name: float(own[theirs]) for name, (_, theirs) in FIGURES.items()}
    answers = {}
    for sample in log.samples:
        marks: Any = sample.scores["grounded"].value if sample.scores else {}
        text = sample.output.completion.strip()
        answers[str(sample.id)] = (text, marks["acc@0.5"], marks["mean_iou"])
    return Found(figures, answers)


if __name__ == "__main__":
    main()
