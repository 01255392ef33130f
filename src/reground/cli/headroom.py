"""``reground headroom``: what reinforcement learning could gain, before a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reground.cli.options import ConfineOption

if TYPE_CHECKING:
    from reground.training.headroom import Headroom


def command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A config with method: rl, or a recipe.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the config's."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts to sample.")] = 256,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the prompts that can teach as a JSONL."),
    ] = None,
    confine: ConfineOption = None,
) -> None:
    """Sample the config's groups from its start model, and say what RL can gain from them.

    Accuracy is Acc@0.5 of single samples and of the best of a group: RL moves the first towards
    the second. A group whose rewards are all alike teaches nothing.

    \b
    Examples:
      reground headroom grpo.yaml model=runs/cot_sft
      reground headroom grpo.yaml --prompts 1000 --keep teachable.jsonl
    """
    from rich.console import Console
    from rich.progress import track

    from reground.config import load
    from reground.data.source import save_dataset
    from reground.evaluation.reporting.pages import markdown_table
    from reground.training.headroom import Headroom, headroom
    from reground.training.settings import TrainConfig

    settings = load(TrainConfig, config, overrides or [])
    rooms = track(
        headroom(settings, num_prompts=prompts),
        total=prompts,
        description="headroom",
        console=Console(stderr=True),
    )
    found = Headroom(tuple(rooms), settings.rollout.group_size)
    typer.echo(markdown_table([_head(found), *_rows(found)]), nl=False)
    typer.echo(found.verdict)
    if keep:
        typer.echo(f"{keep}: {save_dataset(keep, found.worth_it)} prompts")


def _head(found: Headroom) -> list[str]:
    best = f"best of {found.group_size} (%)"
    return ["task", "n", "accuracy (%)", best, "mean IoU (%)", "parsed (%)", "teach (%)", "spread"]


def _rows(found: Headroom) -> list[list[str]]:
    """A row a task and one for all, each mean beside its standard error, clustered by image."""
    from reground.evaluation.reporting.pages import estimate
    from reground.evaluation.scoring.metrics import clustered_mean

    rows = []
    for name, own in {**found.by_task(), "all": found}.items():
        clusters = [repr(room.sample.images[room.sample.target_image]) for room in own.prompts]
        cells = []
        for field in ("accuracy", "best", "mean_iou", "parsed", "teaches"):
            mean = clustered_mean([float(getattr(room, field)) for room in own.prompts], clusters)
            row = {field: mean.value, f"{field}_stderr": mean.stderr}
            cells.append(estimate(row, field))
        rows.append([name, str(len(own.prompts)), *cells, f"{own.mean('spread'):.2f}"])
    return rows
