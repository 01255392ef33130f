"""``reground predict``: one question about some images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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

    from reground.data.images import exists
    from reground.errors import DataError

    if len(images) < 2:
        raise DataError(
            f"found {images[0]!r} alone; expected images first, then the text in quotes"
        )
    if missing := [path for path in images[:-1] if not exists(path)]:
        raise DataError(
            f"{missing[0]}: no such image; expected images first, then the text in quotes"
        )
    from reground.api import Grounder
    from reground.data.images import size
    from reground.data.show import draw
    from reground.grounding.sample import ImageRef, Sample, Target

    paths, text = images[:-1], images[-1]
    grounding = Grounder.from_pretrained(model, family=family).ground(
        paths, text, target_image=image, max_tokens=max_tokens
    )
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
    record = {
        "image": paths[grounding.image],
        "boxes": [[round(value, 1) for value in box.xyxy] for box in answer.boxes],
        "status": answer.status.value,
        "think": answer.think,
        "text": grounding.text,
        "picture": str(out),
    }
    typer.echo(json.dumps(record, ensure_ascii=False, indent=2))
