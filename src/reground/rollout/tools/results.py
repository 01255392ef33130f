"""Tools that answer with boxes that are there already, and the file in which a tool's are kept.

The first row of that JSONL names the tool and its settings. Each other is about one sample, by its
id and the SHA-256 of what it asks: ``boxes`` in original pixels with label and score, or the
``problem`` for which there are none. Rows are appended as they come, and a sample's last one
counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from reground.errors import DataError, RunError, UserError
from reground.grounding.sample import Detection, Sample, digest
from reground.io import append_jsonl, drop_unfinished_line, read_jsonl
from reground.patience import Patience
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, Tool, ToolError, clean, from_rows, to_rows

TOOL_RESULTS = "tool_results.jsonl"

_Rows = dict[str, Mapping[str, Any]]  # by SHA-256 of the sample


class Precomputed:
    """Answers with the ``tool_results`` of the sample that is asked about."""

    name = "precomputed"
    settings = "tool_results"
    by_image = False  # two samples about one image have boxes of their own

    def detect(self, requests: Sequence[Request]) -> list[tuple[Detection, ...] | ToolError]:
        """The stored boxes in each sample's target image, whatever the expression."""
        return [_stored(request.sample) for request in requests]


def check(samples: Iterable[Sample]) -> None:
    """Raise ``DataError`` that names the first sample without stored boxes."""
    for sample in samples:
        if isinstance(found := _stored(sample), ToolError):
            raise DataError(str(found))


def result(sample: Sample) -> tuple[Detection, ...] | None:
    """The reply that a runner before :class:`Precomputed` gives; None for one with a problem."""
    found = _stored(sample)
    return None if isinstance(found, ToolError) else clean(found, sample, Counter())


def _stored(sample: Sample) -> tuple[Detection, ...] | ToolError:
    if sample.tool_results is None:
        return ToolError(
            f"sample {sample.id!r} has no tool_results, which the tool 'precomputed' reads; "
            "fill them in with `reground tool run`, or leave the sample out"
        )
    return sample.detections


@dataclass(frozen=True, slots=True)
class Recorded:
    """A tool that answers with the results in the file ``name``, whose SHA-256 is ``settings``."""

    name: str
    settings: str
    rows: _Rows
    by_image = False

    @classmethod
    def of(cls, path: Path, samples: Iterable[Sample]) -> Recorded:
        """Raises ``DataError`` where there is no such file or it says nothing of a sample."""
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; expected a {TOOL_RESULTS} of `reground eval`",
                help="boxes-of-a-detector-that-are-missing",
            )
        _, rows = _read(path)
        for sample in samples:
            if digest([sample]) not in rows:
                raise DataError(
                    f"{path}: holds no result for sample {sample.id!r}, as it is asked now; use "
                    "the data that the tool was asked about, or ask it again",
                    help="boxes-of-a-detector-that-are-missing",
                )
        return cls(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), rows)

    def detect(self, requests: Sequence[Request]) -> list[tuple[Detection, ...] | ToolError]:
        """The stored boxes of each sample, whatever the expression."""
        found = [_filled(request.sample, self.rows) for request in requests]
        return [
            ToolError(each.problem) if each.problem is not None else each.sample.detections
            for each in found
        ]


@dataclass(frozen=True, slots=True)
class Filled:
    """A sample with a tool's boxes; where it gave none there are no ``tool_results``, but why.

    No result is not the same as no box: a sample that keeps None is refused by ``precomputed``.
    """

    sample: Sample
    problem: str | None


def fill(samples: Sequence[Sample], runner: ToolRunner, *, path: Path | None) -> Iterator[Filled]:
    """Each sample with what the tool says to its question; a bar shows how far it is.

    Results are kept in ``path``: what has one there is not asked again, what failed is. Boxes that
    are stored already (``Precomputed``, ``Recorded``) are not stored twice. Raises ``UserError``
    where too many samples in a row got no answer, ``RunError`` where ``path`` is another tool's.
    """
    if isinstance(runner.tool, Precomputed | Recorded):
        path = None
    rows = _begun(path, runner.tool) if path else {}
    patience = Patience("samples", "the tool", UserError)
    starts = range(0, len(samples), runner.batch_size)
    for start in track(starts, "asking", console=Console(stderr=True), transient=True):
        part = samples[start : start + runner.batch_size]
        known = {sample.id: _filled(sample, rows) for sample in part}
        asked = [sample for sample in part if known[sample.id].problem is not None]
        replies = runner.ask([Request(sample, sample.question) for sample in asked])
        for sample, reply in zip(asked, replies, strict=True):
            known[sample.id] = Filled(replace(sample, tool_results=reply.result), reply.problem)
        if path:
            append_jsonl(path, *(_row(known[sample.id]) for sample in asked))
        yield from known.values()
        for reply in replies:
            patience.note(reply.problem)


def results_digest(samples: Iterable[Sample]) -> str | None:
    """SHA-256 of the boxes, labels and scores that tools gave for samples, in whatever order.

    None where no sample has a result.
    """
    rows = sorted(
        json.dumps([sample.id, *to_rows(sample.tool_results)])
        for sample in samples
        if sample.tool_results is not None
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest() if rows else None


def _begun(path: Path, tool: Tool) -> _Rows:
    """What a file of this tool's results holds already; begins one where there is none."""
    head = {"tool": tool.name, "settings": tool.settings}
    if not (path.exists() and drop_unfinished_line(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        append_jsonl(path, head)
        return {}
    found, rows = _read(path)
    if found != head:
        raise RunError(
            f"{path}: holds the results of another tool ({found} there, {head} here); "
            "choose another --out, or delete that file"
        )
    return rows


def _read(path: Path) -> tuple[Mapping[str, Any], _Rows]:
    """The first row of a file of results, and the others."""
    with suppress(DataError, KeyError, TypeError, ValueError):
        head, *rows = read_jsonl(path, dict)
        if {"tool", "settings"} == set(head):
            return head, {row["sha256"]: row for row in rows}
    raise DataError(f"{path}: is no file of tool results; expected a {TOOL_RESULTS} as it was made")


def _row(filled: Filled) -> dict[str, Any]:
    sample = filled.sample
    row: dict[str, Any] = {"id": sample.id, "sha256": digest([sample])}
    if sample.tool_results is None:
        return row | {"problem": filled.problem}
    return row | {"boxes": to_rows(sample.tool_results)}


def _filled(sample: Sample, rows: _Rows) -> Filled:
    """The sample as ``rows`` fill it."""
    row = rows.get(digest([sample]), {})
    boxes = from_rows(row.get("boxes"), sample)
    problem = None if boxes is not None else row.get("problem") or "it has no result"
    return Filled(replace(sample, tool_results=boxes), problem)
