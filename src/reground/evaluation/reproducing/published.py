"""The published figures (published.yaml), and how the models behind them were asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import TypeAdapter

from reground.errors import ConfigError, did_you_mean
from reground.grounding.names import ProtocolName
from reground.io import parse_yaml


@dataclass(frozen=True, slots=True)
class Size:
    """A model's parameters in billions, and its keys and values."""

    billions: float
    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the tables; without weights that anybody can have, it is published only."""

    title: str
    weights: str | None = None
    modelscope: str | None = None
    family: str = ""
    size: str = ""
    loads: bool = True

    @property
    def source(self) -> str | None:
        """Where its weights are; None where its figures cannot be made again."""
        return self.weights or self.modelscope


@dataclass(frozen=True, slots=True)
class Asked:
    """How a figure was made, as far as it is known; published.yaml says what the fields mean."""

    pixels: tuple[int, int] | None = None
    max_tokens: int = 256
    images: int = 1
    scorer: str | None = None
    protocol: ProtocolName | None = None
    tool: str | None = None
    prompt: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A published table: ``rows`` are percent, by the models' keys."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    tasks: tuple[str, ...] = ()
    average: bool = False
    measure: Literal["acc", "nsri_w"] = "acc"
    decimals: int = 2
    asked: tuple[Mapping[str, Any], ...] = ()

    def asked_of(self, model: str, benchmark: str) -> Asked:
        """How ``model`` was asked on ``benchmark``."""
        said: dict[str, Any] = {}
        for entry in self.asked:
            own = dict(entry)
            if own.pop("model", model) == model and benchmark in own.pop("columns", [benchmark]):
                said |= own
        return TypeAdapter(Asked).validate_python(said)


@dataclass(frozen=True, slots=True)
class Published:
    """All of the file."""

    sizes: Mapping[str, Size]
    models: Mapping[str, Model]
    tables: Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class Figure:
    """A published number, in percent: of a ``task``, of all samples, or their mean over tasks."""

    value: float
    table: Table = field(repr=False)
    task: str | None = None

    @property
    def is_macro(self) -> bool:
        """Whether it is the mean over the table's tasks."""
        return bool(self.table.tasks) and self.task is None


@dataclass(frozen=True, slots=True)
class Entry:
    """The figures of a model on a benchmark, the one of all samples first, and how it was asked."""

    name: str
    model: Model
    benchmark: str
    asked: Asked
    figures: tuple[Figure, ...] = field(repr=False)


@cache
def published() -> Published:
    """What the file holds."""
    file = resources.files(__package__).joinpath("published.yaml")
    content = parse_yaml(file.read_text("utf-8"), str(file))
    return TypeAdapter(Published).validate_python(content)


@cache
def entries() -> Mapping[tuple[str, str], Entry]:
    """Every model with public weights on every benchmark that it has a figure of, by both names."""
    found: dict[tuple[str, str], Entry] = {}
    for table in published().tables.values():
        for name, row in table.rows.items():
            model = published().models[name]
            for place, benchmark in enumerate(table.columns if model.source else ()):
                known = found.get((name, benchmark))
                asked = known.asked if known else table.asked_of(name, benchmark)
                figures = (*(known.figures if known else ()), *_figures(table, row, place))
                found[name, benchmark] = Entry(name, model, benchmark, asked, figures)
    return found


def find(name: str, benchmark: str) -> Entry:
    """The entry of a model on a benchmark; raises ``ConfigError`` that says what there is."""
    if (name, benchmark) in entries():
        return entries()[name, benchmark]
    if of_model := [benchmark for own, benchmark in entries() if own == name]:
        hint = did_you_mean(benchmark, of_model)
        raise ConfigError(f"no published figure of {name} on {benchmark!r}; {hint}")
    hint = did_you_mean(name, dict.fromkeys(own for own, _ in entries()))
    raise ConfigError(f"no published figures of a model {name!r} with public weights; {hint}")


def _figures(table: Table, row: tuple[float, ...], place: int) -> Iterator[Figure]:
    yield Figure(row[-1] if table.tasks else row[place], table)
    for task, value in zip(table.tasks, row, strict=False):
        yield Figure(value, table, task)
