"""What a tool said to samples, computed once and kept in a JSONL of its own.

Its first row names the tool and its settings. Each other is about one sample, by its id and the
SHA-256 of what it asks: ``boxes`` in original pixels with label and score, or the ``problem`` for
which there are none. Rows are appended as they come, and a sample's last one counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reground.errors import DataError, RunError, UserError
from reground.grounding.sample import Detection, Sample, digest
from reground.patience import Patience
from reground.rollout.tools.cache import from_rows, to_rows
from reground.rollout.tools.precomputed import Precomputed
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, Tool, ToolError

TOOL_RESULTS = "tool_results.jsonl"

_Rows = dict[str, dict[str, Any]]  # by SHA-256 of the sample


@dataclass(frozen=True, slots=True)
class Filled:
    """A sample with a tool's boxes; where it gave none there are no ``tool_results``, but why.

    No result is not the same as no box: a sample that keeps None is refused by ``precomputed``.
    """

    sample: Sample
    problem: str | None


def fill(
    samples: Sequence[Sample], runner: ToolRunner, *, at_a_time: int, path: Path | None
) -> Iterator[Filled]:
    """Each sample with what the tool says to its question, ``at_a_time`` asked together.

    Results are kept in ``path``: what has one there is not asked again, what failed is. Boxes that
    are stored already (``Precomputed``, ``Recorded``) are not stored twice. Raises ``UserError``
    where too many samples in a row got no answer, ``RunError`` where ``path`` is another tool's.
    """
    stored = isinstance(runner.tool, Precomputed | Recorded)
    file = _ResultsFile(None if stored else path, runner.tool)
    patience = Patience("samples", "the tool", UserError)
    for start in range(0, len(samples), at_a_time):
        part = samples[start : start + at_a_time]
        known = {sample.id: _filled(sample, file.rows) for sample in part}
        asked = [sample for sample in part if known[sample.id].problem is not None]
        replies = runner.ask([Request(sample, sample.question) for sample in asked])
        for sample, reply in zip(asked, replies, strict=True):
            boxes = reply.detections if reply.problem is None else None
            filled = Filled(replace(sample, tool_results=boxes), reply.problem)
            known[sample.id] = filled
            file.add(filled)
        for sample in part:
            yield known[sample.id]
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


@dataclass(frozen=True, slots=True)
class Recorded:
    """A tool that answers with the results in the file ``path``.

    ``settings`` is the SHA-256 of the file.
    """

    path: Path
    settings: str
    rows: _Rows

    @classmethod
    def of(cls, path: Path, samples: Iterable[Sample]) -> Recorded:
        """Raises ``DataError`` where there is no such file or it says nothing of a sample."""
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected a {TOOL_RESULTS} of `reground eval`")
        content = path.read_bytes()
        _, rows = _read(path, content)
        for sample in samples:
            if digest([sample]) not in rows:
                raise DataError(
                    f"{path}: holds no result for sample {sample.id!r}, as it is asked now; use "
                    "the data that the tool was asked about, or ask it again"
                )
        return cls(path, hashlib.sha256(content).hexdigest(), rows)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def by_image(self) -> bool:
        """False: results are those of samples."""
        return False

    def detect(self, requests: Sequence[Request]) -> list[tuple[Detection, ...] | ToolError]:
        """The stored boxes of each sample, whatever the expression."""
        found = [_filled(request.sample, self.rows) for request in requests]
        return [
            ToolError(each.problem) if each.problem is not None else each.sample.detections
            for each in found
        ]


class _ResultsFile:
    """Results in a file, if there is a ``path``, which are added one by one."""

    def __init__(self, path: Path | None, tool: Tool) -> None:
        self._path = path
        self._head = {"tool": tool.name, "settings": tool.settings}
        self.rows: _Rows = {}
        self._begun = False
        if path and path.exists():
            content = path.read_bytes()
            content = content[: content.rfind(b"\n") + 1]  # a killed run leaves half a row
            head, self.rows = _read(path, content) if content else (self._head, {})
            if head != self._head:
                raise RunError(
                    f"{path}: holds the results of another tool ({head} there, {self._head} here); "
                    "choose another --out, or delete that file"
                )
            with path.open("rb+") as file:
                file.truncate(len(content))
            self._begun = bool(content)

    def add(self, filled: Filled) -> None:
        if self._path is None:
            return
        sample = filled.sample
        row: dict[str, Any] = {"id": sample.id, "sha256": digest([sample])}
        if sample.tool_results is None:
            row["problem"] = filled.problem
        else:
            row["boxes"] = to_rows(sample.tool_results)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as out:
            for each in [row] if self._begun else [self._head, row]:
                out.write(json.dumps(each) + "\n")
        self._begun = True


def _filled(sample: Sample, rows: _Rows) -> Filled:
    """The sample as ``rows`` fill it."""
    row = rows.get(digest([sample]), {})
    boxes = from_rows(row.get("boxes"), sample)
    problem = None if boxes is not None else row.get("problem") or "it has no result"
    return Filled(replace(sample, tool_results=boxes), problem)


def _read(path: Path, content: bytes) -> tuple[dict[str, Any], _Rows]:
    """The first row of a file of results, and the others."""
    try:
        head, *rows = [json.loads(line) for line in content.splitlines()]
        named = {"tool", "settings"} == set(head)
        if named:
            return head, {row["sha256"]: row for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{path}: is no file of tool results; expected a {TOOL_RESULTS} as it was made")
