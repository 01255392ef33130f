"""One finder of photos for all formats, by names as people and tools write them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from reground.data.convert.tally import Unusable
from reground.data.images import Header, ImageSize, header
from reground.data.soundness import Reason
from reground.errors import DataError
from reground.grounding.paths import Move, below, in_no_folder
from reground.grounding.sample import ImageRef

NOMINAL = ImageSize(1000, 1000)
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_COCO_2014 = re.compile(r"COCO_\w+?2014_(\d{12}\.\w+)")


@dataclass(slots=True)
class Images:
    """The images folder that a dataset's rows name files in.

    With ``allow_missing`` an absent image whose size no annotation records gets the nominal size
    1000 x 1000: boxes in 0-1000 or 0-1 keep their numbers, so that answers in 0-1000 are scored
    exactly without the photos. None says that a format cannot do without: its boxes are in pixels,
    and it records no sizes.
    """

    root: Path
    allow_missing: bool | None = None
    _known: dict[tuple[str, ImageSize | None, str | None], ImageRef] = field(default_factory=dict)
    _paths: dict[str | tuple[str, str], Path] = field(default_factory=dict)
    _index: dict[str, list[str]] = field(default_factory=dict)
    _gone: dict[str, str] = field(default_factory=dict)  # starts of names, and of their paths
    _below: Move = field(init=False)
    _is_gone: Callable[[str], bool] = field(default_factory=lambda: in_no_folder(os.path.exists))

    def __post_init__(self) -> None:
        self._below = below(self.root)

    def path(self, name: str) -> Path:
        """Where a name stands below the folder, whether or not there is a file."""
        return self.root / name

    def find(self, name: str, *, stem: str | None = None) -> Path | None:
        """The file that ``name`` means; None where there is none.

        The name as it is; else, with ``\\`` read as ``/`` and a URL as its path, decoded: the
        longest end of it that is a file below the folder, upper and lower case and Unicode's normal
        forms aside; else the same with the ending of another kind of picture; else a picture called
        ``stem``. Raises ``DataError`` where two files fit alike.
        """
        key: str | tuple[str, str] = name if stem is None else (name, stem)
        if key in self._paths:
            return self._paths[key]
        if (found := self._found(name, stem)) is None:  # not kept: there may be a million
            return None
        self._paths[key] = found
        if not _is_utf8(str(found)):
            raise Unusable("name of a file that is not in UTF-8", f"{found}; rename it")
        return found

    def has(self, name: str, *, stem: str | None = None) -> bool:
        """Whether the image is on disk; raises ``DataError`` where it must be and is not."""
        return self._there(name, stem) is not None

    def _there(self, name: str, stem: str | None) -> Path | None:
        """What :meth:`find` gives; raises where that may not be None."""
        if (found := self.find(name, stem=stem)) or self.allow_missing:
            return found
        options = "--images names another"
        if self.allow_missing is not None:
            options += ", --allow-missing-images keeps rows without their images"
        raise Unusable(
            Reason.MISSING_IMAGE,
            f"{self.path(name)}: no such image; images are looked for in {self.root} "
            f"(reground data convert: {options})",
        )

    def ref(
        self, name: str, recorded: ImageSize | None = None, *, stem: str | None = None
    ) -> ImageRef:
        """The image with its size: the file's, upright; without a file, as ``recorded``.

        Raises ``DataError`` where both are known and differ.
        """
        key = (name, recorded, stem)
        if known := self._known.get(key):
            return known
        if (path := self._there(name, stem)) is None:  # not kept: there may be a million
            sides, place = recorded or NOMINAL, self._below(name)
            own = name[name.rfind("/") + 1 :]
            if own not in ("", ".", "..") and "" in self._files() and self._is_gone(place):
                self._gone[name.removesuffix(own)] = place.removesuffix(own)
            return ImageRef(place, sides.width, sides.height)
        found = self.header(path).upright
        if recorded and recorded != found:
            raise Unusable(
                Reason.SIZE_DIFFERS,
                f"{path} is {found}, recorded {recorded}; its boxes are in another frame",
            )
        return self._known.setdefault(key, ImageRef(str(path), found.width, found.height))

    def refs(self, names: Any) -> tuple[ImageRef, ...]:
        """The images of a row; raises ``DataError`` where ``names`` is no list of paths."""
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise DataError(f"images {names!r}; expected a list of at least one path")
        return tuple([self._absent(name) or self.ref(name) for name in names])

    def _absent(self, name: str) -> ImageRef | None:
        """The image, if its folder is known not to be there."""
        cut = name.rfind("/") + 1
        before, own = self._gone.get(name[:cut]), name[cut:]
        if before is None or own in ("", ".", ".."):
            return None
        return ImageRef(before + own, NOMINAL.width, NOMINAL.height)

    @staticmethod
    def header(path: Path) -> Header:
        """The header of a file that was found; raises ``DataError``."""
        try:
            return header(path)
        except DataError as error:
            raise Unusable(Reason.CORRUPT_IMAGE, str(error)) from None

    def _found(self, name: str, stem: str | None) -> Path | None:
        place = self._below(name)
        if name and not self._is_gone(place) and os.path.isfile(place):
            return self.path(name)
        if "" in self._files():
            return None
        plain = plain_name(name)
        names = [name, plain, *_other_names(plain)]
        return (
            next((found for each in names if each and (found := self._tail(each))), None)
            or self._by_stem(PurePosixPath(plain).stem, name)
            or (self._by_stem(stem, name) if stem else None)
        )

    def _tail(self, name: str) -> Path | None:
        """The file whose own end is the longest end of ``name``."""
        path = PurePosixPath(name)
        if not (files := self._files().get(_folded(path.name), [])):
            return None
        parts = [_folded(part) for part in path.parts if part not in ("/", "..")]
        ends = {file: _common_end(parts, [*map(_folded, file.split("/"))]) for file in files}
        best = max(ends.values(), default=0)
        return self._only([file for file in files if ends[file] == best], name)

    def _by_stem(self, stem: str, name: str) -> Path | None:
        folded = _folded(stem)
        pictures = [
            file for suffix in sorted(SUFFIXES) for file in self._files().get(folded + suffix, [])
        ]
        return self._only(pictures, name)

    def _only(self, files: list[str], name: str) -> Path | None:
        if len(files) > 1:
            raise Unusable(
                "two images of one name",
                f"{name!r} may be {files[0]} or {files[1]} in {self.root}; name one in full",
            )
        return self.root / files[0] if files else None

    def _files(self) -> dict[str, list[str]]:
        """All pictures below the folder by folded base names, "" where there is none."""
        if not self._index:
            listed: dict[str, list[str]] = defaultdict(list)
            for file in pictures_below(self.root):
                listed[_folded(PurePosixPath(file).name)].append(file)
            self._index.update(listed or {"": []})
        return self._index


def pictures_below(folder: Path) -> Iterator[str]:
    """The pictures of a folder and those in it, as paths from ``folder``, sorted."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if PurePosixPath(name).suffix.lower() in SUFFIXES:
                yield Path(where, name).relative_to(folder).as_posix()


