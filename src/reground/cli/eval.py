"""``reground eval``: predict, score and report in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[str, typer.Option(metavar="SPEC", help="A canonical JSONL, or synth:TASK.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for predictions, scores, report.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A run, a checkpoint folder, a hub id, or tiny.")
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="Which scenes synth:TASK draws.")] = 7,
    limit: Annotated[
        int | None, typer.Option(help="How many samples; needed for synth:TASK.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="How the model answers; default: what its checkpoint says.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="A prompt profile, or the path of a .txt file.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    blank: Annotated[
        bool, typer.Option("--blank", help="Grey images: what the model guesses without looking.")
    ] = False,
) -> None:
    """Evaluate a model: greedy answers, their scores, and a report to look at.

    Writes predictions.jsonl, scores.jsonl and report.{json,md,html} into DIR.

    \b
    Examples:
      reground eval --model tiny --data synth:referring --seed 7 --limit 500 --out results/tiny
      reground eval --model runs/photos --data bccd/test.jsonl --out results/photos
    """
    from reground.evaluation.evaluate import evaluate

    report = evaluate(
        out,
        model=model,
        data=data,
        seed=seed,
        limit=limit,
        family=family,
        prompt=prompt,
        max_tokens=max_tokens,
        blank=blank,
    )
    typer.echo((out / "report.md").read_text())
    typer.echo(f"{out / 'report.html'}: {report['n']} answers; open it in a browser")
