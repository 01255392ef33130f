"""``reground eval``: predict, score and report in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.grounding.names import ProtocolName


def command(
    data: Annotated[
        str,
        typer.Option(
            metavar="SPEC", help="A JSONL, synth:TASK, or a name that `reground benchmarks` lists."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for predictions, scores, report.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A run, a checkpoint folder, a hub id, or tiny; the served name with --endpoint.",
        ),
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="Which scenes synth:TASK draws.")] = 7,
    limit: Annotated[
        int | None, typer.Option(help="How many samples; needed for synth:TASK.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Ask one part of N; then `reground merge`.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="How the model writes boxes, as qwen3_vl. Default: as its checkpoint."),
    ] = None,
    tool: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="A detector to ask first (see `reground tool run --help`), or precomputed.",
        ),
    ] = None,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(
            help="direct: boxes alone; think: after a chain of thought; think_rethink: it thinks, "
            "calls for a detector's boxes and rethinks; piter: they are shown with the question. "
            "Default: what each row says, else what the model was trained to."
        ),
    ] = None,
    tool_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the detector's answers are kept.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt profile, or the path of a .txt file.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    blank: Annotated[
        bool, typer.Option("--blank", help="Grey images: what the model guesses without looking.")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Ask an OpenAI-compatible server, with OPENAI_API_KEY if it is set."
        ),
    ] = None,
    processor: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Whose image processor the server has: images are sent resized."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")] = 300.0,
) -> None:
    """Evaluate a model: greedy answers, their scores, and a report to look at.

    Writes predictions.jsonl, scores.jsonl and report.{json,md,html} into DIR. The same command goes
    on where a killed one stopped, and asks again what got no answer.

    \b
    Examples:
      reground eval --model tiny --data synth:referring --seed 7 --limit 500 --out results/tiny
      reground eval --model runs/photos --data bccd/test.jsonl --out results/photos
      reground eval --endpoint http://127.0.0.1:8000/v1 --model Qwen/Qwen3-VL-2B-Instruct \\
        --family qwen3_vl --data bccd/test.jsonl --out results/qwen3
      reground eval --model runs/refiner --data synth:diff --limit 200 --tool oracle:weak \\
        --out results/refined
      reground eval --model runs/photos --data bccd/test.jsonl --shard 1/2 --out results/part1
      reground eval --model Qwen/Qwen3-VL-2B-Instruct --data mig_bench --out results/mig_bench
    """
    from reground.evaluation.evaluate import evaluate
    from reground.evaluation.predicting.predict import predict_folder
    from reground.evaluation.predicting.question import Question, ToolUse
    from reground.evaluation.predicting.shards import Shard
    from reground.rollout.endpoint import Endpoint

    server = None
    if endpoint:
        server = Endpoint(url=endpoint, model=model, concurrency=concurrency, timeout_s=timeout)
    question = Question(
        model=model,
        data=data,
        seed=seed,
        limit=limit,
        shard=Shard.of(shard) if shard else None,
        family=family,
        protocol=protocol,
        tool=ToolUse(spec=tool, cache=tool_cache) if tool else None,
        prompt=prompt,
        max_tokens=max_tokens,
        blank=blank,
        endpoint=server,
        processor=processor,
    )
    if shard:
        count = predict_folder(out, question)
        typer.echo(f"{out}: {count} answers; next: reground merge SHARDS --out ...")
        return
    report = evaluate(out, question)
    typer.echo((out / "report.md").read_text())
    for reason, count in report["reasons"].items():
        typer.echo(f"{count} without an answer: {reason}", err=True)
    if report["errors"]:
        typer.echo("the same command asks them again", err=True)
    typer.echo(f"{out / 'report.html'}: {report['n']} answers; open it in a browser")
    if not report["n"]:
        raise typer.Exit(1)
