"""``reground merge``: the parts of a run as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    shards: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of `reground eval --shard`.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for predictions.jsonl.")],
) -> None:
    """Merge the shards of one run, refusing gaps, overlaps and parts of different runs.

    \b
    Example:
      reground merge results/part1 results/part2 --out results/whole
    """
    from reground.evaluation.predicting.shards import merge

    count = merge(shards, out=out)
    typer.echo(f"{out}: {count} predictions; next: reground score {out} --out {out}")
