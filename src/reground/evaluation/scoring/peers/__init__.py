"""Other projects' scorers, rule for rule, each in a module of its own; our score uses none of them.

Source: their public code, read for what it does, and checked against what it made of 10,300 texts
and against the answers that they stored.
"""

from __future__ import annotations

from reground.errors import ConfigError, did_you_mean
from reground.evaluation.scoring.peers.lmms_eval import LMMS_EVAL_BBOX_REC, LMMS_EVAL_GROUNDING
from reground.evaluation.scoring.peers.mig_bench import MIG_BENCH, MIGICIAN
from reground.evaluation.scoring.peers.peer import Peer
from reground.evaluation.scoring.peers.univg_r1 import (
    UNIVG_R1_REWARD,
    UNIVG_R1_REWARD_BARE,
    UNIVG_R1_ZERO_SHOT,
)
from reground.evaluation.scoring.peers.vg_refiner import (
    VG_REFINER,
    VG_REFINER_PRECOMPUTED,
    VG_REFINER_REWARD,
)
from reground.evaluation.scoring.peers.vlm_r1 import (
    VLM_R1,
    VLM_R1_BASELINE,
    VLM_R1_OVER_LINES,
    VLM_R1_REWARD,
)
from reground.evaluation.scoring.peers.vlmevalkit import VLMEVALKIT_REFCOCO

PEERS = {
    peer.name: peer
    for peer in (
        MIG_BENCH,
        MIGICIAN,
        UNIVG_R1_ZERO_SHOT,
        UNIVG_R1_REWARD,
        UNIVG_R1_REWARD_BARE,
        VLM_R1,
        VLM_R1_OVER_LINES,
        VLM_R1_BASELINE,
        VLM_R1_REWARD,
        VG_REFINER,
        VG_REFINER_PRECOMPUTED,
        VG_REFINER_REWARD,
        LMMS_EVAL_BBOX_REC,
        LMMS_EVAL_GROUNDING,
        VLMEVALKIT_REFCOCO,
    )
}


def get_peer(name: str) -> Peer:
    """The scorer called ``name``; raises ``ConfigError`` for an unknown name."""
    if name in PEERS:
        return PEERS[name]
    raise ConfigError(f"unknown scorer {name!r}; {did_you_mean(name, ['reground', *PEERS])}")
