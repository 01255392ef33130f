"""``reground score``: predictions to scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS",
            help="Folder with predictions.jsonl and run.json, as `reground eval` writes it.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for scores.jsonl; may be the same.")
    ],
) -> None:
    """Score predictions: each answer is parsed and compared with the true boxes.

    Needs no model and opens no image. `reground report` is the next step.

    \b
    Example:
      reground score results/first --out results/first
    """
    from reground.evaluation.score import score_folder

    count = score_folder(predictions, out=out)
    typer.echo(f"{out / 'scores.jsonl'}: {count} scored; next: reground report {out}")
