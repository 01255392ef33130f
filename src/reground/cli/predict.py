"""``reground predict``: one question about some images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reground.api import Grounding


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
    family: Annotated[
        str | None, typer.Option(help="How the model answers; default: what its checkpoint says.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
) -> None:
    """Point at what TEXT describes: prints JSON in pixels of the image and draws the boxes.

    \b
    Examples:
      reground predict photo.jpg "the white blood cell" --model runs/photos
      reground predict first.png second.png "the object that differs. find it in the second image"
    """
    import json

    from reground.errors import DataError

    *paths, text = images
    if not paths:
        raise DataError(f"found {text!r} alone; expected images first, then the text in quotes")
    _check_exist(paths)
    from reground.api import Grounder

    grounder = Grounder.from_pretrained(model, family=family)
    grounding = grounder.ground(paths, text, target_image=image, max_tokens=max_tokens)
    _draw(grounding, paths, text, out)
    answer = grounding.answer
    record = {
        "image": paths[grounding.image],
        "boxes": [[round(value, 1) for value in box.xyxy] for box in answer.boxes],
        "status": answer.status.value,
        "think": answer.think,
        "text": grounding.text,
        "picture": str(out),
    }
    typer.echo(json.dumps(record, ensure_ascii=False, indent=2))


def _check_exist(paths: Sequence[str]) -> None:
    from reground.data.images import exists
    from reground.errors import DataError

    if missing := [path for path in paths if not exists(path)]:
        raise DataError(
            f"{missing[0]}: no such image; expected images first, then the text in quotes"
        )


def _draw(grounding: Grounding, paths: Sequence[str], text: str, out: Path) -> None:
    """The asked image with the answer's boxes, as a picture."""
    from reground.data.images import size
    from reground.data.show import draw
    from reground.grounding.sample import ImageRef, Sample, Target

    answer = grounding.answer
    sizes = [size(path) for path in paths]
    refs = tuple(ImageRef(path, s.width, s.height) for path, s in zip(paths, sizes, strict=True))
    asked = Sample(
        "prediction",
        refs,
        text,
        (),
        task="predict",
        target_image=grounding.image,
        think=None if answer.boxes else f"no box: {answer.status.value}",
    )
    draw(asked, predicted=[Target(grounding.image, box) for box in answer.boxes], out=out)
