"""``reground export``: a run's model as a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli.options import DType


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of `reground train`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the model.")],
    dtype: Annotated[DType, typer.Option(help="What the weights are written in.")] = "bfloat16",
) -> None:
    """Write a run's newest checkpoint as a folder for transformers and vLLM.

    LoRA adapters are merged, whatever number of ranks held the weights. The folder is then loaded
    and compared with the model as it was trained, and with the one that the run started from.

    \b
    Examples:
      reground export runs/photos --out models/photos
      vllm serve models/photos
    """
    import torch

    from reground.training.export import export

    done = export(run, out, dtype=getattr(torch, dtype))
    typer.echo(
        f"{done.folder}: step {done.step} in {dtype}; log-probs of a probe differ by at most "
        f"{done.from_live:.2g} from the trained model's, {done.from_start:.2g} from the start's"
    )
