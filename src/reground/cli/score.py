"""``reground score``: predictions to scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reground.cli.options import MinScoreOption

if TYPE_CHECKING:
    from reground.evaluation.records import RunInfo

ScorerOption = Annotated[
    str,
    typer.Option(
        metavar="S",
        help="reground, or whose rules to follow: mig_bench, migician, univg_r1_zero_shot, "
        "univg_r1_reward, univg_r1_reward_bare, vlm_r1, vlm_r1_over_lines, vlm_r1_baseline, "
        "vlm_r1_reward, vg_refiner, vg_refiner_precomputed, vg_refiner_reward, "
        "lmms_eval_bbox_rec, lmms_eval_grounding or vlmevalkit_refcoco.",
    ),
]


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
            "--format",
            metavar="F",
            help="predictions, cases (a JSONL), mig_bench_outputs (a folder) or vlm_r1_log.",
        ),
    ] = "predictions",
    scorer: ScorerOption = "reground",
    min_score: MinScoreOption = None,
    family: Annotated[
        str | None,
        typer.Option(help="With cases and scorer reground: how the texts write boxes."),
    ] = None,
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
    the pages. With --min-score the figures are of the answers that are sure enough, and `coverage`
    says how many these are.

    \b
    Examples:
      reground score results/first --out results/first
      reground score results/first --min-score 0.8 --out results/sure
      reground score --format mig_bench_outputs --scorer mig_bench outputs/qwen2_vl --out qwen2_vl
      reground score --format cases --scorer vlm_r1 answers.jsonl --out results/answers
      reground score --format cases --family qwen2_5_vl answers.jsonl --out results/answers

    A row of cases is {"text": ..., "width": ..., "height": ..., "truth": [x1, y1, x2, y2]} in
    pixels, with "tool": [x1, y1, x2, y2] or null for rewards that need a detector's box. DIR gets
    scores.jsonl, in the same order, with predicted (in the scorer's own unit), iou and hit, of
    rewards also reward, format and tool_iou, and the means in report.json.
    """
    from reground.errors import ConfigError

    if format_name == "cases":
        from reground.evaluation.scoring.cases import score_cases

        means = score_cases(predictions, out=out, scorer=scorer, family=family)
        typer.echo(f"{out / 'scores.jsonl'}: {means.pop('n')} scored; " + _spelt(means))
        return
    if family:
        raise ConfigError("--family is for --format cases; other answers say whose they are")
    if min_score is not None and format_name != "predictions":
        raise ConfigError("--min-score is for predictions of ours; other answers have no scores")
    report, count = _scored(
        predictions,
        format_name,
        out,
        scorer,
        min_score=min_score,
        diagnose=diagnose,
        partial=partial,
    )
    _tell(report, count, out, abstains=min_score is not None)


def _tell(report: Mapping[str, Any], count: int, out: Path, *, abstains: bool) -> None:
    """Say how many were scored; ends with status 1 where none was."""
    if not report["n"]:
        wanted = "answered surely enough" if abstains else "ever answered"
        typer.echo(f"{out / 'scores.jsonl'}: none of {count} samples was {wanted}", err=True)
        raise typer.Exit(1)
    abstained = report["status"]["abstained"]
    typer.echo(
        f"{out / 'scores.jsonl'}: {count} scored, "
        + (f"{abstained} of them abstentions, " if abstained else "")
        + f"Acc@0.5 {100 * report['acc@0.5']:.2f} %; next: reground report {out}"
    )


def _scored(
    predictions: Path,
    format_name: str,
    out: Path,
    scorer: str,
    *,
    min_score: float | None,
    diagnose: bool,
    partial: bool,
) -> tuple[Mapping[str, Any], int]:
    """The report of the answers, and how many there are."""
    from reground.evaluation.reporting.report import Gathered
    from reground.evaluation.scoring import score

    reports: list[Gathered] = []

    def begin(run: RunInfo) -> Gathered:
        reports.append(Gathered(run))
        return reports[-1]

    if format_name == "predictions":
        count = score.score_folder(
            predictions, out=out, scorer=scorer, min_score=min_score, begin=begin
        )
        found = score.diagnose_folder(predictions) if diagnose else None
    else:
        count = score.score_log(
            predictions, format_name=format_name, out=out, scorer=scorer, begin=begin
        )
        found = score.diagnose_log(predictions, format_name=format_name) if diagnose else None
    if found:
        typer.echo(found)
    return reports[0].write(out, partial=partial, pages=False), count


def _spelt(means: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in means.items() if value is not None)
