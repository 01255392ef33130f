"""``reground bench``: what training costs here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from reground.training.settings import TrainConfig


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config of GRPO (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the config's."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of the prompt.")] = 1,
    side: Annotated[int, typer.Option(min=28, help="Width and height of each, in pixels.")] = 448,
    repeats: Annotated[int, typer.Option(min=1, help="How often everything is timed.")] = 3,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also how cost grows, and TRL's steps where TRL is installed."),
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="JSON", help="Also keep the result.")] = None,
) -> None:
    """Measure GRPO updates of a config: seconds, peak memory, counted FLOPs.

    The model is the config's, with what it trains; images and completions are random.
    `utilisation` is the share of the speed of one large matrix product on the same device. A GPU
    computes in bfloat16 and is timed with both kernels of attention.

    With --all the update is measured again with half to four times the completions and one to eight
    images, beside the FLOPs; and whole steps, generation included, beside TRL's GRPOTrainer. Every
    measurement then has a process of its own.

    \b
    Examples:
      reground bench configs/bench/30m.yaml
      reground bench configs/bench/30m.yaml grpo.group_size=16 --images 4
      reground bench configs/bench/30m.yaml --all --out bench.json
      reground bench configs/univg_r1/qwen2_vl_7b_grpo.yaml model=Qwen/Qwen2-VL-7B-Instruct
    """
    import json
    import shlex

    from reground.bench.update import measure
    from reground.config import load
    from reground.runs import result_header, write_json
    from reground.training.settings import TrainConfig

    given = overrides or []
    settings = load(TrainConfig, config, given)
    asked = {"images": images, "side": side, "repeats": repeats}
    found = (_all if everything else measure)(settings, **asked)
    if out:
        options = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
        words = ["reground", "bench", str(config), *given, *options, *["--all"] * everything]
        about = {"config": str(config), "overrides": given, **asked}
        header = result_header(command=shlex.join(words), config=about, seed=settings.seed)
        write_json(out, header | found)
    typer.echo(json.dumps(found, indent=1))


def _all(settings: TrainConfig, *, images: int, side: int, repeats: int) -> dict[str, Any]:
    """How cost grows, from the config's own point on, and a step beside TRL's."""
    from reground.bench.growth import Point, growth, points
    from reground.bench.peer import SIDES, beside_trl, why_not

    asked = points(Point(settings, images))
    reason = why_not(settings)
    with _progress(repeats * (len(asked) + (0 if reason else len(SIDES)))) as advance:
        found = growth(asked, side=side, repeats=repeats, advance=advance)
        if reason:
            return {"growth": found, "beside TRL": {"not measured": reason}}
        beside = beside_trl(settings, images=images, side=side, repeats=repeats, advance=advance)
    return {"growth": found, "beside TRL": beside}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda: bar.advance(task)
