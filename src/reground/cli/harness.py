"""``reground harness``: our benchmarks as tasks of other people's harnesses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli import options as own

command = typer.Typer(
    help="Write our benchmarks as tasks of other people's harnesses.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Ask as this checkpoint was trained to be, as tiny."),
]


@command.command("lmms-eval")
def lmms_eval(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for --include_path.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="As of reground eval, or the folder of an evaluation. Default: every benchmark.",
        ),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(help="How the models write boxes. Default: a task for each family."),
    ] = None,
    model: Model = None,
    protocol: own.ProtocolOption = None,
    seed: own.SeedOption = 7,
    limit: own.LimitOption = None,
    max_tokens: own.MaxTokensOption = 256,
) -> None:
    """Write tasks of lmms-eval: one a data set and family, for it does not say who answered.

    The data are read when a task is run, from where `reground benchmarks` looks for them.

    \b
    Examples:
      reground harness lmms-eval --family qwen3_vl --out tasks
      reground harness lmms-eval --data synth:referring --limit 200 --model tiny --out tasks
      lmms-eval --include_path tasks --tasks reground_referring_univg_r1 --model reground \\
        --model_args pretrained=tiny --batch_size 64 --output_path results/lmms
    """
    from reground.data.benchmarks import table
    from reground.integrations.exam import Exam, is_run, one_turn_families
    from reground.integrations.lmms_tasks import write_tasks

    ways: list[str | None] = [None] if model else [*(family or one_turn_families())]
    exams = [
        Exam.of(spec, family=way, model=model, protocol=protocol, seed=seed, limit=limit)
        for spec in data or table()
        for way in ([None] if is_run(spec) else ways)
    ]
    names = write_tasks(out, exams, max_tokens=max_tokens)
    typer.echo(f"{out}: {len(names)} tasks; lmms-eval --include_path {out} --tasks {names[0]} ...")


@command.command()
def vlmevalkit(
    data: own.DataOption,
    out: Annotated[Path, typer.Option(metavar="TSV", help="File to write.")],
    family: own.FamilyOption = None,
    model: Model = None,
    protocol: own.ProtocolOption = None,
    seed: own.SeedOption = 7,
    limit: own.LimitOption = None,
) -> None:
    """Write a data set for VLMEvalKit, images within, one row a question.

    docs/harnesses.md says how it is run and scored.

    \b
    Example:
      reground harness vlmevalkit --data mig_bench --family qwen3_vl --out mig_bench.tsv
    """
    from reground.integrations.exam import Exam
    from reground.integrations.vlmevalkit import write_tsv

    exam = Exam.of(data, family=family, model=model, protocol=protocol, seed=seed, limit=limit)
    typer.echo(f"{out}: {write_tsv(out, exam)} questions")
