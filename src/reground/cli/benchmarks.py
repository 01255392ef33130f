"""``reground benchmarks``: what there is to evaluate on, and whether its files are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reground.data.benchmarks import Benchmark


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Say all about this one, and count it.")
    ] = None,
    count: Annotated[
        bool, typer.Option("--count", help="Read every one that is there and count its samples.")
    ] = False,
) -> None:
    """List the benchmarks: samples, metric, and which files are missing.

    Their files lie in the folder data, or in the one that REGROUND_DATA names. With NAME: what to
    download, where to put it, its licence and its hash. `reground eval --data NAME` evaluates.

    \b
    Examples:
      reground benchmarks mig_bench
      REGROUND_DATA=/big/disk reground benchmarks --count
    """
    from reground.data.benchmarks import find, table

    if name is not None:
        typer.echo(_details(find(name)))
        return
    rows = [("name", "samples", "metric", "state")]
    for entry in table().values():
        rows.append((entry.name, _number(entry), entry.metric, _state(entry, count=count)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[-1]]))


def _number(entry: Benchmark) -> str:
    return "unknown" if entry.samples is None else str(entry.samples)


def _state(entry: Benchmark, *, count: bool) -> str:
    """Ready, which file is missing, or what is wrong; files are read only to ``count``."""
    from reground.data.benchmarks import missing, open_benchmark, works_without_photos
    from reground.errors import DataError

    if absent := missing(entry, photos=False):
        return f"missing {absent[0]}"
    photos = missing(entry)
    if photos and not works_without_photos(entry):
        return f"missing {photos[0]}"
    without = f", without its photos: missing {photos[0]}" if photos else ""
    if not count:
        return f"ready{without}"
    try:
        samples = open_benchmark(entry.name, allow_missing_images=bool(photos))
    except DataError as error:
        return f"wrong: {error}"
    return f"ready, {len(samples)} samples{without}"


def _pixels(entry: Benchmark) -> str:
    """How large its authors show images, where they say."""
    named = {"at least": entry.pixels.fewest, "at most": entry.pixels.most}
    limits = [f"{how} {limit}" for how, limit in named.items() if limit is not None]
    return f"images of {' and '.join(limits)} pixels" if limits else ""


def _details(entry: Benchmark) -> str:
    from reground.data.benchmarks import column, digest, has_other_bytes, how_to_get

    columns = ", ".join(f"{task} = {column(task)} ({n})" for task, n in entry.tasks.items())
    own = ", ".join(f"{value} for family {key}" for key, value in entry.protocols.items())
    first = "of several boxes in a row, the first" if entry.truth == "first" else None
    here = digest(entry)
    lines = {
        "metric": entry.metric,
        "samples": f"{_number(entry)} ({entry.counted})",
        "tasks": columns,
        "truth": first,
        "scorer": entry.scorer and f"{entry.scorer}, its authors' own, is reported beside ours",
        "protocol": own,
        "pixels": _pixels(entry),
        "note": entry.note,
        "licence": entry.licence,
        "get it": how_to_get(entry),
        "source": f"{entry.source} ({entry.reader})",
        "sha256": entry.sha256,
        "here": here and f"sha256 {here}{', other bytes' if has_other_bytes(entry) else ''}",
        "state": _state(entry, count=True),
    }
    return "\n".join(
        [f"{entry.name}: {entry.title}"]
        + [f"  {key:8} {text}" for key, text in lines.items() if text]
    )
