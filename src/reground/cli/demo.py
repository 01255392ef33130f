"""``reground demo``: watch a small model learn to ground, in one sitting on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs and reports go.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[int, typer.Option(help="Held-out scenes behind each figure.")] = 400,
) -> None:
    """Train and compare: base, CoT-SFT, GRPO, more SFT.

    CoT-SFT starts from the shipped tiny model; GRPO and more SFT continue the same CoT-SFT model,
    for the same wall-clock time, and answer the same scenes. Then the shipped tiny_refiner checks
    the boxes of a detector that is wrong half the time. Repeats replace the folder's earlier demo.

    \b
    Example:
      reground demo --out runs/demo
    """
    from reground.tinyworld.demo import run

    run(out, samples=samples)
