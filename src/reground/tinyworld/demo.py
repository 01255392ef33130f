"""The demo: train, compare and report a tiny model, then check a detector's boxes."""

from __future__ import annotations

import shutil
import time
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from reground.config import load
from reground.data.show import draw
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.reporting.report import comparison_markdown
from reground.evaluation.scoring.refinement import ToolOutcome, refined
from reground.grounding.boxes import Box
from reground.grounding.sample import Target
from reground.io import write_json
from reground.runs import result_header
from reground.training.run import train
from reground.training.settings import TrainConfig

_DATA, _SEED = "synth:diff", 1_000_007
_REFINED = "synth:referring"
_KEPT = ("n", "acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr")


def run(out: Path, *, samples: int) -> None:
    """Everything that ``reground demo`` says, into the folder ``out``."""
    for again in (out / "base", out / "refiner"):  # training begins anew by itself
        if (again / "run.json").exists():
            shutil.rmtree(again)
    begin = time.perf_counter()
    reports = _all_arms(out, samples)
    seconds = round(time.perf_counter() - begin)
    arms = {name: {key: report[key] for key in _KEPT} for name, report in reports.items()}
    result = result_header(command="make demo", config={"data": _DATA, "n": samples}, seed=_SEED)
    write_json(out / "demo.json", result | {"seconds": seconds, "arms": arms})
    typer.echo(f"\nheld-out scenes of {_DATA}, seed {_SEED}:\n\n{comparison_markdown(reports)}")
    typer.echo(f"{seconds} seconds; the figures: {out / 'demo.json'}")
    typer.echo(f"report with pictures and curves: {out / 'grpo_difficulty' / 'report.html'}")
    _refined(out / "refiner")


def _all_arms(out: Path, samples: int) -> dict[str, dict[str, Any]]:
    """Train and evaluate one arm after the other; reports by the names of the table."""
    reports = {"base (shipped model)": _evaluated("tiny", out / "base", samples)}
    sft, grpo = _config("demo_sft.yaml"), _config("demo_grpo.yaml")
    start = str(out / "cot_sft")
    sft_seconds = _trained(sft, out / "cot_sft")
    reports["CoT-SFT"] = _evaluated(start, out / "cot_sft", samples)
    seconds = []
    for name, difficulty, label in (
        ("grpo", "none", "+ GRPO"),
        ("grpo_difficulty", "exp", "+ GRPO with difficulty weight"),
    ):
        arm = _config("demo_grpo.yaml", f"model={start}", f"algorithm.difficulty={difficulty}")
        seconds.append(_trained(arm, out / name))
        reports[label] = _evaluated(str(out / name), out / name, samples)
    steps = max(1, round(sft.steps * max(seconds) / sft_seconds))
    more = _config("demo_sft.yaml", f"model={start}", f"steps={steps}", f"seed={grpo.seed}")
    _trained(more, out / "more_sft")
    reports["+ SFT for the same time"] = _evaluated(
        str(out / "more_sft"), out / "more_sft", samples
    )
    return reports


def _config(name: str, *overrides: str) -> TrainConfig:
    path = Path(str(resources.files("reground.tinyworld") / "configs" / name))
    return load(TrainConfig, path, overrides)


def _trained(config: TrainConfig, out: Path) -> float:
    """Train into ``out``; the seconds that it took."""
    typer.echo(f"{out.name}: {config.method}, {config.steps} steps")
    begin = time.perf_counter()
    train(config, out, clean=True)
    return time.perf_counter() - begin


def _evaluated(model: str, out: Path, samples: int) -> dict[str, Any]:
    """Answer, score and report held-out scenes."""
    question = Question(model=model, data=_DATA, seed=_SEED, limit=samples, max_tokens=96)
    return evaluate(out, question)


def _refined(out: Path) -> None:
    """A weak detector's boxes before and after, and what became of two of them."""
    tool = ToolUse(spec="oracle:weak")
    question = Question(
        model="tiny_refiner", data=_REFINED, seed=_SEED, limit=60, max_tokens=160, tool=tool
    )
    found = evaluate(out, question)["refinement"]
    before, after, ccr = (100 * found[name] for name in ("tool_accuracy", "accuracy", "ccr"))
    typer.echo(
        f"\na weak detector on 60 scenes of {_REFINED}: {before:.1f} % right; after think-rethink "
        f"{after:.1f} %, and {ccr:.1f} % of its wrong boxes corrected"
    )
    rows = refined(list(read_scores(out)))
    for outcome in (ToolOutcome.CORRECTED, ToolOutcome.FOLLOWED):
        shown = next((row.score for row in rows if row.outcome is outcome), None)
        if shown is not None:
            picture = _pictured(shown, out / f"{outcome}.png")
            typer.echo(f"{outcome}: {shown.sample.question}\n{shown.text}\n  {picture}")


def _pictured(score: SampleScore, out: Path) -> Path:
    """The sample with the detector's box in blue, the final one orange, the true one green."""
    sample = score.sample
    target = sample.target_image
    frame = sample.images[target].frame
    predicted = [Target(target, Box(*box, frame)) for box in score.predicted]
    draw(sample, predicted=predicted, out=out)
    return out
