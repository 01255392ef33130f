"""Typed configuration: a dataclass schema, filled from YAML files and ``key=value`` overrides.

Everything is merged as plain data first and validated once against the schema, so a wrong key reads
the same whether it stood in a file or on the command line. Types are taken strictly: ``"3"`` is not
an integer. Scalars follow YAML 1.2: ``1e-6`` is a number, ``no`` and ``1:30`` are strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import yaml
from pydantic import Discriminator, TypeAdapter, ValidationError

from reground.config_problems import explain, shorten
from reground.errors import ConfigError

T = TypeVar("T")

EXTENDS = "extends"


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

    A file may name another with ``extends: base.yaml``, relative to itself: mappings are merged,
    all other values replaced. Override values are YAML; ``stages.0.lr=1e-3`` reaches into a list.
    Raises ``ConfigError`` with one line per problem.
    """
    raw: Any = _read(path) if path else {}
    for item in overrides:
        raw = _override(raw, item)
    return _checked(schema, raw)


def of(schema: type[T], raw: dict[str, Any], *, place: str) -> T:
    """Build ``schema`` from the mapping that stands under ``place`` in a config.

    For sections that an installed package defines; raises ``ConfigError`` as :func:`load` does.
    """
    return _checked(schema, raw, prefix=f"{place}.")


def dump(value: Any) -> str:
    """A section as YAML that ``load`` reads back to an equal object."""
    plain = TypeAdapter(type(value)).dump_python(value, mode="json")
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


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


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {"": []}
    for name, (pattern, first_characters) in _SCALARS.items():
        entry = (f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{pattern})\Z"))
        for character in first_characters:
            table.setdefault(character, []).append(entry)
    table[""].append(("tag:yaml.org,2002:null", re.compile(r"\Z")))
    return table


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    yaml_implicit_resolvers = _resolvers()

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


def _read(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in children:
        chain = " -> ".join(child.name for child in (*children, path))
        raise ConfigError(
            f"{path}: `{EXTENDS}` goes in a circle ({chain}); remove one of the links"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        named_by = f", which {children[-1]} extends" if children else ""
        raise ConfigError(
            f"{path}: cannot read this config{named_by}: {getattr(error, 'strerror', error)}; "
            "expected a YAML file"
        ) from None
    raw = parse_yaml(text, str(path))
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: found {shorten(raw)}, expected a mapping of `key: value` lines")
    base = raw.pop(EXTENDS, None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ConfigError(
            f"{path}: {EXTENDS}: found {shorten(base)}, expected the path of one file"
        )
    merged: dict[str, Any] = _merge(_read(path.parent / base, (*children, path.resolve())), raw)
    return merged


def parse_yaml(text: str, source: str) -> Any:
    """YAML 1.2 as plain data: `off` is a text; raises ``ConfigError`` with the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None


def _checked(schema: type[T], raw: Any, *, prefix: str = "") -> T:
    try:
        value: T = TypeAdapter(schema).validate_json(json.dumps(raw, default=_refuse), strict=True)
        return value
    except ValidationError as error:
        lines = (prefix + line for line in explain(error, schema, raw))
        raise ConfigError("\n".join(lines)) from None


def _override(raw: Any, item: str) -> Any:
    key, separator, text = item.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"override {item!r}: expected key=value, such as optim.lr=1e-5")
    return _set(raw, parts, parse_yaml(text, f"override {item!r}"))


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


def _refuse(value: Any) -> None:
    raise ConfigError(
        f"found the value {value!r}; expected numbers, strings, true or false, lists and mappings"
    )


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
