"""Texts with their truth, one a line, scored by anybody's rules: what a scorer makes of each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.errors import ConfigError, DataError
from reground.evaluation.scoring.peers import get_peer
from reground.evaluation.scoring.peers.peer import Peer, Quad, Task
from reground.evaluation.scoring.score import OURS
from reground.grounding.answers import RIGHT, Answer, Status
from reground.grounding.answers import score as overlap
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target
from reground.io import json_line, read_jsonl, whole, write_json, write_lines
from reground.protocols.protocol import AnswerProtocol, get_protocol

_EXPECTED = 'a JSONL of {"text", "width", "height", "truth": [x1, y1, x2, y2]} in pixels'
Rule = Callable[["Case"], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """A text, and what it is scored against. ``has_tool`` says that the row names a tool's box."""

    text: str
    task: Task
    has_tool: bool

    @classmethod
    def of(cls, row: Any) -> Case:
        """From a row's JSON; raises ``DataError`` for one that is not as expected."""
        if not isinstance(row, dict):
            raise DataError(f"found {type(row).__name__}, expected {_EXPECTED}")
        missing = [name for name in ("text", "width", "height", "truth") if name not in row]
        if missing:
            raise DataError(f"no {', '.join(map(repr, missing))}; expected {_EXPECTED}")
        if not isinstance(row["text"], str):
            raise DataError(f"'text' is {row['text']!r}, expected a string")
        tool = row.get("tool")
        task = Task(
            _box(row["truth"], "truth"),
            _number(row["width"], "width", positive=True),
            _number(row["height"], "height", positive=True),
            None if tool is None else _box(tool, "tool"),
        )
        return cls(row["text"], task, "tool" in row)


def score_cases(path: Path, *, out: Path, scorer: str, family: str | None = None) -> dict[str, Any]:
    """Score every text of a JSONL into ``out``: scores.jsonl, and the means in report.json.

    Returns the means. ``scorer`` is a peer's name, or reground with the ``family`` in whose form
    the texts are. Raises ``DataError`` naming the line of a bad row, ``ConfigError`` for a scorer
    or family that is not known; nothing is then written.
    """
    rule = _rule(scorer, family)
    advice = "mend the row"
    rows = read_jsonl(path, lambda row: rule(Case.of(row)), expected=_EXPECTED, advice=advice)
    found = list(rows)
    if not found:
        raise DataError(f"{path}: no rows; expected {_EXPECTED}")
    means = {"n": len(found)} | {
        name: _mean([row[key] for row in found if key in row])
        for name, key in (("acc@0.5", "hit"), ("mean_iou", "iou"), ("reward", "reward"))
    }
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "scores.jsonl") as partial:
        write_lines(partial, map(json_line, found))
    about = {"cases": str(path), "scorer": scorer, "family": family}
    write_json(out / "report.json", about | means)
    return means


def _rule(scorer: str, family: str | None) -> Rule:
    if scorer != OURS:
        if family:
            raise ConfigError(f"--family is for scorer reground; {scorer} reads by its own rule")
        peer = get_peer(scorer)
        return lambda case: _by_peer(case, peer)
    if family is None:
        raise ConfigError("scorer reground reads what a family writes; give --family NAME")
    protocol = get_protocol(family)
    return lambda case: _by_us(case, protocol)


def _by_peer(case: Case, peer: Peer) -> dict[str, Any]:
    if peer.needs_tool and not case.has_tool:
        raise DataError(
            f"no 'tool', against which {peer.name} measures: expected its box or null "
            "in each row, or another --scorer"
        )
    verdict = peer.judge(case.text, case.task)
    row: dict[str, Any] = {
        "predicted": _finite(verdict.box),
        "iou": verdict.iou,
        "hit": peer.hit(verdict),
    }
    if verdict.reward is not None:
        row |= {"reward": verdict.reward, "format": verdict.form}
    if verdict.tool_iou is not None:
        row["tool_iou"] = verdict.tool_iou
    return row


def _by_us(case: Case, protocol: AnswerProtocol) -> dict[str, Any]:
    task = case.task
    width, height = round(task.width), round(task.height)
    image = ImageRef("image", width, height)
    answer = protocol.read(case.text, EncodedSize(width, height, width, height))
    x1, y1, x2, y2 = task.truth
    target = Target(0, Box(x1, y1, x2, y2, image.frame))
    iou = overlap(answer, Sample("case", (image,), "case", (target,), "case"))
    return {
        "predicted": _predicted(answer),
        "iou": iou,
        "hit": iou > RIGHT,
        "status": answer.status.value,
    }


def _predicted(answer: Answer) -> Any:
    """The box of an answer; of several, all of them."""
    if answer.status is not Status.OK:
        return None
    boxes = [list(box.xyxy) for box in answer.boxes]
    return boxes[0] if len(boxes) == 1 else boxes


def _finite(box: Quad | None) -> list[Any] | None:
    """What JSON can hold of a box, as it was read: VG-Refiner's reward tells texts, too."""
    values: list[Any] = list(box or ())
    odd = any(isinstance(value, float) and not math.isfinite(value) for value in values)
    return None if box is None or odd else values


def _box(value: Any, name: str) -> Quad:
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{name!r} is {value!r}, expected [x1, y1, x2, y2] in pixels")
    return tuple(_number(each, name) for each in value)


def _number(value: Any, name: str, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name!r} holds {value!r}, expected numbers")
    if positive and value <= 0:
        raise DataError(f"{name!r} is {value!r}, expected a side in pixels")
    return value


def _mean(values: list[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return statistics.fmean(known) if known else None
