"""``reground start``: from a folder of labelled photos to a trained model and a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Photos with labels in any common form.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where everything goes; default: runs/ and its name."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="What is trained: tiny, a checkpoint, a hub id.")
    ] = "tiny",
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the photos lie, if not beside the labels."),
    ] = None,
    seed: Annotated[int, typer.Option(help="By which photos get into parts by chance.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of each training; default: the recipe's."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing, and open no page at the end.")
    ] = False,
) -> None:
    """Train on your own photos: look, ask, train, measure, report.

    FOLDER holds photos and labels of VOC, COCO, YOLO, Label Studio, labelme, CVAT, VIA or CSV. Its
    parts are kept (train, val, test), or made by chance. Every step is a command that is printed
    before it runs. After the first look you may change the words of the questions and the configs,
    which lie in DIR. The same line goes on where it was stopped, and begins again with what you
    changed. The tiny model takes some 25 minutes on two cores.

    \b
    Examples:
      reground start my_photos
      reground start my_photos --yes --steps 200 --out runs/quick
      reground start my_photos --model Qwen/Qwen2-VL-2B-Instruct --out runs/qwen
    """
    from reground.start.run import start

    place = out or Path("runs") / folder.resolve().name
    guided = not yes and sys.stdin.isatty()
    start(folder, out=place, model=model, images=images, seed=seed, steps=steps, guided=guided)
