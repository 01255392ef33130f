"""``reground data``: convert, validate, export, show, compare and push data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reground.cli.options import (
    ConfineOption,
    FontOption,
    LicenseOption,
    LimitOption,
    PrivateOption,
    SeedOption,
)

command = typer.Typer(
    help="Convert, validate, export, show, compare and push data sets.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


# What a conversion may be told.
FormatName = Annotated[
    str,
    typer.Argument(
        metavar="FORMAT",
        help="auto; voc, coco, yolo, labelme, label_studio, cvat, via, csv or "
        "hub_objects for labelled boxes; chat (ShareGPT and the like) or ms_swift for "
        "conversations; refcoco, mig_bench, mgrounding, univg_r1, reason_seg, extracted, video, "
        "vg_refiner or hub.",
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
BoxFormat = Annotated[
    str | None,
    typer.Option(
        metavar="F", help="What boxes of hub_objects are: xywh, xyxy or cxcywh (default: found)."
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
    box_format: BoxFormat = None,
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
        "box_format": box_format,
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
        typer.Argument(
            metavar="FORMAT",
            help="coco, yolo, label_studio, chat, ms_swift, datasets or coco_results.",
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="JSONL of samples; for coco_results the folder of an evaluation."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="File to write; for yolo and datasets the folder.")
    ],
    confine: ConfineOption = None,
) -> None:
    """Write samples for a labelling tool or another trainer, and count what its format lacks.

    coco_results are the answers of an evaluation for pycocotools, with the boxes' scores (1
    without one), and beside them their truth under the same ids. datasets is a folder of Hugging
    Face's save_to_disk with the images within, which `--data datasets:FOLDER` reads again.

    \b
    Examples:
      reground data export coco all.jsonl --out instances.json
      reground data export yolo all.jsonl --out yolo
      reground data export datasets all.jsonl --out all
      reground data export coco_results results/first --out results/first/coco.json
    """
    if format_name == "coco_results":
        from reground.evaluation.coco import write_results

        count, truth, left_out = write_results(file, out)
        typer.echo(f"{out}: {count} boxes; their truth is {truth}")
    elif format_name == "datasets":
        from reground.data.arrow import write
        from reground.data.source import read_dataset

        typer.echo(f"{out}: {write(read_dataset(str(file)), out)} samples with their images")
        return
    else:
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
        int, typer.Option(metavar="N", min=1, help="Photos to draw, spread over a file.")
    ] = 12,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the scene world.")] = 0,
    font: FontOption = None,
    confine: ConfineOption = None,
) -> None:
    """Draw photos with the true boxes of all questions about them, a colour for each class.

    Where one page does not hold all, others are written as PNG with .2, .3 before its ending.

    \b
    Examples:
      reground data show train.jsonl --out train.png
      reground data show synth:referring --limit 6 --out scenes.png
    """
    from reground.data.show import contact_sheet, spread
    from reground.data.source import open_dataset

    pages = contact_sheet(spread(open_dataset(spec, seed=seed), limit), out=out, font=font)
    for page, count in pages.items():
        typer.echo(f"{page}: {count} samples")


@command.command()
def overlap(
    train: Annotated[
        str, typer.Argument(metavar="TRAIN", help="What a model learns from: as of --data.")
    ],
    held_out: Annotated[
        list[str], typer.Argument(metavar="EVAL...", help="What it is measured by: one or several.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="JSON", help="All pairs and questions, as a file.")
    ] = None,
    drop: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSONL for the rows of TRAIN whose pictures no EVAL has."
        ),
    ] = None,
    seed: SeedOption = 0,
    limit: LimitOption = None,
    confine: ConfineOption = None,
) -> None:
    """Find the pictures and questions of EVAL that TRAIN has too.

    Pictures are the same file, the same pixels, or nearly the same: saved again, resized, a little
    lighter or darker. Not found are mirrored, turned and cropped ones. Exits with code 1 where
    pictures are shared and --drop does not take them out, or where some cannot be read.

    \b
    Examples:
      reground data overlap train.jsonl val.jsonl test.jsonl
      reground data overlap train.jsonl refcoco_testA --out shared.json --drop clean.jsonl
    """
    from reground.data.overlap import compare, without
    from reground.data.source import read_dataset, save_dataset
    from reground.errors import DataError

    samples = read_dataset(train, seed=seed, limit=limit)
    others = {name: read_dataset(name, seed=seed, limit=limit) for name in held_out}
    found = compare(train, samples, others)
    for line in found.table():
        typer.echo(line)
    if out:
        found.write(out)
    if drop:
        rest = without(samples, found.shared)
        if not rest:
            raise DataError(f"{train}: every row shows a picture of the others; nothing is left")
        save_dataset(drop, rest)
        typer.echo(f"{drop}: {len(rest)} of {len(samples)} samples")
    if found.is_unread or (found.shared and not drop):
        raise typer.Exit(1)


@command.command()
def push(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A JSONL of samples, or a folder of some.")
    ],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="A new repository.")],
    license: LicenseOption = None,
    private: PrivateOption = False,
    confine: ConfineOption = None,
) -> None:
    """Upload samples and their pictures to the hub, with a card, in one commit.

    Each JSONL of a folder is a split: cells.train.jsonl is train. Files are Parquet with pictures
    within, so that the hub shows them, and `--data hub:OWNER/NAME@SPLIT` trains and evaluates. The
    token is that in HF_TOKEN.

    \b
    Examples:
      reground data push cells.jsonl anna/cells
      reground data push runs/bccd/data anna/cells --license mit --private
    """
    from reground.hub.data_set import files_of, read_parts
    from reground.hub.repository import Repository

    place = Repository.open(name, kind="dataset", private=private)
    parts = read_parts(source)
    with files_of(parts, name=name, license=license) as files:
        for part in parts:
            counts = (f"{n} {what}" for what, n in part.counts.items())
            typer.echo(f"{part.name}: {', '.join(counts)}")
        typer.echo(place.push(files, message="Samples and pictures, by ReGround"))
