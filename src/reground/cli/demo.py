"""``reground demo``: watch a small model learn to ground, in one sitting on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs and reports go.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[int, typer.Option(help="Held-out scenes behind each figure.")] = 200,
) -> None:
    """Train and compare: base, CoT-SFT, GRPO, GRPO with the difficulty weight, more SFT.

    All arms start from the shipped tiny model; the last three continue the same CoT-SFT model, the
    last one for the wall-clock time that GRPO took. Then the shipped tiny_refiner checks the boxes
    of a detector that is wrong half the time. Repeats replace the folder's earlier demo.

    \b
    Example:
      reground demo --out runs/demo
    """
    from reground.tinyworld.demo import run

    run(out, samples=samples)
