"""``reground report``: scores to one page that people like to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder with scores, as `reground score` writes.")
    ],
    training: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run folder of `reground train`, to show its curves."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Report although samples are missing; the title says so."),
    ] = False,
) -> None:
    """Write report.html, report.md and report.json beside the scores in DIR.

    The page is one file that needs no network: tables, drawn examples and, with --training, curves.

    \b
    Examples:
      reground report results/first
      reground report results/first --training runs/first
    """
    from reground.evaluation.reporting.report import comparison_markdown, write_report

    report = write_report(folder, training=training, partial=partial)
    typer.echo(comparison_markdown({folder.resolve().name: report}).rstrip())
    typer.echo(f"\n{folder / 'report.html'}")
