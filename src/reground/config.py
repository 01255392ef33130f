"""Typed configuration: a dataclass schema, filled from YAML files and ``key=value`` overrides.

Everything is merged as plain data first and validated once against the schema, so a wrong key reads
the same whether it stood in a file or on the command line. Types are taken strictly: ``"3"`` is not
an integer. Scalars follow YAML 1.2: ``1e-6`` is a number, ``no`` and ``1:30`` are strings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import Discriminator, Field, TypeAdapter, ValidationError

from reground.config_places import Places, Source
from reground.config_problems import explain, shorten
from reground.errors import ConfigError, shown
from reground.io import dump_yaml, parse_yaml
from reground.recipes import located

T = TypeVar("T")

# Ranges of numbers in sections.
Count = Annotated[int, Field(ge=1, le=10**15)]  # more would be no float
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

EXTENDS = "extends"
_DEEPEST = 20  # keys in an override


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Declare a section: a frozen, slotted, keyword-only dataclass that refuses unknown keys.

    Checks across fields belong in ``__post_init__`` and raise ``ValueError``.
    """
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


def by_type(usual: str | None = None) -> Discriminator:
    """Tells the members of a union apart by their ``type``; left out, it is ``usual``.

    What has a ``path`` is the member tagged "own": a user's code.
    """

    def kind(value: Any) -> str | None:
        if not isinstance(value, dict):
            found: str | None = getattr(value, "type", None)
            return found
        return "own" if "path" in value else value.get("type", usual)

    return Discriminator(kind)


def load(schema: type[T], path: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Build ``schema`` from a YAML file and dotted ``key=value`` overrides; later ones win.

    ``path`` may name a recipe. A file may name another with ``extends: base.yaml``, relative to
    itself: mappings are merged, all other values replaced. Override values are YAML;
    ``stages.0.lr=1e-3`` reaches into a list.
    Raises ``ConfigError`` with one line per problem, which names file and line where there are any.
    """
    files: list[Source] = []
    raw: Any = _read(located(path), files) if path else {}
    for item in overrides:
        raw = _override(raw, item)
    return _checked(schema, raw, Places(files, overrides))


def merged(path: Path) -> dict[str, Any]:
    """What a YAML file says, with what it extends; raises ``ConfigError`` where it cannot be read.

    It is not checked against a schema.
    """
    return _read(path, [])


def of(schema: type[T], raw: dict[str, Any], *, place: str) -> T:
    """Build ``schema`` from the mapping that stands under ``place`` in a config.

    For sections that an installed package defines; raises ``ConfigError`` as :func:`load` does.
    """
    return _checked(schema, raw, prefix=f"{place}.")


def dump(value: Any) -> str:
    """A section as YAML that ``load`` reads back to an equal object."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    return dump_yaml(plain)


def differing_keys(old: str, new: str) -> list[str]:
    """Lines ``key: old -> new`` for every key by which two YAML texts from ``dump`` differ.

    >>> differing_keys("optim: {lr: 1e-3}", "optim: {lr: 1e-4}\\nseed: 1")
    ['optim.lr: 0.001 -> 0.0001', 'seed: (absent) -> 1']
    """
    before, after = (dict(_leaves(parse_yaml(text, "config"))) for text in (old, new))
    return [
        f"{key}: {_side(before, key)} -> {_side(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if key not in before or key not in after or before[key] != after[key]
    ]


def _read(path: Path, files: list[Source], children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping of a file with what it extends, and add the files that were read to ``files``."""
    real = Path(os.path.realpath(path)) if "\0" not in str(path) else path
    name = shown(str(path))
    if real in children:
        chain = " -> ".join(child.name for child in (*children, path))
        raise ConfigError(
            f"{name}: `{EXTENDS}` goes in a circle ({chain}); remove one of the links"
        )
    text = _text(path, f", which {children[-1]} extends" if children else "")
    files.append(Source(name, text))
    raw = parse_yaml(text, name)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: found {shorten(raw)}, expected a mapping of `key: value` lines")
    base = raw.pop(EXTENDS, None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ConfigError(
            f"{name}: {EXTENDS}: found {shorten(base)}, expected the path of one file"
        )
    whole: dict[str, Any] = _merge(_read(path.parent / base, files, (*children, real)), raw)
    return whole


def _text(path: Path, named_by: str) -> str:
    """The text of a regular file; raises ``ConfigError`` for anything else."""
    name = shown(str(path))
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise ConfigError(f"{name}: found {kind}{named_by}; expected a YAML file")
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}:{line}: not a text in UTF-8{named_by} ({error.reason}); save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: cannot read this config{named_by}: {getattr(error, 'strerror', error)}; "
            "expected a YAML file, or a name that `reground recipes` lists"
        ) from None


def _checked(schema: type[T], raw: Any, places: Places | None = None, *, prefix: str = "") -> T:
    text = json.dumps(raw)
    try:
        value: T = TypeAdapter(schema).validate_json(text, strict=True)
        return value
    except ValidationError as error:
        # As JSON has it: keys are strings.
        lines = explain(error, schema, json.loads(text), places or Places(), prefix)
        raise ConfigError("\n".join(lines)) from None


def _override(raw: Any, item: str) -> Any:
    key, separator, text = item.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts) or len(parts) > _DEEPEST:
        raise ConfigError(
            f"override {shown(repr(item))}: expected key=value, such as optim.lr=1e-5"
        )
    return _set(raw, parts, parse_yaml(text, f"override {shown(repr(item))}"))


def _set(node: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return _merge(node, value)
    head, rest = parts[0], parts[1:]
    if isinstance(node, list) and head.isdecimal() and int(head) < len(node):
        index = int(head)
        return [*node[:index], _set(node[index], rest, value), *node[index + 1 :]]
    section = node if isinstance(node, dict) else {}
    return section | {head: _set(section.get(head), rest, value)}


def _merge(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merge(base.get(key), value) for key, value in over.items()}


def _side(leaves: Mapping[str, Any], key: str) -> str:
    return shorten(leaves[key]) if key in leaves else "(absent)"


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values, unless sections stand in them."""
    children: dict[Any, Any] = {}
    if isinstance(value, dict):
        children = value
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        children = dict(enumerate(value))
    for key, child in children.items():
        yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    if not children:
        yield prefix, value
