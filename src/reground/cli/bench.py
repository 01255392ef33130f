"""``reground bench``: what an update costs here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config of GRPO (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the config's."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of the prompt.")] = 1,
    side: Annotated[int, typer.Option(min=28, help="Width and height of each, in pixels.")] = 448,
    repeats: Annotated[int, typer.Option(min=1, help="Updates that are timed.")] = 3,
    out: Annotated[Path | None, typer.Option(metavar="JSON", help="Also keep the result.")] = None,
) -> None:
    """Measure GRPO updates of a config: seconds, peak memory, counted FLOPs.

    The model is the config's, with what it trains; images and completions are random. Compare
    `GFLOP a second` with what the device can do, and seconds of two configs with each other.

    \b
    Examples:
      reground bench configs/bench/30m.yaml
      reground bench configs/bench/30m.yaml grpo.group_size=16 --images 4
      reground bench configs/univg_r1/qwen2_vl_7b_grpo.yaml model=Qwen/Qwen2-VL-7B-Instruct
    """
    import json
    import shlex

    from reground.config import load
    from reground.runs import result_header, write_json
    from reground.training.bench import bench
    from reground.training.settings import TrainConfig

    given = overrides or []
    settings = load(TrainConfig, config, given)
    found = bench(settings, images=images, side=side, repeats=repeats)
    if out:
        shown = [str(config), *given, "--images", str(images), "--side", str(side)]
        words = ["reground", "bench", *shown, "--repeats", str(repeats)]
        asked = {"config": str(config), "overrides": given, "images": images, "side": side}
        header = result_header(command=shlex.join(words), config=asked, seed=settings.seed)
        write_json(out, header | found)
    typer.echo(json.dumps(found, indent=1))
