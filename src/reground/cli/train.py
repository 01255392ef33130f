"""``reground train``: one run from one config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli.options import ConfineOption


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file or a recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the config's."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder; default: the config's `out`."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR.")] = False,
    clean: Annotated[bool, typer.Option("--clean", help="Delete the run in DIR first.")] = False,
    data_changed: Annotated[
        bool, typer.Option("--data-changed", help="With --resume: go on although rows differ.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="cpu or cuda; as runtime.device=DEVICE.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; as runtime.dtype=DTYPE.")
    ] = None,
    confine: ConfineOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved config and stop.")
    ] = False,
) -> None:
    """Train a model: dense pre-training, supervised fine-tuning or GRPO.

    \b
    Examples:
      reground train tiny/2_sft model=tiny steps=100 --out runs/mine
      reground train bccd/sft steps=200 optim.lr=3e-4 --out runs/photos
      reground train bccd/sft --resume
    """
    from reground.config import dump, load
    from reground.training.settings import TrainConfig

    asked = {"runtime.device": device, "runtime.dtype": dtype}
    own = [f"{key}={value}" for key, value in asked.items() if value]
    settings = load(TrainConfig, config, [*(overrides or []), *own])
    if dry_run:
        typer.echo(dump(settings), nl=False)
        return
    from reground.training.run import train

    place = out or Path(settings.out)
    run = train(settings, place, resume=resume, clean=clean, data_changed=data_changed)
    typer.echo(
        f"{run.path}: done; next: reground eval --model {run.path} --data ... --out ..., "
        f"or reground train CONFIG model={run.path}"
    )
