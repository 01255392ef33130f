"""``reground data``: convert, validate, export and show data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli.options import ConfineOption, FontOption

command = typer.Typer(
    help="Convert, validate, export and show data sets.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


# What a conversion may be told.
FormatName = Annotated[
    str,
    typer.Argument(
        metavar="FORMAT",
        help="auto; voc, coco, yolo, labelme, label_studio, cvat, via or csv for labelled "
        "boxes; chat (ShareGPT and the like) or ms_swift for conversations; refcoco, "
        "mig_bench, mgrounding, univg_r1, reason_seg, extracted, video, vg_refiner or hub.",
    ),
]
Source = Annotated[
    Path, typer.Argument(metavar="SRC", help="Folder or file of annotations in that format.")
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="JSONL to write.")]
Images = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder that image names are relative to.")
]
Split = Annotated[str | None, typer.Option(metavar="S", help="Part to take, as train.")]
Questions = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML with a phrase and rules for each class."),
]
Views = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Ask N random crops and flips of every image as well."),
]
Flips = Annotated[
    str | None,
    typer.Option(metavar="F", help="Flips that views may have: none, h, v or hv (default)."),
]
Origin = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=1, help="What VOC calls the first pixel (default: found)."
    ),
]
MinVisible = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share of a box inside its photo below which it is set aside (default: 0.25).",
    ),
]
BoxFrame = Annotated[
    str | None,
    typer.Option(
        metavar="FRAME",
        help="What boxes of chat rows count: original, resized, thousandths or unit.",
    ),
]
MinPixels = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="With --box-frame resized: fewest pixels of a copy."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="With --box-frame resized: most pixels of a copy."),
]
Factor = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="With --box-frame resized: what a copy's sides are multiples of (default: 28, as for "
        "Qwen2-VL and Qwen2.5-VL; Qwen3-VL: 32).",
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        metavar="SHARES", help="Write parts of the photos, as 0.8,0.1,0.1: train, val and test."
    ),
]
Seed = Annotated[int, typer.Option(metavar="S", help="Seed of --split-by.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first thing that cannot be converted.")
]
AllowMissingImages = Annotated[
    bool, typer.Option("--allow-missing-images", help="Keep rows whose images are not on disk.")
]


@command.command()
def convert(
    format_name: FormatName,
    source: Source,
    out: Out,
    images: Images = None,
    split: Split = None,
    questions: Questions = None,
    views: Views = None,
    flips: Flips = None,
    origin: Origin = None,
    min_visible: MinVisible = None,
    box_frame: BoxFrame = None,
    min_pixels: MinPixels = None,
    max_pixels: MaxPixels = None,
    factor: Factor = None,
    split_by: SplitBy = None,
    seed: Seed = 0,
    strict: Strict = False,
    allow_missing_images: AllowMissingImages = False,
    confine: ConfineOption = None,
) -> None:
    """Convert another format to ReGround's JSONL, one question a line.

    What cannot be used goes to OUT.rejected.jsonl with its reason, and is counted; the rest is
    converted. Exits with code 1 where nothing is left.

    \b
    Examples:
      reground data convert auto my_photos --out all.jsonl
      reground data convert voc VOC2007 --split train --out train.jsonl
      reground data convert coco photos/coco.json --split-by 0.8,0.1,0.1 --out cells.jsonl
      reground data convert refcoco refcoco --images train2014 --split val --out val.jsonl
      reground data convert hub lmms-lab/RefCOCO --split testA --images photos --out testA.jsonl
    """
    from reground.data.convert.writing import write

    options = {
        "images": images,
        "split": split,
        "questions": questions,
        "views": views,
        "flips": None if flips is None else flips.replace("none", ""),
        "origin": origin,
        "min_visible": min_visible,
        "box_frame": box_frame,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "factor": factor,
        "allow_missing_images": allow_missing_images,
    }
    written, tally = write(
        format_name, source, out=out, split_by=split_by, seed=seed, strict=strict, **options
    )
    for path, count in written.items():
        typer.echo(f"{path}: {count} samples")
    for line in tally.table():
        typer.echo(line)
    if tally.aside:
        typer.echo(f"set aside: {tally.rejected(out)}")
    if not any(written.values()):
        raise typer.Exit(1)


@command.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of samples.")],
    out: Annotated[
        Path | None, typer.Option(metavar="CLEAN", help="JSONL to write the good rows to.")
    ] = None,
    confine: ConfineOption = None,
) -> None:
    """Check every row and image, and set aside the rows that cannot be used, with their reasons.

    Exits with code 1 where rows were set aside and --out does not ask for the others.

    \b
    Example:
      reground data validate train.jsonl --out train.clean.jsonl
    """
    from reground.data.validate import validate as check

    report = check(file, out=out)
    typer.echo(f"{file}: {report.num_clean} of {report.num_rows} rows are good")
    for reason, count in sorted(report.reasons.items(), key=lambda item: -item[1]):
        typer.echo(f"  {count} x {reason}")
    if report.num_clipped:
        typer.echo(f"  {report.num_clipped} good rows reach a little outside their image: clipped")
    for doubt in report.doubts:
        typer.echo(f"  doubtful: {doubt}")
    if report.num_quarantined:
        typer.echo(f"set aside: {report.quarantine}")
        raise typer.Exit(0 if out else 1)


@command.command()
def export(
    format_name: Annotated[
        str,
        typer.Argument(metavar="FORMAT", help="coco, yolo, label_studio, chat or ms_swift."),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSONL of samples.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="File to write; for yolo the folder.")],
    confine: ConfineOption = None,
) -> None:
    """Write samples for a labelling tool or another trainer, and count what its format lacks.

    \b
    Examples:
      reground data export coco all.jsonl --out instances.json
      reground data export yolo all.jsonl --out yolo
    """
    from reground.data.export import export as written
    from reground.data.source import read_dataset

    samples = read_dataset(str(file))
    left_out = written(format_name, samples, out)
    typer.echo(f"{out}: {len(samples)} samples")
    for what, count in left_out.items():
        typer.echo(f"  not in {format_name}: {count} x {what}")


@command.command()
def show(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC", help="A JSONL, a benchmark, or synth:TASK as synth:referring."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="PNG", help="Picture to write.")],
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples to draw, spread over a file.")
    ] = 12,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the scene world.")] = 0,
    font: FontOption = None,
    confine: ConfineOption = None,
) -> None:
    """Draw samples with their true boxes.

    \b
    Examples:
      reground data show train.jsonl --out train.png
      reground data show synth:referring --limit 6 --out scenes.png
    """
    from reground.data.schemes import is_endless
    from reground.data.show import contact_sheet
    from reground.data.source import open_dataset

    dataset = open_dataset(spec, seed=seed)
    step = 1 if is_endless(dataset) else max(1, len(dataset) // limit)  # over the file
    samples = [dataset[number * step] for number in range(min(limit, len(dataset)))]
    contact_sheet(samples, out=out, font=font)
    typer.echo(f"{out}: {len(samples)} samples")
