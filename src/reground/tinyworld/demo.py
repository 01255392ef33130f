"""The demo: train, compare and report a tiny model, then check a detector's boxes."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import typer

from reground.config import load
from reground.data.show import draw
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import SampleScore, read_scores
from reground.evaluation.reporting.compare import compare
from reground.evaluation.reporting.pairing import read_runs
from reground.evaluation.reporting.report import comparison_markdown
from reground.evaluation.scoring.refinement import ToolOutcome, refined
from reground.grounding.boxes import Box
from reground.grounding.sample import Target
from reground.io import write_json
from reground.provenance import result_header
from reground.recipes import recipe
from reground.training.run import train
from reground.training.settings import TrainConfig

_DATA, _SEED = "synth:diff", 1_000_007
_REFINED = "synth:referring"
_KEPT = ("n", "acc@0.5", "acc@0.5_stderr", "mean_iou", "mean_iou_stderr")
_GRPO = "grpo"


def run(out: Path, *, samples: int) -> None:
    """Everything that ``reground demo`` says, into the folder ``out``."""
    for again in (out / "base", out / "refiner"):  # training begins anew by itself
        if (again / "run.json").exists():
            shutil.rmtree(again)
    begin = time.perf_counter()
    reports = _all_arms(out, samples)
    gains = [_gain(out, over) for over in ("cot_sft", "more_sft")]
    seconds = round(time.perf_counter() - begin)
    arms = {name: {key: report[key] for key in _KEPT} for name, report in reports.items()}
    result = result_header(command="make demo", config={"data": _DATA, "n": samples}, seed=_SEED)
    write_json(out / "demo.json", result | {"seconds": seconds, "arms": arms, "gains": gains})
    typer.echo(f"\nheld-out scenes of {_DATA}, seed {_SEED}:\n\n{comparison_markdown(reports)}")
    for gain in gains:
        typer.echo(
            f"GRPO - {gain['over']}: {100 * gain['acc@0.5']:+.1f} points of Acc@0.5 on the same "
            f"scenes, 95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}"
        )
    typer.echo(f"{seconds} seconds; the figures: {out / 'demo.json'}")
    typer.echo(f"report with pictures and curves: {out / _GRPO / 'report.html'}")
    _refined(out / "refiner")


def _all_arms(out: Path, samples: int) -> dict[str, dict[str, Any]]:
    """Train and evaluate one arm after the other; reports by the names of the table."""
    reports: dict[str, dict[str, Any]] = {}

    def evaluated(name: str, label: str, model: str) -> None:
        question = Question(model=model, data=_DATA, seed=_SEED, limit=samples, max_tokens=96)
        reports[label] = evaluate(out / name, question)

    def trained(name: str, label: str, config: TrainConfig) -> float:
        typer.echo(f"{name}: {config.method}, {config.steps} steps")
        begin = time.perf_counter()
        train(config, out / name, clean=True)
        seconds = time.perf_counter() - begin
        evaluated(name, label, str(out / name))
        return seconds

    evaluated("base", "base (shipped model)", "tiny")
    sft = _config("demo/sft")
    sft_seconds = trained("cot_sft", "CoT-SFT", sft)
    start = f"model={out / 'cot_sft'}"
    grpo = _config("demo/grpo", start)
    seconds = trained(_GRPO, "+ GRPO", grpo)
    steps = max(1, round(sft.steps * seconds / sft_seconds))
    more = _config("demo/sft", start, f"steps={steps}", f"seed={grpo.seed}")
    trained("more_sft", "+ SFT for the same time", more)
    return reports


def _gain(out: Path, over: str) -> dict[str, Any]:
    """How much more GRPO's model hits than another arm's, scene by scene."""
    pair = compare(read_runs([out / over, out / _GRPO])).pairs[0]
    found = pair.overall.accuracy
    low, high = found.interval or (math.nan, math.nan)
    return {"over": over, "acc@0.5": found.difference.value, "low": low, "high": high}


def _config(name: str, *overrides: str) -> TrainConfig:
    return load(TrainConfig, recipe(name), overrides)


def _refined(out: Path) -> None:
    """A weak detector's boxes before and after, and what became of two of them."""
    question = Question(
        model="tiny_refiner",
        data=_REFINED,
        seed=_SEED,
        limit=60,
        max_tokens=160,
        tool=ToolUse(spec="oracle:weak"),
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
            picture = out / f"{outcome}.png"
            _draw(shown, picture)
            typer.echo(f"{outcome}: {shown.sample.question}\n{shown.text}\n  {picture}")


def _draw(score: SampleScore, out: Path) -> None:
    """The sample with the detector's box in blue, the final one orange, the true one green."""
    image = score.sample.target_image
    frame = score.sample.images[image].frame
    draw(
        score.sample,
        predicted=[Target(image, Box(*box, frame)) for box in score.predicted],
        out=out,
    )
