"""The benchmarks by name: a table of data (benchmarks.yaml), and their samples where they are.

A benchmark is read from its authors' files below the data folder, which is ``data``, or what the
environment variable REGROUND_DATA names; or, where that exists, from ``NAME.jsonl`` there, samples
in our own form.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from reground.data.convert import FORMATS, convert, options_of
from reground.errors import DataError, did_you_mean
from reground.grounding.codecs import PixelLimits
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample, Target, read_jsonl
from reground.io import parse_yaml
from reground.plugins import installed

_LOG = logging.getLogger(__name__)

# MIG-Bench's ten tasks in the order of the UniVG-R1 paper's Table 1, with its names of the columns.
MIG_BENCH_COLUMNS: Mapping[str, str] = {
    "diff": "Static",
    "view_diff": "Robust",
    "common_object": "Common",
    "object_tracking": "OT",
    "multi_view": "MV",
    "region": "Region",
    "refer_grounding": "Refer",
    "group_grounding": "GG",
    "reasoning": "Reason",
    "correspondence": "Co-Re",
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One row of the table; benchmarks.yaml says what the fields mean. Paths are relative."""

    name: str
    title: str
    reader: str
    source: str
    get: str
    licence: str
    samples: int | None
    counted: str
    hit: Literal[">", ">="]
    average: Literal["micro", "macro"]
    files: tuple[str, ...] = ()
    photos: str | None = None
    images: str | None = None
    split: str | None = None
    hub: str | None = None
    truth: Literal["all", "first"] = "all"
    scorer: str | None = None
    download: str | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    protocols: Mapping[str, ProtocolName] = field(default_factory=dict)
    pixels: PixelLimits = field(default_factory=PixelLimits)
    sha256: str | None = None
    note: str | None = None

    @property
    def metric(self) -> str:
        """What is reported, as "Acc@0.5 (IoU >= 0.5), mean of 10 tasks"."""
        mean = f", mean of {len(self.tasks)} tasks" if self.average == "macro" else ""
        return f"Acc@0.5 (IoU {self.hit} 0.5){mean}"


@cache
def table() -> Mapping[str, Benchmark]:
    """Every benchmark by its name, in the order of the file; then those of installed packages.

    A package names a file of the same form by an entry point in the group ``reground.benchmarks``.
    """
    files = [resources.files("reground.data").joinpath("benchmarks.yaml")]
    files += [Path(entry.load()) for entry in installed("benchmarks").values()]
    return {
        name: _benchmark(name, group | own)
        for file in files
        for group in parse_yaml(file.read_text("utf-8"), str(file))
        for name, own in group["benchmarks"].items()
    }


def find(name: str) -> Benchmark:
    """The benchmark called ``name``; raises ``DataError`` that suggests the nearest name."""
    if name in table():
        return table()[name]
    forms = "expected a path that ends in .jsonl, synth:TASK, or a name of `reground benchmarks`"
    raise DataError(
        f"no data set {name!r}; {did_you_mean(name, table(), otherwise=forms)}",
        help="benchmarks-that-are-missing",
    )


def data_folder() -> Path:
    """Where the benchmarks' files lie: REGROUND_DATA, or ``data`` in the working directory."""
    return Path(os.environ.get("REGROUND_DATA") or "data")


def missing(benchmark: Benchmark, *, photos: bool = True) -> list[Path]:
    """The files and folders that the benchmark needs and that are not there, in that order.

    ``photos`` counts the folder of photos among them.
    """
    folder = data_folder()
    if _own(benchmark).is_file():
        return []
    wanted = [benchmark.source, *benchmark.files]
    if photos and benchmark.photos:
        wanted.append(benchmark.photos)
    return [folder / path for path in wanted if not (folder / path).exists()]


def read_from(benchmark: Benchmark) -> Path:
    """What is read: ``NAME.jsonl`` in the data folder where that exists, else the source."""
    own = _own(benchmark)
    return own if own.is_file() else data_folder() / benchmark.source


def digest(benchmark: Benchmark) -> str | None:
    """The SHA-256 of what is read; None where it is a folder or absent."""
    path = read_from(benchmark)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def has_other_bytes(benchmark: Benchmark) -> bool:
    """Whether the source is there and not the file whose bytes we know."""
    known = benchmark.sha256 is not None and read_from(benchmark) != _own(benchmark)
    return known and digest(benchmark) not in (None, benchmark.sha256)


def works_without_photos(benchmark: Benchmark) -> bool:
    """Whether samples can be read where the photos are absent, to score stored answers."""
    own = benchmark.reader not in FORMATS  # samples in our own form
    return own or "allow_missing_images" in options_of(benchmark.reader)