def plain_name(name: str) -> str:
    """A name as a path with ``/``, without what browsers and other systems put around it.

    >>> plain_name("C:\\\\photos\\\\my%20cup.png"), plain_name("https://host/up/4/abc.png?d=1")
    ('photos/my cup.png', 'up/4/abc.png')
    """
    if "://" in name and (parts := _split(name)):
        query = [value for part in parts.query.split("&") for value in part.split("=")[1:]]
        # Label Studio's local files: /data/local-files/?d=folder/photo.png
        name = next((each for each in query if _is_picture(unquote(each))), parts.path)
    elif "?d=" in name:
        name = name.partition("?d=")[2]
    name = unquote(name).replace("\\", "/")
    return re.sub(r"^(?:[A-Za-z]:)?/*", "", name)


def _split(address: str) -> SplitResult | None:
    try:
        return urlsplit(address)
    except ValueError:  # half of an IPv6 address
        return None


def _other_names(name: str) -> list[str]:
    """COCO's 2014 names for photos that lie there under their names of 2017."""
    found = _COCO_2014.search(name)
    return [found[1]] if found else []


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _common_end(one: list[str], other: list[str]) -> int:
    count = 0
    for left, right in zip(reversed(one), reversed(other), strict=False):
        if left != right:
            break
        count += 1
    return count
