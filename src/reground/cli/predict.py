"""``reground predict``: one question about some images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reground.cli.options import (
    ConfineOption,
    DeviceOption,
    DTypeOption,
    EngineOption,
    FamilyOption,
    FontOption,
    MaxPixelsOption,
    MaxTokensOption,
    MinPixelsOption,
    MinScoreOption,
    PromptOption,
    ProtocolOption,
    ToolOption,
)

if TYPE_CHECKING:
    from reground.api import Grounder, Grounding
    from reground.protocols.prompts import PromptProfile


def command(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES... TEXT", help="Images, then the text.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A run, a checkpoint folder, a hub id, or tiny.")
    ] = "tiny",
    image: Annotated[
        int | None, typer.Option(help="Which image to point at, from 0; default: the last.")
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="PNG", help="Where the picture with the boxes goes.")
    ] = Path("prediction.png"),
    family: FamilyOption = None,
    tool: ToolOption = None,
    tool_box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X1,Y1,X2,Y2", help="A box at hand, in pixels, in place of --tool; repeatable."
        ),
    ] = None,
    protocol: ProtocolOption = None,
    prompt: PromptOption = None,
    max_tokens: MaxTokensOption = 256,
    min_score: MinScoreOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    engine: EngineOption = "transformers",
    min_pixels: MinPixelsOption = None,
    max_pixels: MaxPixelsOption = None,
    font: FontOption = None,
    confine: ConfineOption = None,
) -> None:
    """Point at what TEXT describes: prints JSON in pixels of the image and draws the boxes.

    \b
    Examples:
      reground predict photo.jpg "the white blood cell" --model runs/photos
      reground predict photo.jpg "the cup" --model runs/refiner \\
        --tool IDEA-Research/grounding-dino-tiny
      reground predict photo.jpg "the cup" --model runs/refiner --tool-box 120,40,260,200
      reground predict first.png second.png "the object that differs. find it in the second image"
    """
    import json

    from reground.errors import DataError

    *paths, text = images
    if not paths:
        raise DataError(f"found {text!r} alone; expected images first, then the text in quotes")
    _check_exist(paths)
    from reground.api import Grounder

    grounder = Grounder.from_pretrained(
        model,
        family=family,
        protocol=protocol,
        prompt=prompt,
        device=device,
        dtype=dtype,
        engine=engine,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    asked = tool or (_boxes(tool_box) if tool_box else None)
    if asked and protocol is None:
        grounder = _that_shows(grounder, prompt)
    grounding = grounder.ground(
        paths,
        text,
        target_image=image,
        tool=asked,
        max_tokens=max_tokens,
        min_score=min_score,
    )
    grounding.save(out, font=font)
    record = _record(grounding, grounder.protocol.profile) | {"picture": str(out)}
    typer.echo(json.dumps(record, ensure_ascii=False, indent=2))


def _that_shows(grounder: Grounder, prompt: str | None) -> Grounder:
    """The grounder, under piter where its own protocol shows no tool's boxes."""
    from reground.errors import ConfigError

    if grounder.protocol.shows_tool:
        return grounder
    if prompt:
        raise ConfigError(
            f"prompt {prompt} shows no tool's boxes; say with --protocol what it is for"
        )
    return grounder.under("piter")


def _record(grounding: Grounding, profile: PromptProfile) -> dict[str, Any]:
    """What is printed: boxes in pixels of the image, and how the model came to them."""
    from reground.protocols.published import wording_of

    prompt = {"name": profile.name, "wording": wording_of(profile)}
    return grounding.to_json() | {"prompt": prompt}


def _boxes(texts: Sequence[str]) -> list[list[float]]:
    from reground.errors import DataError

    try:
        return [[float(number) for number in text.split(",")] for text in texts]
    except ValueError:
        raise DataError(f"found --tool-box {' '.join(texts)}, expected X1,Y1,X2,Y2") from None


def _check_exist(paths: Sequence[str]) -> None:
    from reground.data.images import exists
    from reground.errors import DataError

    if missing := [path for path in paths if not exists(path)]:
        raise DataError(
            f"{missing[0]}: no such image; expected images first, then the text in quotes",
            help="images-that-cannot-be-used",
        )
