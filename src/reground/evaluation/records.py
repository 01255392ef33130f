"""The files between the steps of an evaluation: predictions.jsonl, scores.jsonl and run.json.

A folder holds one run: ``run.json`` (how it was made) and, beside it, ``predictions.jsonl`` (what
the model wrote) or ``scores.jsonl`` (what that is worth). Relative image paths in both are relative
to the file's folder, as in every JSONL of ReGround.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

from pydantic import (
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    SerializationInfo,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)

from reground.data.images import split_view
from reground.data.source import paths_from
from reground.errors import DataError, UserError
from reground.grounding.answers import Status
from reground.grounding.codecs import EncodedSize
from reground.grounding.names import ProtocolName
from reground.grounding.paths import Move, by_folder
from reground.grounding.sample import Sample
from reground.io import at, numbered_lines, whole, write_json, write_lines
from reground.parallel import batches, mapped, workers_for
from reground.protocols.choice import Decider, PromptUse, protocol_of
from reground.protocols.families import get_family
from reground.protocols.protocol import AnswerProtocol, make_protocol
from reground.provenance import Provenance, provenance

PREDICTIONS = "predictions.jsonl"
SCORES = "scores.jsonl"
RUN = "run.json"
JOURNAL = "answers.jsonl"  # of a run that is not finished

Finish = Literal["stop", "length", "no_call", "tool_failed", "unrecorded"]
XYXY = tuple[float, float, float, float]  # left, upper, right, lower in original pixels
Scores = tuple[float | None, ...]
"""Of each box that a text spells, in [0, 1], to four decimals; none where nobody measured them.

What is computed beside them changes the digits after, and so two answers are equal without them.
"""


def _sample(value: Any, info: ValidationInfo) -> Sample:
    if not isinstance(value, dict):
        raise DataError(f"'sample' is {value!r}, expected an object as Sample.to_json makes it")
    return Sample.from_json(value, placed=info.context)


def _row(sample: Sample, info: SerializationInfo) -> dict[str, Any]:
    return sample.to_json(named=info.context or str)


_STRICT = ConfigDict(extra="forbid")
_SampleField = Annotated[Sample, PlainValidator(_sample), PlainSerializer(_row)]
_Row = TypeVar("_Row", "Prediction", "SampleScore")
_Kind = TypeVar("_Kind")
_Result = TypeVar("_Result")
_AT_ONCE = 500  # predictions that a process works on before it says what became of them


def to_keep(scores: Scores) -> Scores:
    """Scores as records hold them."""
    return tuple(None if score is None else round(score, 4) for score in scores)


@dataclass(frozen=True, slots=True)
class Draw:
    """One answer of several that were sampled for the same question."""

    text: str
    num_tokens: int | None
    finish: Finish
    scores: Scores = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model wrote for one sample, or the ``error`` because of which it wrote nothing.

    ``sizes`` holds one entry per image of the sample: the size at which it was encoded.
    ``num_tokens`` is None where nobody counted them. ``scores`` say how sure the model was of each
    box in the text. Where several answers were sampled, ``others`` are all but the first.
    ``finish`` is "length" where the answer was cut off at the token limit; "no_call" where the
    model never asked for the detector's result that was there, "tool_failed" where it asked and
    there was none. Raises ``DataError`` where sizes or finish are missing although there is no
    error.
    """

    __pydantic_config__ = _STRICT

    sample: _SampleField
    text: str = ""
    sizes: tuple[EncodedSize, ...] = ()
    num_tokens: int | None = None
    finish: Finish | None = None
    error: str | None = None
    others: tuple[Draw, ...] = ()
    scores: Scores = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.error is None and self.finish is None:
            raise DataError(
                f"prediction for {self.sample.id!r}: neither finish nor error is given; "
                "expected finish 'stop' or 'length', or the error that prevented an answer"
            )
        if self.error is None and len(self.sizes) != len(self.sample.images):
            raise DataError(
                f"prediction for {self.sample.id!r}: {len(self.sizes)} encoded sizes for "
                f"{len(self.sample.images)} images; record the size of every encoded image"
            )


