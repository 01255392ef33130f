"""``reground compare``: runs on the same samples, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B ...", help="Folders with scores; the others are compared with the first."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the tables and the page.")],
) -> None:
    """Compare two or more runs on the same samples: a table, and paired differences.

    Differences come with clustered standard errors, 95 % bootstrap intervals and McNemar's exact
    test, per task and over all. Writes compare.json and compare.md, table.md, table.tex, table.csv,
    and table.html, one page with drawn samples on which the runs differ.

    \b
    Examples:
      reground compare results/sft results/grpo --out results/sft_grpo
      reground compare results/base results/sft results/grpo --out results/table
    """
    from reground.evaluation.reporting.compare_pages import write_comparison
    from reground.evaluation.reporting.pairing import read_runs

    typer.echo(write_comparison(read_runs(folders), out=out))
    typer.echo(out / "table.html")
