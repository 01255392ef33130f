"""``reground eval``: predict, score and report in one go."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer

from reground.cli import options as own


def command(
    data: own.DataOption,
    out: own.OutOption,
    model: own.ModelOption = "tiny",
    seed: own.SeedOption = 7,
    limit: own.LimitOption = None,
    shard: own.ShardOption = None,
    family: own.FamilyOption = None,
    tool: own.ToolOption = None,
    protocol: own.ProtocolOption = None,
    prompt: own.PromptOption = None,
    max_tokens: own.MaxTokensOption = 256,
    samples: own.SamplesOption = 1,
    temperature: own.TemperatureOption = None,
    device: own.DeviceOption = None,
    dtype: own.DTypeOption = None,
    engine: own.EngineOption = "transformers",
    min_pixels: own.MinPixelsOption = None,
    max_pixels: own.MaxPixelsOption = None,
    blank: own.BlankOption = False,
    endpoint: own.EndpointOption = None,
    processor: own.ProcessorOption = None,
    concurrency: own.ConcurrencyOption = 8,
    timeout: own.TimeoutOption = 300.0,
    confine: own.ConfineOption = None,
) -> None:
    """Evaluate a model: its answers, their scores, and a report to look at.

    Writes predictions.jsonl, scores.jsonl and report.{json,md,html} into DIR, and with --tool its
    boxes (tool_results.jsonl), which another run may name as its --tool. The same command goes
    on where a killed one stopped, and asks again what got no answer. Answers are greedy; with
    --samples the report also says how good one sampled answer is, the best of K, and their vote,
    which is what the other figures are of.

    \b
    Examples:
      reground eval --model tiny --data synth:referring --seed 7 --limit 500 --out results/tiny
      reground eval --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-2B-Instruct \\
        --family qwen3_vl --data bccd/test.jsonl --out results/qwen3
      reground eval --model tiny_refiner --data synth:diff --tool oracle:weak --out results/refined
      reground eval --model runs/photos --data bccd/test.jsonl --samples 8 --out results/best_of_8
      reground eval --model Qwen/Qwen3-VL-2B-Instruct --data mig_bench --out results/mig_bench
    """
    from reground.evaluation.evaluate import evaluate
    from reground.evaluation.predicting.predict import predict_folder
    from reground.evaluation.predicting.question import Question, ToolUse
    from reground.evaluation.predicting.shards import Shard
    from reground.rollout.endpoint import Endpoint

    server = partial(Endpoint, model=model, concurrency=concurrency, timeout_s=timeout)
    question = Question(
        model=model,
        data=data,
        seed=seed,
        limit=limit,
        shard=Shard.of(shard) if shard else None,
        family=family,
        protocol=protocol,
        tool=ToolUse(spec=tool) if tool else None,
        prompt=prompt,
        max_tokens=max_tokens,
        draws=samples,
        temperature=temperature if temperature is not None else float(samples > 1),
        blank=blank,
        endpoint=server(url=endpoint) if endpoint else None,
        processor=processor,
        device=device,
        dtype=dtype,
        engine=engine,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    if shard:
        count = predict_folder(out, question)
        typer.echo(f"{out}: {count} answers; next: reground merge SHARDS --out ...")
        return
    report = evaluate(out, question)
    _tell(out, report)


def _tell(out: Path, report: Mapping[str, Any]) -> None:
    typer.echo((out / "report.md").read_text())
    for reason, count in report["reasons"].items():
        typer.echo(f"{count} without an answer: {reason}", err=True)
    if report["errors"]:
        typer.echo("the same command asks them again", err=True)
    typer.echo(f"{out / 'report.html'}: {report['n']} answers; open it in a browser")
    if not report["n"]:
        raise typer.Exit(1)
