"""Data sets of Hugging Face in our own columns: written, read, and streamed for training.

A row holds its ``images`` (an ``Image`` feature each), and as ``row`` the JSON of its sample, whose
paths say where an image is first: ROW/PLACE. ``datasets:FOLDER`` is such a folder of
``save_to_disk`` or of Parquet, ``hub:OWNER/NAME`` such a data set of the hub (or the folder), row
by row. Behind ``@`` stands the split, where there are several: ``hub:anna/cells@val``.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from reground.data.convert.hub import check_unconfined, library, table
from reground.data.images import decoded, load, split_view
from reground.data.schemes import ENDLESS, LazySamples
from reground.errors import DataError
from reground.grounding.sample import ImageRef, Sample, is_file_path
from reground.io import locked, whole

SHUFFLED, KEPT = 256, 512  # rows of a stream that are mixed, and that stay in memory
PARQUET_BYTES = 500 * 2**20  # of a file, as the hub's own client cuts them
_Row = dict[str, Any]


def write(samples: Sequence[Sample], out: Path) -> int:
    """Write a folder of ``save_to_disk`` with the images within, whole or not at all.

    Files go in as they are, views and scenes as PNG; returns how many rows. Raises ``DataError``
    where ``out`` is there and is something else, and for an image that cannot be read.
    """
    if out.exists() and not (out / "state.json").is_file():
        raise DataError(f"{out}: exists and is no data set; name a new folder")
    with locked(out), TemporaryDirectory(dir=out.parent) as cache, whole(out) as partial:
        rows = _held(samples, cache)
        rows.save_to_disk(str(partial))
        return len(rows)


def write_parquet(samples: Sequence[Sample], folder: Path, split: str) -> list[Path]:
    """Write the rows as ``SPLIT-00000-of-00003.parquet``, as many files as the hub asks for.

    Raises ``DataError`` for an image that cannot be read.
    """
    with TemporaryDirectory(dir=folder) as cache:
        rows = _held(samples, cache)
        number = 1 + rows.data.nbytes // PARQUET_BYTES
        files = [folder / f"{split}-{n:05}-of-{number:05}.parquet" for n in range(number)]
        for place, file in enumerate(files):
            rows.shard(number, place, contiguous=True).to_parquet(str(file))
        return files


class Folders:
    """The source ``datasets:FOLDER``."""

    def open(self, spec: str, *, seed: int, limit: int | None) -> Sequence[Sample]:
        """The rows in their order, whatever the seed; raises ``DataError``."""
        rows = _FolderRows(spec)
        return rows[:limit] if limit else rows

    def render(self, path: str) -> Image.Image:
        """The image at ``datasets:FOLDER/ROW/PLACE``."""
        spec, row, place = path.rsplit("/", 2)
        return _image(_table(spec)[int(row)], int(place), path)


class Streams:
    """The source ``hub:OWNER/NAME``: a training begins with the first rows that arrive."""

    def open(self, spec: str, *, seed: int, limit: int | None) -> Sequence[Sample]:
        """The first ``limit`` rows; or rows without end, mixed by ``seed``, epoch after epoch."""
        stream = _Stream(spec, seed if limit is None else None, limit or ENDLESS)
        stream[0]  # what cannot be read is an error now
        _OPEN[spec] = stream
        return stream

    def render(self, path: str) -> Image.Image:
        """The image at ``hub:OWNER/NAME/NUMBER/PLACE`` of a stream that is open."""
        spec, number, place = path.rsplit("/", 2)
        if spec not in _OPEN:
            raise DataError(f"{path}: {spec} is not open; name it as data, not its images")
        return _image(_OPEN[spec].row(int(number)), int(place), path)


@dataclass(frozen=True, slots=True)
class _FolderRows(LazySamples):
    spec: str

    def __len__(self) -> int:
        return len(_table(self.spec))

    def at(self, number: int) -> Sample:
        return _sample(_table(self.spec)[number], lambda path: f"{self.spec}/{path}", self.spec)


@dataclass(slots=True)
class _Stream(LazySamples):
    """Rows by number, read forwards; the last ones are kept, for an older one it starts again."""

    spec: str
    seed: int | None  # mixes the rows; None leaves them in their order
    length: int
    _kept: dict[int, _Row] = field(default_factory=dict)
    _left: Iterator[_Row] | None = None
    _next: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __len__(self) -> int:
        return self.length

    def at(self, number: int) -> Sample:
        def own(path: str) -> str:
            return f"{self.spec}/{number}/{path.rpartition('/')[2]}"

        return _sample(self.row(number), own, self.spec)

    def row(self, number: int) -> _Row:
        """Row ``number`` of the stream; raises ``DataError`` where it ends before."""
        with self._lock:
            if number < self._next and number not in self._kept:
                self._left, self._next, self._kept = None, 0, {}
            while self._next <= number:
                if self._left is None:
                    self._left = self._rows()
                row = next(self._left, None)
                if row is None:
                    found, asked = self._next, self.length
                    raise DataError(f"{self.spec}: found {found} rows, expected {asked} by --limit")
                self._kept[self._next] = row
                self._kept.pop(self._next - KEPT, None)
                self._next += 1
            return self._kept[number]

    def _rows(self) -> Iterator[_Row]:
        rows = _streamed(self.spec)
        if self.seed is None:
            yield from rows
            return
        for epoch in count():
            yield from _mixed(rows, np.random.default_rng([self.seed, epoch]))


FOLDERS, STREAMS = Folders(), Streams()
# One stream of a name at a time, as data sets are opened: its images are asked of it.
_OPEN: dict[str, _Stream] = {}


# ---- parts -------------------------------------------------------------------------------------


def _held(samples: Sequence[Sample], cache: str) -> Any:
    """The rows as `datasets` holds them, in files below ``cache``; raises ``DataError``."""
    datasets = library(cache)
    text = datasets.Value("string")
    columns = {name: text for name in ("id", "task", "question", "row")}
    try:
        return datasets.Dataset.from_generator(
            lambda: _rows(samples),
            features=datasets.Features(columns | {"images": datasets.List(datasets.Image())}),
            cache_dir=cache,
            fingerprint="reground",
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        raise


def _rows(samples: Sequence[Sample]) -> Iterator[_Row]:
    first: dict[ImageRef, str] = {}
    for number, sample in enumerate(samples):
        for place, image in enumerate(sample.images):
            first.setdefault(image, f"{number}/{place}")
        row = sample.to_json()
        for image, own in zip(sample.images, row["images"], strict=True):
            own["path"] = first[image]
        yield {
            "id": sample.id,
            "task": sample.task,
            "question": sample.question,
            "row": json.dumps(row),
            "images": [{"bytes": _file(image), "path": None} for image in sample.images],
        }


def _mixed(rows: Iterable[_Row], generator: np.random.Generator) -> Iterator[_Row]:
    """The rows, each drawn from so many that came before it and were not drawn yet."""
    held: list[_Row] = []
    for row in rows:
        if len(held) < SHUFFLED:
            held.append(row)
            continue
        place = int(generator.integers(SHUFFLED))
        yield held[place]
        held[place] = row
    yield from (held[place] for place in generator.permutation(len(held)).tolist())


def _file(image: ImageRef) -> bytes:
    """The file as it is, if it decodes; a view or a scene as PNG."""
    loaded = load(image)
    if is_file_path(image.path) and split_view(image.path)[1] is None:
        return Path(image.path).read_bytes()
    out = BytesIO()
    loaded.save(out, "png")
    return out.getvalue()


def _sample(row: _Row, placed: Any, spec: str) -> Sample:
    try:
        held = json.loads(row["row"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{spec}: columns {', '.join(row)}; expected row and images, as `reground data export "
            "datasets` writes; convert others with `reground data convert hub_objects`"
        ) from None
    return Sample.from_json(held, placed=placed)


def _image(row: _Row, place: int, name: str) -> Image.Image:
    return decoded(row["images"][place]["bytes"], name)


@lru_cache(maxsize=16)
def _table(spec: str) -> Any:
    name, split = _name_and_split(spec)
    return _undecoded(table(Path(name), split), library(spec))


def _streamed(spec: str) -> Any:
    check_unconfined(spec)
    datasets = library(spec)
    name, own = _name_and_split(spec)
    split = own or "train"
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        datasets.exceptions.DatasetsError,
    ) as error:
        raise DataError(f"{spec}: datasets cannot read its split {split}: {error}") from None
    return _undecoded(rows, datasets)


def _name_and_split(spec: str) -> tuple[str, str | None]:
    """
    >>> _name_and_split("hub:anna/cells@val"), _name_and_split("datasets:a@home/cells")
    (('anna/cells', 'val'), ('a@home/cells', None))
    """
    name, at, split = spec.partition(":")[2].rpartition("@")
    return (name, split) if at and re.fullmatch(r"\w+", split) else (name + at + split, None)


def _undecoded(rows: Any, datasets: Any) -> Any:
    """The rows with images as the bytes of their files; others have none to undo."""
    if "images" not in (rows.features or {}):
        return rows
    return rows.cast_column("images", datasets.List(datasets.Image(decode=False)))
