"""Words for what is wrong in a configuration: one line per key, in the user's own names."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from reground.config_places import KeyPath, Places
from reground.errors import did_you_mean, shown


def explain(
    error: ValidationError, schema: Any, raw: Any, places: Places, prefix: str = ""
) -> list[str]:
    """One sentence for every key at which ``raw`` does not fit the dataclass ``schema``.

    ``prefix`` is that of every key.
    """
    problems = [_problem(item, raw) for item in error.errors(include_url=False)]
    wrong_inside = {each.path[:depth] for each in problems for depth in range(len(each.path))}
    # A list whose items are refused is also called too short.
    problems = [
        each for each in problems if each.kind != "too_short" or each.path not in wrong_inside
    ]
    by_path: dict[KeyPath, list[_Problem]] = {}
    for problem in _closest_members(problems):
        by_path.setdefault(problem.path, []).append(problem)
    return [
        places.of(path) + prefix + _sentence(path, same, schema) for path, same in by_path.items()
    ]


def shorten(value: Any, *, limit: int = 60) -> str:
    """A value as it would stand in a config, at most ``limit`` characters of it."""
    return shown(json.dumps(value, ensure_ascii=False, default=str), limit=limit)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One validation error; ``path`` holds the user's keys only.

    ``member`` is the member of a union that refused the value at ``path[:union_depth]``.
    """

    path: KeyPath
    kind: str
    message: str
    found: Any
    context: Mapping[str, Any]
    member: KeyPath = ()
    union_depth: int = 0

    @property
    def refuses_whole(self) -> bool:
        """Whether the value is no such thing at all, rather than one with something wrong in it."""
        at_union = len(self.path) == self.union_depth
        return at_union and (self.kind.endswith("_type") or self.kind == "literal_error")


def _problem(item: Mapping[str, Any], raw: Any) -> _Problem:
    """Split pydantic's location into the user's keys and the names of union members among them."""
    location, kind = item["loc"], item["type"]
    path: list[str | int] = []
    member: list[str | int] = []
    union_depth, node = 0, raw
    for number, part in enumerate(location):
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            names_absent_key = kind == "missing" and number == len(location) - 1
            if not names_absent_key:
                union_depth = union_depth if member else len(path)
                member.append(part)
                continue
        path.append(part)
    context = item.get("ctx", {})
    message = _BOUNDS[kind].format_map(context) if kind in _BOUNDS else item["msg"]
    return _Problem(tuple(path), kind, message, item["input"], context, tuple(member), union_depth)


def _closest_members(problems: list[_Problem]) -> list[_Problem]:
    """Of each union keep what its best-fitting member says; all, where none fits at all."""
    unions: dict[KeyPath, dict[KeyPath, list[_Problem]]] = {}
    for problem in problems:
        members = unions.setdefault(problem.path[: problem.union_depth], {})
        members.setdefault(problem.member, []).append(problem)
    kept: list[_Problem] = []
    for members in unions.values():
        kept += members.pop((), [])
        fitting = [group for group in members.values() if not group[0].refuses_whole]
        groups = [min(fitting, key=len)] if fitting else members.values()
        kept += [problem for group in groups for problem in group]
    return kept


_EXPECTED = {
    "an object": "a section of `key: value` lines",
    "a valid array": "a list",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "a string (in quotes where it looks like something else)",
}
_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "too_short": "at least {min_length} of them",
}


def _sentence(path: KeyPath, problems: list[_Problem], schema: Any) -> str:
    key, first = shown(".".join(map(str, path)), limit=100), problems[0]
    if first.kind == "unexpected_keyword_argument":
        return f"{key}: {_suggestion(path, schema, first.member)}"
    if first.kind == "missing":
        return f"{key}: missing; put it in the config file or give {key}=VALUE"
    if first.kind == "value_error":
        said = first.message.removeprefix("Value error, ")
        return (f"{key}: " if key else "") + said + _given(said, first.found)
    if first.kind == "union_tag_not_found":
        example = first.found if isinstance(first.found, str) else "..."
        return (
            f"{key}: found {shorten(first.found)}, expected a section with a type, as "
            f"{{type: {shown(example, limit=40)}}}"
        )
    if first.kind == "union_tag_invalid":
        return _unknown_type(key, first)
    wanted = [problem.message.removeprefix("Input should be ") for problem in problems]
    if wanted[0] == first.message and first.kind not in _BOUNDS:
        return f"{key}: found {shorten(first.found)}: {first.message}"
    expected = " or ".join(dict.fromkeys(_EXPECTED.get(item, item) for item in wanted))
    if expected == "a list" and isinstance(first.found, str):
        expected += f", as [{first.found}]"
    return f"{key}: found {shorten(first.found)}, expected {expected}"


def _unknown_type(key: str, problem: _Problem) -> str:
    known = problem.context["expected_tags"].replace("'", "").split(", ")
    known = [name for name in known if name != "own"]
    tag = problem.context["tag"]
    return f"{key}.type: unknown {shown(tag, limit=60)!r}; {did_you_mean(tag, known)}"


def _given(said: str, section: Any) -> str:
    """What was given of the keys that a sentence names, unless it says what was found itself."""
    if not isinstance(section, dict) or re.search(r"\bfound\b", said):
        return ""
    words = dict.fromkeys(re.findall(r"[\w.]+", said))
    named = {key: section[key] for key in words if key in section}
    given = ", ".join(f"{key}={shorten(value)}" for key, value in named.items())
    return f"; found {given}" if given else ""


def _suggestion(path: KeyPath, schema: Any, member: KeyPath) -> str:
    leaf, section = str(path[-1]), path[:-1]
    siblings = sorted(_section_keys(schema, section, member))
    if leaf in _section_keys(schema, section):
        return f"{member[-1]} has no such setting; it has {', '.join(siblings)}"
    if close := difflib.get_close_matches(leaf, siblings, n=1):
        return f"unknown key; did you mean {'.'.join(map(str, (*section, close[0])))!r}?"
    elsewhere = {key.rpartition(".")[2]: key for key in reversed(list(_paths(schema)))}
    if close := difflib.get_close_matches(leaf, elsewhere, n=1):
        return f"unknown key; did you mean {elsewhere[close[0]]!r}?"
    return f"unknown key; expected one of {', '.join(siblings)}"


def _section_keys(schema: Any, section: KeyPath, member: KeyPath = ()) -> set[str]:
    """Names of the fields of every section that may stand at ``section``, or of one ``type``."""
    candidates = list(_sections(schema))
    for part in section:
        if not isinstance(part, int):
            candidates = [
                inner
                for outer in candidates
                for inner in _sections(typing.get_type_hints(outer).get(part))
            ]
    every = [{field.name: field.default for field in dataclasses.fields(c)} for c in candidates]
    chosen = [names for names in every if names.get("type") in member] or every
    return {name for names in chosen for name in names}


def _sections(hint: Any) -> Iterator[Any]:
    """The dataclasses in a type: itself, or what stands inside unions and containers."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _sections(argument)


def _paths(schema: Any, prefix: str = "") -> Iterator[str]:
    for section in _sections(schema):
        for name, hint in typing.get_type_hints(section).items():
            yield prefix + name
            yield from _paths(hint, f"{prefix}{name}.")
