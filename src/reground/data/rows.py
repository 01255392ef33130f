"""A large JSONL of samples stays on the disk: its rows are decoded when they are used.

The first opening checks every row and keeps an index in the user's cache, under the SHA-256 of the
file and of the rules that it was checked by; later openings read the file once, for its SHA-256.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reground import io
from reground.data import frames, images, soundness
from reground.data.frames import Boxes
from reground.data.schemes import LazySamples
from reground.data.soundness import LIKE_THOUSAND, Soundness
from reground.errors import DataError
from reground.grounding import boxes, fields, names, sample
from reground.grounding.sample import ADVICE, Sample, read_row
from reground.plugins import installed

LARGE = 2**22  # bytes; a smaller file is checked in a moment, and held in memory
KEPT = 100  # indexes in the cache; the oldest give way

# Where a row is, its checksum, and the number of its images, the same for rows with the same ones.
_ENTRY = np.dtype([("start", "<i8"), ("length", "<u4"), ("crc", "<u4"), ("images", "<u4")])
_RULES = (
    sample,
    fields,
    boxes,
    names,
    io,
    frames,
    soundness,
)  # what decides whether a row is a sample

_LOG = logging.getLogger(__name__)


class Rows(LazySamples):
    """The samples of a JSONL in their order, each made when it is asked for.

    Raises ``DataError`` naming file and line of the first row that is no sample, or with ``sound``
    is none that the validator takes; later, where a row
    that is asked for was written to since the file was opened. A file that another one took the
    place of is read on. Several threads may ask.
    """

    def __init__(self, path: Path, *, sound: bool) -> None:
        self._path, self._sound, self._measured = path, sound, False
        self._file = path.open("rb")
        index = _read(self._place(hashlib.file_digest(self._file, "sha256").hexdigest()))
        self._index = self._checked() if index is None else index

    @property
    def groups(self) -> NDArray[np.uint32]:
        """A number for each row [N], the same for rows with the same images."""
        groups: NDArray[np.uint32] = self._index["images"]
        return groups

    def __len__(self) -> int:
        return len(self._index)

    def at(self, number: int) -> Sample:
        """The sample in a row, read from the file."""
        start, length, crc, _ = self._index[number].item()
        line = os.pread(self._file.fileno(), length, start)
        with io.at(f"{self._path}: row {number + 1}", "start again"):
            if zlib.crc32(line) != crc:
                raise DataError("was written to since the file was opened; expected the same row")
            return self._parsed(line)

    def _parsed(self, line: bytes) -> Sample:
        return read_row(io.parse_row(line), self._path.parent, self._measure)

    def _measure(self, path: str) -> tuple[int, int]:
        self._measured = True
        return images.sides(path)

    def _checked(self) -> NDArray[Any]:
        """The index, made while every row is looked at; kept unless images' files decide too."""
        entries: list[tuple[int, int, int, int]] = []
        alike: dict[bytes, int] = {}
        checker, found = Soundness(), Boxes()
        seen, number, start = hashlib.sha256(), 0, 0
        self._file.seek(0)
        try:
            for number, line in enumerate(self._file, start=1):  # noqa: B007
                seen.update(line)
                if not line.isspace():
                    row = self._parsed(line)
                    if self._sound:
                        checker.check(row, f"row {len(entries) + 1}")
                        found.add(row)
                    group = alike.setdefault(_key(row), len(alike))
                    entries.append((start, len(line), zlib.crc32(line), group))
                start += len(line)
        except (DataError, ValueError, TypeError) as error:
            raise DataError(
                f"{self._path}:{number}: {error}; {ADVICE}", help="rows-that-are-refused"
            ) from None
        check_frame(self._path, found)
        index = np.array(entries, _ENTRY)
        if not self._measured:
            _keep(index, self._place(seen.hexdigest()))
        return index

    def _place(self, sha256: str) -> Path | None:
        """Where the index of a file is kept; None where there is no home.

        Which rows have the same images depends on the folder, where paths start, and on the schemes
        that are installed.
        """
        own = [sha256, str(self._path.parent), self._sound, _rules(), [*installed("sources")]]
        key = hashlib.sha256(repr(own).encode())
        with suppress(RuntimeError):
            home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
            return home / "reground" / "rows" / f"{key.hexdigest()}.npy"
        return None


def check_frame(spec: Path | str, boxes: Boxes) -> None:
    """Raise ``DataError`` where the boxes of a file look like those of another frame."""
    if boxes.like_thousand():
        raise DataError(
            f"{spec}: {LIKE_THOUSAND}; expected pixels of the photos, convert it again",
            help="frames-that-do-not-fit",
        )


def groups_of(samples: Sequence[Sample]) -> NDArray[np.uint32]:
    """A number for each sample [N], the same for those with the same images."""
    if isinstance(samples, Rows):
        return samples.groups
    alike: dict[object, int] = {}
    return np.array([alike.setdefault(each.images, len(alike)) for each in samples], np.uint32)


def _key(row: Sample) -> bytes:
    text = "".join([f"{each.path!r}{each.width}x{each.height}" for each in row.images])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@cache
def _rules() -> list[bytes]:
    return [
        Path(str(file)).read_bytes() for file in (__file__, *(each.__file__ for each in _RULES))
    ]


def _read(place: Path | None) -> NDArray[Any] | None:
    if place is None:
        return None
    try:
        index: NDArray[Any] = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # none yet, or one that a full disk cut off
        return None
    return index if index.dtype == _ENTRY and index.ndim == 1 else None


def _keep(index: NDArray[Any], place: Path | None) -> None:
    """Write the index, whole or not at all; without room, or leave to write, there is none."""
    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place.parent) as partial:  # a name for each process
            np.save(partial, index)
            partial.flush()
            os.fsync(partial.fileno())
            os.link(partial.name, place)
        for old in sorted(place.parent.iterdir(), key=os.path.getmtime)[:-KEPT]:
            old.unlink()
    except FileExistsError:  # another process was as quick
        return
    except OSError as error:
        _LOG.info("%s: no index is kept (%s); every opening checks all rows", place, error)
