"""The same answers by the rules of a benchmark's authors, which made the published figures."""

from __future__ import annotations

from reground.evaluation.records import RunInfo, SampleScore
from reground.evaluation.scoring.columns import Collector
from reground.evaluation.scoring.peers import get_peer
from reground.evaluation.scoring.peers.peer import Peer
from reground.evaluation.scoring.score import OURS, peer_score


class Authors:
    """Makes scores again by the authors' scorer; counts those without exactly one true box."""

    def __init__(self, peer: Peer) -> None:
        self.scorer, self.rule = peer.name, ">" if peer.strict else ">="
        self.scores, self.left_out = Collector(), 0

    @classmethod
    def of(cls, run: RunInfo) -> Authors | None:
        """The one of ``run``.

        None where nobody named one, where another project's scorer made the scores, and where
        several answers were sampled to each question.
        """
        if run.authors_scorer is None or run.scorer != OURS or run.draws > 1:
            return None
        return cls(get_peer(run.authors_scorer))

    def add(self, score: SampleScore) -> None:
        """Take one of our scores in."""
        if len(score.sample.boxes) != 1:
            self.left_out += 1
        else:
            peer = get_peer(self.scorer)
            self.scores.add(peer_score(score, peer) if score.counts else score)

    def take(self, other: Authors) -> None:
        """Take in what another one did, of later scores."""
        self.scores.take(other.scores)
        self.left_out += other.left_out