@dataclass(frozen=True, slots=True)
class SampleScore:
    """What one prediction is worth, with all that a report shows of it.

    ``predicted`` are the parsed boxes in original pixels of the sample's target image;
    ``named_image`` is the image that the answer names, if it names one. Where several answers were
    sampled, ``draws`` are the IoU of each, and the row is that of the one they vote for, whose
    mean IoU with the others is ``agreement``. ``scores`` are those of the predicted boxes. Where
    ``error`` is set the sample was never answered, and ``status`` is None; where ``status`` is
    abstained the answer was less sure than asked for. Such a row has no ``iou``, and no mean counts
    it. Raises ``DataError`` for a row that is neither scored nor unscored.
    """

    __pydantic_config__ = _STRICT

    sample: _SampleField
    status: Status | None = None
    iou: float | None = None
    predicted: tuple[XYXY, ...] = ()
    named_image: int | None = None
    well_formed: bool | None = None
    num_clipped: int | None = None
    num_tokens: int | None = None
    finish: Finish | None = None
    text: str = ""
    think: str | None = None
    rethink: str | None = None
    error: str | None = None
    draws: tuple[float, ...] = ()
    scores: Scores = ()
    agreement: float | None = None

    def __post_init__(self) -> None:
        is_unanswered = self.error is not None
        if (self.status is None) != is_unanswered or (self.iou is None) == self.counts:
            raise DataError(
                f"score of {self.sample.id!r}: a row has either status and iou, or an error; "
                "score the predictions again"
            )

    @property
    def counts(self) -> bool:
        """Whether means count it: it was answered, and surely enough."""
        return self.status not in (None, Status.ABSTAINED)

    @property
    def cluster(self) -> str:
        """The target image's file: scores of questions about one photo are not independent.

        Views of one photo (``#view=``) are of one cluster.
        """
        return split_view(self.sample.images[self.sample.target_image].path)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """How predictions were made: what is needed to make them again.

    ``protocol`` is that of every sample that names none, and of all where ``protocol_by``, who
    decided it, is a flag; with ``zoom`` and ``max_calls`` it says how an answer came about.
    ``prompts`` are the profiles of the protocols that samples were asked under, because a prompt
    alone can move the accuracy of one model from 15 % to 82 %. ``data`` is a JSONL's path, a
    benchmark's name, ``synth:TASK`` or the answers that another project stored; ``num_samples`` of
    it are asked, whose digest is ``data_sha256`` (``file_sha256`` is that of a benchmark's own
    file), and ``shard`` (as "2/4") of those here. ``weights`` is the SHA-256 of the model's weight
    files or a hub commit; an ``endpoint`` does not tell its own, and has no ``engine``. ``tool``
    was asked about every sample first; ``tool_sha256`` is the digest of the boxes that samples have
    of a tool (``results_digest``), of this one or of the one that filled the data. ``scorer`` read
    the answers; one with a box below ``min_score`` is an abstention. Acc@t counts IoU ``hit`` t;
    ``authors_scorer`` is that of the benchmark's authors, whose figures a report shows beside ours.
    ``made`` says with what code, libraries and precision.
    """

    __pydantic_config__ = _STRICT

    model: str
    weights: str | None = None
    endpoint: str | None = None
    engine: str | None = None
    family: str
    protocol: ProtocolName
    protocol_by: Decider
    prompts: Mapping[ProtocolName, PromptUse] = field(default_factory=dict)
    zoom: bool = False
    max_calls: int = 1
    data: str
    data_sha256: str
    file_sha256: str | None = None
    num_samples: int
    seed: int
    limit: int | None
    shard: str | None = None
    tool: str | None = None
    tool_sha256: str | None = None
    temperature: float
    draws: int = 1  # sampled answers to each question
    max_new_tokens: int
    min_pixels: int | None = None
    max_pixels: int | None = None
    scorer: str = "reground"
    min_score: float | None = None
    authors_scorer: str | None = None
    hit: Literal[">", ">="] = ">"
    made: Provenance | None = None

    def protocol_for(self, sample: Sample) -> AnswerProtocol:
        """How the answer to ``sample`` is read; raises ``ConfigError`` for an unknown family."""
        name = protocol_of(sample, self.protocol, self.protocol_by)
        return _reader(self.family, name, self.zoom, self.max_calls)


