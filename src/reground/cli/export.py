"""``reground export``: a run's model as a folder that others load, on the hub too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli.options import DType, LicenseOption, PrivateOption


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of `reground train`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the model.")],
    dtype: Annotated[DType, typer.Option(help="What the weights are written in.")] = "bfloat16",
    metrics: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="An evaluation of RUN whose figures the card has."),
    ] = None,
    license: LicenseOption = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="A new repository of the hub to upload it to."),
    ] = None,
    private: PrivateOption = False,
) -> None:
    """Write a run's newest checkpoint as a folder for transformers and vLLM, with a card.

    LoRA adapters are merged, whatever number of ranks held the weights. The folder is then loaded
    and compared with the model as it was trained, and with the one that the run started from. Its
    card (README.md) says what it was trained on, how to load, ask and read it, and how good it is.
    --push uploads it in one commit, with the token in HF_TOKEN.

    \b
    Examples:
      reground export runs/photos --out models/photos
      reground export runs/photos --out models/photos --metrics results/photos --push anna/photos
      vllm serve models/photos
    """
    from reground.errors import ConfigError, EndpointError

    if private and not push:
        raise ConfigError("--private is for what --push uploads; give both, or neither")

    import torch

    from reground.hub.model_card import Evaluation, write_card
    from reground.hub.repository import Repository
    from reground.model.load import fingerprint
    from reground.training.export import export

    place = Repository.open(push, kind="model", private=private) if push else None
    weights = fingerprint(str(run)) if metrics else None
    found = [Evaluation.read(each, weights=weights, model=run) for each in metrics or ()]
    done = export(run, out, dtype=getattr(torch, dtype))
    write_card(out, run, name=push or out.name, step=done.step, evaluations=found, license=license)
    typer.echo(
        f"{done.folder}: step {done.step} in {dtype}; log-probs of a probe differ by at most "
        f"{done.from_live:.2g} from the trained model's, {done.from_start:.2g} from the start's"
    )
    if place:
        files = {path.name: path for path in sorted(out.iterdir())}
        try:
            typer.echo(place.push(files, message=f"Step {done.step}, exported by ReGround"))
        except EndpointError as error:
            raise EndpointError(f"{error}; until then the model is in {out}") from None