def open_benchmark(
    name: str, *, limit: int | None = None, allow_missing_images: bool = False
) -> list[Sample]:
    """The samples of a benchmark, or its first ``limit``.

    Raises ``DataError`` for an unknown name; where files or photos are missing, saying which, what
    to download and where to put it; and, without a limit, where the number of samples (of a task,
    too) is not the expected one. With ``allow_missing_images`` photos may be absent where the
    reader can do without, which is enough to score stored answers. Other bytes than the known ones
    are a warning.
    """
    benchmark = find(name)
    if absent := missing(benchmark, photos=not allow_missing_images):
        raise DataError(
            f"{name}: {absent[0]} is missing. {how_to_get(benchmark)}",
            help="benchmarks-that-are-missing",
        )
    if has_other_bytes(benchmark):
        expected = benchmark.sha256
        _LOG.warning("%s: sha256 %s, expected %s", name, digest(benchmark), expected)
    try:
        samples = list(islice(_read(benchmark, allow_missing_images), limit))
    except DataError as error:
        raise DataError(
            f"{name}: {error}. {how_to_get(benchmark)}", help="benchmarks-that-are-missing"
        ) from None
    if limit is None or not samples:
        _check_counts(benchmark, samples)
    return _with_first_box(samples, name) if benchmark.truth == "first" else samples


def how_to_get(benchmark: Benchmark) -> str:
    """What to download and where to put it, with the data folder in force.

    Of a data set that holds its photos, the command that makes ``NAME.jsonl`` of it, too.
    """
    folder = data_folder()
    text = f"{benchmark.get} The data folder is {folder} (REGROUND_DATA names another)."
    if benchmark.download:
        text += f" Download: `cd {folder} && {benchmark.download}`."
    if benchmark.hub is None:
        return text
    is_downloaded = benchmark.reader == "jsonl"
    source = folder / benchmark.hub if is_downloaded else benchmark.hub
    photos = folder / Path(benchmark.hub).parent / "photos"
    split = f" --split {benchmark.split}" if benchmark.split else ""
    lead = "Convert:" if is_downloaded else "Or, with pip install 'reground[hub]':"
    command = f"reground data convert hub {source}{split} --images {photos}"
    return f"{text} {lead} {command} --out {_own(benchmark)}"


def in_order(tasks: Iterable[str]) -> list[str]:
    """Distinct tasks, MIG-Bench's as the paper has them, others behind them by name.

    >>> in_order(["region", "rec", "diff", "rec"])
    ['diff', 'region', 'rec']
    """
    known = set(tasks)
    listed = [task for task in MIG_BENCH_COLUMNS if task in known]
    return listed + sorted(known.difference(listed))


def column(task: str) -> str:
    """What a table's column for ``task`` is called."""
    return MIG_BENCH_COLUMNS.get(task, task)


def _benchmark(name: str, fields: Mapping[str, Any]) -> Benchmark:
    given = fields.get("with", {})
    named = ("benchmarks", "with", "pixels")
    own = {key: _filled(value, given) for key, value in fields.items() if key not in named}
    return Benchmark(name=name, pixels=PixelLimits(**fields.get("pixels", {})), **own)


def _filled(value: Any, given: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return tuple(_filled(item, given) for item in value)
    return value.format_map(given) if isinstance(value, str) else value


def _own(benchmark: Benchmark) -> Path:
    return data_folder() / f"{benchmark.name}.jsonl"


def _read(benchmark: Benchmark, allow_missing_images: bool) -> Iterator[Sample]:
    folder, path = data_folder(), read_from(benchmark)
    if path == _own(benchmark):
        return read_jsonl(path)
    return convert(
        benchmark.reader,
        path,
        images=folder / benchmark.images if benchmark.images else None,
        split=benchmark.split,
        allow_missing_images=allow_missing_images and works_without_photos(benchmark),
    )


def _check_counts(benchmark: Benchmark, samples: Sequence[Sample]) -> None:
    path = read_from(benchmark)
    by_task = Counter(sample.task for sample in samples)
    counts = [(f"{task} samples", by_task[task], n) for task, n in benchmark.tasks.items()]
    for what, found, expected in [("samples", len(samples), benchmark.samples), *counts]:
        if found != expected and (expected is not None or not found):
            raise DataError(
                f"{benchmark.name}: found {found} {what}, expected {expected or 'some'}; {path} is "
                f"incomplete or another version. {how_to_get(benchmark)}",
                help="benchmarks-that-are-missing",
            )


def _with_first_box(samples: Sequence[Sample], name: str) -> list[Sample]:
    several = sum(len(sample.targets) > 1 for sample in samples)
    if several:
        _LOG.warning(
            "%s: %d rows have several boxes; the first counts, as published", name, several
        )
    return [replace(sample, targets=_asked(sample)[:1]) for sample in samples]


def _asked(sample: Sample) -> tuple[Target, ...]:
    """The targets in the image that is asked about."""
    return tuple(each for each in sample.targets if each.image == sample.target_image)
