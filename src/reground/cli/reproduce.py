"""``reground reproduce``: published figures made again, from download to verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli import options as own


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A model; left out: list all there is.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(metavar="B", help="On which benchmark; left out: list them.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A folder in place of the published weights."),
    ] = None,
    prompt: own.PromptOption = None,
    tool: own.ToolOption = None,
    endpoint: own.EndpointOption = None,
    limit: own.LimitOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it takes and what is missing; ask nobody.")
    ] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Parent of the results' folder.")] = Path(
        "results/reproduced"
    ),
    device: own.DeviceOption = None,
    dtype: own.DTypeOption = None,
    engine: own.EngineOption = "transformers",
) -> None:
    """Make a published figure again, and say whether it agrees.

    Evaluates as `reground eval` does, as the authors did: their prompt, their rule, their limits.
    Prints the published figure, ours with its 95 % interval, and whether the former lies in the
    latter. Without the files it says what is missing and what gets it. Figures and their sources:
    docs/published.md.

    \b
    Examples:
      reground reproduce
      reground reproduce univg_r1 --benchmark mig_bench --dry-run
      reground reproduce univg_r1 --benchmark lisa_grounding_val --prompt univg_r1_lisa.txt
    """
    from reground.errors import ConfigError
    from reground.evaluation.reproducing.plan import Plan
    from reground.evaluation.reproducing.published import find

    if name is None or benchmark is None:
        typer.echo(_listed(name), nl=False)
        return
    plan = Plan(
        entry=find(name, benchmark),
        model=model,
        prompt=prompt,
        tool=tool,
        url=endpoint,
        limit=limit,
        device=device,
        dtype=dtype,
        engine=engine,
    )
    missing = plan.missing()
    typer.echo(f"{plan.entry.model.title} on {benchmark}")
    for key, text in plan.lines().items():
        if text:
            typer.echo(f"  {key:10}{text}")
    for each in missing:
        typer.echo(f"missing: {each.what}\n  {each.how}")
    if dry_run:
        return
    if missing:
        raise ConfigError(
            f"{len(missing)} things that this needs are missing, see above",
            help="benchmarks-that-are-missing",
        )
    from reground.evaluation.reproducing.verdict import reproduce

    typer.echo(reproduce(plan, out=out / f"{name}_{benchmark}"))


def _listed(name: str | None) -> str:
    from reground.evaluation.reporting.pages import markdown_table
    from reground.evaluation.reproducing.published import entries, find

    rows = [
        (each.name, each.benchmark, f"{each.figures[0].value}", each.figures[0].table.source)
        for each in entries().values()
        if name in (None, each.name)
    ]
    if name and not rows:
        find(name, "")  # says which there are
    return markdown_table([("NAME", "--benchmark", "published (%)", "source"), *rows])
