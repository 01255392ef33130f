"""Files in one way each: JSONL and YAML are read here, and written whole or not at all."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from reground.errors import ConfigError, DataError, UserError, shown

T = TypeVar("T")

BUFFER = 2**20  # bytes of lines that are written at once


def numbered_lines(path: Path, *, expected: str = "a JSONL") -> Iterator[tuple[int, bytes]]:
    r"""The lines of a file with their numbers from 1.

    Only ``\n`` ends a line: JSON may hold U+2028 and its like as they are. Raises ``DataError``,
    saying what was ``expected``, where there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected {expected}")
    with path.open("rb") as lines:
        yield from enumerate(lines, start=1)


def read_jsonl(
    path: Path,
    parse: Callable[[Any], T],
    *,
    expected: str = "a JSONL",
    advice: str = "mend the row",
) -> Iterator[T]:
    """The rows of a JSONL, one after the other, as ``parse`` makes them of what JSON holds.

    Blank lines are left out. Raises ``DataError`` naming file and line where a line is not JSON or
    ``parse`` raises an error of values; ``advice`` is the end of its message.
    """
    for number, line in numbered_lines(path, expected=expected):
        if line.isspace():
            continue
        try:
            row = parse(parse_row(line))
        except (DataError, ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: {error}; {advice}") from None
        yield row


@contextmanager
def at(where: str, advice: str) -> Iterator[None]:
    """Says ``where`` a ``DataError`` or an error of values came up, and what to do."""
    try:
        yield
    except (DataError, ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}; {advice}") from None


def parse_json(text: bytes) -> Any:
    """What JSON holds; raises ``DataError`` for text that is none or cannot be written again.

    That is what is nested too deeply, and half of a surrogate pair (``"\\ud800"``), which JSON can
    spell and UTF-8 cannot.
    """
    return _parsed(text)


def parse_row(line: bytes) -> Any:
    """What a line of a JSONL holds, as :func:`parse_json`; a key given twice is an error, too."""
    return _parsed(line, object_pairs_hook=_unique)


def _parsed(text: bytes, **how: Any) -> Any:
    try:
        value = json.loads(text.decode("utf-8-sig"), **how)
        if rb"\ud" in text or rb"\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return row


def append_jsonl(path: Path, *rows: Mapping[str, Any]) -> None:
    """Append rows to a JSONL and wait until they are on the disk.

    A checkpoint written afterwards never knows of a step whose rows a power cut could lose. Raises
    ``ValueError`` for NaN and infinity, which are not JSON.
    """
    content = b"".join(map(json_line, rows))
    with path.open("ab") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def drop_unfinished_line(path: Path) -> int:
    """Cut off a last line that a killed run left unfinished; returns how many bytes stay."""
    with path.open("rb+") as file:
        return file.truncate(file.read().rfind(b"\n") + 1)


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of a JSONL; raises ``ValueError`` for NaN and infinity."""
    return _ENCODER.encode(row).encode() + b"\n"


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Write lines, each with its end, whole or not at all; returns how many."""
    count = 0
    with whole(path) as partial, partial.open("wb", buffering=BUFFER) as out:
        for count, line in enumerate(lines, start=1):  # noqa: B007
            out.write(line)
    return count


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: readers see the old text or the new one."""
    with whole(path) as partial:
        partial.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all; NaN is refused with ``ValueError``."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(path, text + "\n")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write a file or folder to, which takes the place of ``path`` once it is written.

    It is on the disk before it is renamed. After an error nothing of it is left, and ``path`` is
    unchanged. The folder around ``path`` is made. A file never takes the place of a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    delete(partial)
    try:
        yield partial
        _sync(partial)
        if path.is_dir() and partial.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    except OSError as error:
        if error.errno is not None:  # of a full disk nothing else is known
            error.filename = error.filename or str(path)
        raise
    finally:
        delete(partial)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; raises ``DataError`` where another is writing ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.lock")
    with own.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(own)):
                raise BlockingIOError  # the last holder's, which is gone by now
        except OSError:
            raise DataError(
                f"{path}: another process is writing it; wait for it, or write to another file"
            ) from None
        try:
            yield
        finally:
            own.unlink(missing_ok=True)


@contextmanager
def without_collection() -> Iterator[None]:
    """Without the search for cycles: rows hold none, and it would look at all of them each time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def delete(path: Path) -> None:
    """Delete a file, a link or a folder; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk: a power cut may undo a mere rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    for each in (*path.rglob("*"), path):  # folders after what they hold
        sync_folder(each)


# YAML 1.2's core schema instead of PyYAML's 1.1, in which 1e-6 is a string, `no` is false and 1:30
# is 90. The dumper resolves by the same table, so that a string that looks like a number is quoted.
_SCALARS: dict[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


def parse_yaml(text: str, source: str, error: type[UserError] = ConfigError) -> Any:
    """What YAML 1.2 holds; raises ``error`` that names ``source`` and the line.

    A key that is given twice, an alias (``*name``), a tag (``!name``), nesting without end and
    numbers of thousands of digits are errors too.

    >>> parse_yaml("off: [1e-6, no, 1:30]", "example")
    {'off': [1e-06, 'no', '1:30']}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.reader.ReaderError as found:
        line = text.count("\n", 0, found.position) + 1
        problem = f"found the character U+{ord(text[found.position]):04X}, expected text; remove it"
        raise error(f"{source}:{line}: not valid YAML: {problem}") from None
    except yaml.YAMLError as found:
        mark = getattr(found, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(found, "problem", None) or str(found)
        raise error(f"{place}: not valid YAML: {shown(problem)}") from None


def compose_yaml(text: str) -> Any:
    """The nodes of a text that :func:`parse_yaml` reads, with places; None for an empty one."""
    return yaml.compose(text, Loader=_Loader)


def dump_yaml(plain: Any) -> str:
    """Plain data as YAML that :func:`parse_yaml` reads back, its keys in their order."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": []}
    for name, (pattern, first_characters) in _SCALARS.items():
        entry = (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"))
        for character in first_characters:
            table.setdefault(character, []).append(entry)
    table[""].append(("tag:yaml.org,2002:null", re.compile(r"\Z")))
    return table


_DEEPEST = 60  # of sections in sections
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers = _resolvers()

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The node; what plain data do not have is an error, as aliases, which may stand for
        gigabytes."""
        event = self.peek_event()
        if problem := self._problem(event):
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _problem(self, event: Any) -> str | None:
        if isinstance(event, yaml.events.AliasEvent):
            return f"found the alias *{event.anchor}, expected the value itself; write it out"
        if event.tag is not None:
            return f"found the tag {event.tag}, expected a plain value; take the tag out"
        if self.depth >= _DEEPEST:
            return "nested too deeply; write it flatter"
        if isinstance(event, yaml.events.ScalarEvent) and _HALF_A_PAIR.search(event.value):
            return "found half of a surrogate pair, expected a character; remove it"
        return None

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value; a number that Python does not read is an error."""
        try:
            return super().construct_object(node, deep)
        except ValueError:
            problem = f"found {node.value[:40]}..., expected a number of fewer digits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping; a key given twice is an error, where PyYAML would keep the last."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Always: equal sections are written out, not as anchors."""
        return True
