"""The same answers by the rules of a benchmark's authors, which made the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reground.evaluation.records import RunInfo, SampleScore
from reground.evaluation.scoring.metrics import HITS, Hit
from reground.evaluation.scoring.peers import get_peer
from reground.evaluation.scoring.score import OURS, peer_score


@dataclass(frozen=True, slots=True)
class AuthorsScores:
    """Scores by the authors' ``scorer``, and how it compares an IoU with 0.5.

    ``left_out`` counts the samples that it cannot score: those without exactly one true box.
    """

    scorer: str
    rule: str
    scores: tuple[SampleScore, ...]
    left_out: int

    @property
    def hit(self) -> Hit:
        """Its comparison."""
        return HITS[self.rule]


def authors_scores(scores: Sequence[SampleScore], run: RunInfo) -> AuthorsScores | None:
    """Our ``scores`` made again by the authors' scorer of ``run``.

    None where nobody named one, where another project's scorer made ``scores``, and where several
    answers were sampled to each question.
    """
    if run.authors_scorer is None or run.scorer != OURS or run.draws > 1:
        return None
    peer = get_peer(run.authors_scorer)
    kept = [score for score in scores if len(score.sample.boxes) == 1]
    made = tuple(score if score.error else peer_score(score, peer) for score in kept)
    return AuthorsScores(
        peer.name, ">" if peer.strict else ">=", made, left_out=len(scores) - len(kept)
    )
