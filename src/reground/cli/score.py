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
            help="Folder that `reground eval` wrote, or another project's answers (--format).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for scores.jsonl; may be the same.")
    ],
    format_name: Annotated[
        str,
        typer.Option(
            "--format", metavar="F", help="predictions, mig_bench_outputs (a folder) or vlm_r1_log."
        ),
    ] = "predictions",
    scorer: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="reground, or whose rules to follow: mig_bench, vlm_r1, vlm_r1_tolerant, "
            "vlm_r1_reward, vg_refiner, lmms_eval_bbox_rec, lmms_eval_grounding or "
            "vlmevalkit_refcoco.",
        ),
    ] = "reground",
    migician_y_scale: Annotated[
        bool, typer.Option("--migician-y-scale", help="Stretch y as mig_bench does for Migician.")
    ] = False,
    diagnose: Annotated[
        bool,
        typer.Option("--diagnose", help="Show the mean IoU in every frame and corner order too."),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Report although samples are missing; the title says so."),
    ] = False,
) -> None:
    """Score predictions: each answer is parsed and compared with the true boxes.

    Needs no model and opens no image. Writes scores.jsonl and report.json; `reground report` draws
    the pages.

    \b
    Examples:
      reground score results/first --out results/first
      reground score --format mig_bench_outputs --scorer mig_bench outputs/qwen2_vl --out qwen2_vl
    """
    from reground.evaluation.reporting.report import write_json_report
    from reground.evaluation.scoring import score

    rules = score.Scorer(scorer, migician_y_scale)
    if format_name == "predictions":
        count = score.score_folder(predictions, out=out, scorer=rules)
        found = score.diagnose_folder(predictions) if diagnose else None
    else:
        count = score.score_log(predictions, format_name=format_name, out=out, scorer=rules)
        found = score.diagnose_log(predictions, format_name=format_name) if diagnose else None
    if found:
        typer.echo(found)
    report = write_json_report(out, partial=partial)
    if not report["n"]:
        typer.echo(f"{out / 'scores.jsonl'}: none of {count} samples was ever answered", err=True)
        raise typer.Exit(1)
    typer.echo(
        f"{out / 'scores.jsonl'}: {count} scored, Acc@0.5 {100 * report['acc@0.5']:.2f} %; "
        f"next: reground report {out}"
    )