@cache
def _reader(family: str, name: ProtocolName, zoom: bool, max_calls: int) -> AnswerProtocol:
    return make_protocol(get_family(family), name, zoom=zoom, max_calls=max_calls)


def differing(one: RunInfo, other: RunInfo, *, apart_from: Collection[str]) -> list[str]:
    """The names of the fields in which two runs differ, in alphabetical order, but for some.

    Of ``made`` the precision counts alone.
    """
    names = sorted({field.name for field in fields(RunInfo)}.difference(apart_from, ["made"]))
    found = [name for name in names if getattr(one, name) != getattr(other, name)]
    dtypes = {run.made.dtype if run.made else None for run in (one, other)}
    return [*found, "made.dtype"] if len(dtypes) > 1 else found


def with_provenance(run: RunInfo, place: Mapping[str, str] = MappingProxyType({})) -> RunInfo:
    """The run with what makes it now; ``place`` are the model's device and dtype."""
    settings = _adapter(RunInfo).dump_python(
        replace(run, made=None, shard=None, endpoint=None), mode="json"
    )
    return replace(run, made=provenance(settings, **place))


def write_predictions(folder: Path, predictions: Iterable[Prediction], *, run: RunInfo) -> int:
    """Write ``run.json`` and ``predictions.jsonl`` into ``folder``, the latter whole or not at all.

    ``predictions`` may be a generator; returns how many were written.
    """
    adapter, move = _adapter(Prediction), _outwards(folder)
    return _write(folder, PREDICTIONS, (_line(row, adapter, move) for row in predictions), run=run)


def read_predictions(folder: Path, name: str = PREDICTIONS) -> Iterator[Prediction]:
    """Predictions of a folder, one after the other.

    Raises ``DataError`` naming file and line of a malformed row or a repeated sample, and where
    there is no row at all.
    """
    return _read(folder, name, adapter=_adapter(Prediction), made_by="reground eval")


def predictions_by(
    folder: Path, work: Callable[[Iterator[Prediction]], _Result], *, workers: int | None = None
) -> Iterator[_Result]:
    """What ``work`` makes of some predictions of a folder after the others.

    Of a large file all cores work on it, or so many ``workers``. Raises what
    :func:`read_predictions` raises.
    """
    if workers is None:
        path = folder / PREDICTIONS
        workers = workers_for(path.stat().st_size if path.is_file() else 0)
    return _worked(
        folder,
        PREDICTIONS,
        work,
        adapter=_adapter(Prediction),
        made_by="reground eval",
        at_once=_AT_ONCE,
        workers=workers,
    )


def prediction_line(prediction: Prediction, *, folder: Path) -> bytes:
    """A prediction as a line of a file in ``folder``."""
    return _line(prediction, _adapter(Prediction), _outwards(folder))


def write_scores(folder: Path, scores: Iterable[SampleScore], *, run: RunInfo) -> int:
    """Write ``run.json`` and ``scores.jsonl`` into ``folder``; returns how many rows."""
    return write_score_lines(folder, score_lines(folder, scores), run=run)


def score_lines(folder: Path, scores: Iterable[SampleScore]) -> Iterator[bytes]:
    """Scores as lines of a file in ``folder``."""
    adapter, move = _adapter(SampleScore), _outwards(folder)
    return (_line(score, adapter, move) for score in scores)


def write_score_lines(folder: Path, lines: Iterable[bytes], *, run: RunInfo) -> int:
    """:func:`write_scores` of scores that are lines already."""
    return _write(folder, SCORES, lines, run=run)


def read_scores(folder: Path) -> Iterator[SampleScore]:
    """Scores of a folder; raises ``DataError`` as :func:`read_predictions` does."""
    return _read(folder, SCORES, adapter=_adapter(SampleScore), made_by="reground score")


