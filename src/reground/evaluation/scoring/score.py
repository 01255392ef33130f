"""Step two of an evaluation: predictions -> scores. Pure: no model, and no image is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from reground.errors import ConfigError, DataError
from reground.evaluation.records import (
    PREDICTIONS,
    RUN,
    Draw,
    Prediction,
    RunInfo,
    SampleScore,
    predictions_by,
    read_predictions,
    read_run,
    score_lines,
    with_provenance,
    write_score_lines,
)
from reground.evaluation.scoring.diagnose import describe, diagnose
from reground.evaluation.scoring.logs import read_log
from reground.evaluation.scoring.peers import get_peer
from reground.evaluation.scoring.peers.peer import NO_BOX, Peer, Task
from reground.evaluation.scoring.sampled import agreement, vote
from reground.grounding.answers import Status
from reground.grounding.answers import score as overlap
from reground.grounding.confidence import unless_unsure
from reground.grounding.sample import digest
from reground.io import without_collection
from reground.protocols.families import get_family
from reground.protocols.protocol import AnswerProtocol, get_protocol

OURS = "reground"

_LOG = logging.getLogger(__name__)


class Gatherer(Protocol):
    """Takes scores in as they are made, some of them in another process."""

    def add(self, score: SampleScore) -> None:
        """Take a score in."""

    def another(self) -> Self:
        """One for some of the scores, which :meth:`take` then gets."""

    def take(self, other: Self) -> None:
        """Take in what another one did, of later scores."""


Begin = Callable[[RunInfo], Gatherer]
"""Is told how scores are made, and gives what takes them in."""


def score_folder(
    predictions: Path,
    *,
    out: Path,
    scorer: str = OURS,
    min_score: float | None = None,
    begin: Begin | None = None,
    workers: int | None = None,
) -> int:
    """Score the predictions of a folder into ``out`` (scores.jsonl, run.json); returns how many.

    All cores work on a large file, or so many ``workers``.
    An answer with a box that is less sure than ``min_score`` is an abstention. Raises ``DataError``
    for a missing or malformed file, and where no box has a score to ask for; ``ConfigError`` for an
    unknown family or scorer, and for a ``min_score`` where another's rules read the answers.
    """
    run = read_run(predictions)
    if min_score is not None:
        if scorer != OURS:
            raise ConfigError("--min-score is for --scorer reground; others know no abstention")
        _check_scored(predictions)
        run = replace(run, min_score=min_score)
    own = _Scorer.of(run, out, scorer, begin)
    return own.write(predictions_by(predictions, own.scored, workers=workers))


def score_log(
    path: Path, *, format_name: str, out: Path, scorer: str = OURS, begin: Begin | None = None
) -> int:
    """Score answers that another project stored, as :func:`score_folder` does predictions."""
    log = read_log(path, format_name=format_name)
    run = RunInfo(
        model=path.stem,
        family=log.family,
        protocol=get_family(log.family).protocol,
        protocol_by="family",
        data=f"{format_name} {path}",
        data_sha256=digest(row.sample for row in log.predictions),
        num_samples=len(log.predictions),
        seed=0,
        limit=None,
        temperature=0.0,
        max_new_tokens=0,
    )
    own = _Scorer.of(with_provenance(run), out, log.scorers.get(scorer, scorer), begin)
    return own.write([own.scored(log.predictions)])


def diagnose_folder(predictions: Path) -> str:
    """What :func:`diagnose` finds in the predictions of a folder, for a person to read."""
    run = read_run(predictions)
    return describe(diagnose(list(read_predictions(predictions)), run.protocol_for))


def diagnose_log(path: Path, *, format_name: str) -> str:
    """What :func:`diagnose` finds in stored answers, and in the boxes recorded with them."""
    log = read_log(path, format_name=format_name)
    own, numbers = get_protocol(log.family), get_protocol(log.family, "piter")  # lists of numbers
    answers = describe(diagnose(log.predictions, lambda _: own))
    recorded = describe(diagnose(log.recorded, lambda _: numbers))
    return f"answers\n{answers}\nrecorded boxes\n{recorded}"


@dataclass(frozen=True, slots=True)
class _Scored:
    """Some scores, as lines and taken in."""

    lines: list[bytes]
    gathered: Gatherer | None


@dataclass(frozen=True, slots=True)
class _Scorer:
    """How the answers of a run are scored into ``out``; ``gathered`` takes all scores in."""

    run: RunInfo
    out: Path
    peer: Peer | None
    gathered: Gatherer | None

    @classmethod
    def of(cls, run: RunInfo, out: Path, scorer: str, begin: Begin | None) -> _Scorer:
        get_family(run.family)
        peer = None if scorer == OURS else get_peer(scorer)
        if peer:
            run = replace(run, scorer=peer.name, hit=">" if peer.strict else ">=")
        _check_folder(out, run)
        return cls(run, out, peer, begin(run) if begin else None)

    def scored(self, rows: Iterable[Prediction]) -> _Scored:
        """The scores of some answers; nothing here changes."""
        gathered = self.gathered.another() if self.gathered else None

        def scores() -> Iterator[SampleScore]:
            for row in rows:
                score = self._score(row)
                if gathered:
                    gathered.add(score)
                yield score

        return _Scored([*score_lines(self.out, scores())], gathered)

    def write(self, parts: Iterable[_Scored]) -> int:
        """Write scores, one part after the other, and take them in."""

        def lines() -> Iterator[bytes]:
            for part in parts:
                if self.gathered and part.gathered:
                    self.gathered.take(part.gathered)
                yield from part.lines

        with without_collection():
            return write_score_lines(self.out, lines(), run=self.run)

    def _score(self, row: Prediction) -> SampleScore:
        if self.peer:
            return _by_peer(row, self.peer)
        protocol = self.run.protocol_for(row.sample)
        return score_prediction(row, protocol, min_score=self.run.min_score)


def _check_scored(folder: Path) -> None:
    if not any(row.scores for row in read_predictions(folder)):
        raise DataError(
            f"{folder}: no box has a score, so --min-score cannot choose; predict again, in "
            "process or with a server that gives log-probs"
        )


def _check_folder(out: Path, run: RunInfo) -> None:
    """Scores by other rules must not change how the predictions beside them are described."""
    if not (out / RUN).exists() or read_run(out) == run:
        return
    if (out / PREDICTIONS).exists():
        raise DataError(
            f"{out}: holds predictions of another run or by another scorer; choose another --out",
            help="a-folder-that-is-taken",
        )
    _LOG.warning("%s: the scores of another run or scorer are replaced", out)


def _by_peer(prediction: Prediction, peer: Peer) -> SampleScore:
    """One prediction's score by a peer's rules."""
    sample = prediction.sample
    if prediction.error is not None:
        return SampleScore(sample, error=prediction.error)
    if prediction.others:
        raise DataError(
            f"sample {sample.id!r} has {len(prediction.others) + 1} sampled answers, but "
            f"{peer.name} scores one; use --scorer reground"
        )
    return peer_score(prediction, peer)


def peer_score(answer: Prediction | SampleScore, peer: Peer) -> SampleScore:
    """What a peer's rules make of an answer to a sample with one true box.

    What gives a reward alone is scored by that. Raises ``DataError`` where the image that is asked
    about has another number of true boxes, and where the rules need a tool's boxes and there is
    none.
    """
    sample = answer.sample
    if len(sample.boxes) != 1:
        raise DataError(
            f"sample {sample.id!r} has {len(sample.boxes)} true boxes in the image that is asked "
            f"about, but {peer.name} scores one; use --scorer reground"
        )
    image = sample.images[sample.target_image]
    if peer.needs_tool and sample.tool_results is None:
        raise DataError(
            f"sample {sample.id!r} has no boxes of a tool, against which {peer.name} measures; "
            "score predictions that have them, or choose another --scorer"
        )
    tool = sample.detections
    first = tool[0].box.xyxy if tool else None
    task = Task(sample.boxes[0].xyxy, image.width, image.height, first)
    verdict = peer.judge(answer.text, task)
    x1, y1, x2, y2 = peer.in_pixels(verdict.box or NO_BOX, task)[:4]
    iou = verdict.reward if verdict.iou is None else verdict.iou
    return SampleScore(
        sample,
        status=Status.OK if verdict.found or iou else Status.UNPARSABLE,
        iou=iou or 0.0,
        predicted=((x1, y1, x2, y2),),
        num_tokens=answer.num_tokens,
        finish=answer.finish,
        text=answer.text,
    )


def score_prediction(
    prediction: Prediction, protocol: AnswerProtocol, *, min_score: float | None = None
) -> SampleScore:
    """One prediction's score; the answer is read as ``protocol`` writes it.

    An answer that names another image than the sample's target scores IoU 0, however its box lies.
    Of several answers, the one they vote for counts; it is an abstention where one of its boxes is
    less sure than ``min_score``.
    """
    sample = prediction.sample
    if prediction.error is not None or prediction.finish is None:
        return SampleScore(sample, error=prediction.error)
    drawn: tuple[Prediction | Draw, ...] = (prediction, *prediction.others)
    answers = [protocol.read(own.text, prediction.sizes[sample.target_image]) for own in drawn]
    ious = tuple(overlap(answer, sample) for answer in answers)
    place = vote(answers)
    chosen, answer = drawn[place], unless_unsure(answers[place], drawn[place].scores, min_score)
    has_scores = len(chosen.scores) == len(answer.boxes)  # else another reader measured them
    return SampleScore(
        sample,
        status=answer.status,
        iou=None if answer.status is Status.ABSTAINED else ious[place],
        predicted=tuple(box.xyxy for box in answer.boxes),
        named_image=answer.image_index,
        well_formed=answer.well_formed,
        num_clipped=answer.num_clipped,
        num_tokens=chosen.num_tokens,
        finish=chosen.finish,
        text=chosen.text,
        think=answer.think,
        rethink=answer.rethink,
        draws=ious if prediction.others else (),
        scores=chosen.scores if has_scores else (),
        agreement=agreement(answers, place) if answer.boxes else None,
    )