def read_run(folder: Path) -> RunInfo:
    """How the run in ``folder`` was made; raises ``DataError`` where run.json is missing or bad."""
    path = folder / RUN
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected the run.json that `reground eval` writes",
            help="unfinished-evaluations",
        )
    try:
        run: RunInfo = _adapter(RunInfo).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise DataError(f"{path}: {_explain(error)}; predict again, or mend the file") from None
    return run


def write_run(folder: Path, run: RunInfo) -> None:
    """Write ``run.json`` into ``folder``."""
    content: dict[str, Any] = _adapter(RunInfo).dump_python(run, mode="json")
    write_json(folder / RUN, content)


@cache
def _adapter(kind: type[_Kind]) -> TypeAdapter[_Kind]:
    return TypeAdapter(kind)


def _write(folder: Path, name: str, lines: Iterable[bytes], *, run: RunInfo) -> int:
    with whole(folder / name) as partial:
        count = write_lines(partial, lines)
        write_run(folder, run)
    return count


def _line(row: _Row, adapter: TypeAdapter[_Row], move: Move) -> bytes:
    return adapter.dump_json(row, exclude_none=True, context=move) + b"\n"


def _read(folder: Path, name: str, *, adapter: TypeAdapter[_Row], made_by: str) -> Iterator[_Row]:
    for rows in _worked(folder, name, list, adapter=adapter, made_by=made_by, at_once=1):
        yield from rows


@dataclass(frozen=True, slots=True)
class _Worked(Generic[_Result]):
    """What became of some lines: which samples were read, by their lines, up to an error if any."""

    ids: list[tuple[int, str]]
    result: _Result | None
    error: UserError | None


def _worked(
    folder: Path,
    name: str,
    work: Callable[[Iterator[_Row]], _Result],
    *,
    adapter: TypeAdapter[_Row],
    made_by: str,
    at_once: int,
    workers: int = 1,
) -> Iterator[_Result]:
    path, move = folder / name, _inwards(folder)
    if not path.is_file() and (folder / JOURNAL).exists():
        raise DataError(
            f"{folder}: an unfinished run; go on with the same `reground eval` first",
            help="unfinished-evaluations",
        )

    def parsed(lines: list[tuple[int, bytes]], ids: list[tuple[int, str]]) -> Iterator[_Row]:
        for number, line in lines:
            with at(f"{path}:{number}", f"run `{made_by}` again, or mend the row"):
                row = _parsed(line, adapter, move)
            ids.append((number, row.sample.id))
            yield row

    def own(lines: list[tuple[int, bytes]]) -> _Worked[_Result]:
        ids: list[tuple[int, str]] = []
        try:
            return _Worked(ids, work(parsed(lines, ids)), None)
        except UserError as error:
            return _Worked(ids, None, error)

    lines = numbered_lines(path, expected=f"a folder as `{made_by}` writes it")
    seen: set[str] = set()
    for found in mapped(own, batches(lines, at_once), workers=workers):
        for number, sample in found.ids:
            if sample in seen:
                raise DataError(
                    f"{path}:{number}: sample {sample!r} stands here twice; drop one row"
                )
            seen.add(sample)
        if found.error:
            raise found.error
        yield cast(_Result, found.result)
    if not seen:
        raise DataError(
            f"{path}: no rows; expected one for each sample, so run `{made_by}` again",
            help="unfinished-evaluations",
        )


def _parsed(line: bytes, adapter: TypeAdapter[_Row], move: Move) -> _Row:
    try:
        return adapter.validate_json(line, strict=True, context=move)
    except ValidationError as error:
        raise DataError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the row"
    return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _outwards(folder: Path) -> Move:
    """From paths of the working directory to those of ``folder``, where links really lead."""
    return _if_relative(paths_from(folder.resolve()))


def _inwards(folder: Path) -> Move:
    """The inverse."""
    base, here = os.path.realpath(folder), os.path.realpath(os.curdir)
    return _if_relative(by_folder(lambda path: os.path.relpath(os.path.join(base, path), here)))


def _if_relative(move: Move) -> Move:
    return lambda path: path if path.startswith("/") else move(path)
