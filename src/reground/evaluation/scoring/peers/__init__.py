"""Other projects' scorers, rule for rule, each in a module of its own; our score uses none of them.

Source: their public code, read for what it does, and checked against the answers that they stored.
"""

from __future__ import annotations

from collections.abc import Iterable

from reground.errors import ConfigError, did_you_mean
from reground.evaluation.scoring.peers.lmms_eval import LMMS_EVAL_BBOX_REC, LMMS_EVAL_GROUNDING
from reground.evaluation.scoring.peers.mig_bench import MIG_BENCH, MIG_BENCH_MIGICIAN
from reground.evaluation.scoring.peers.peer import Peer
from reground.evaluation.scoring.peers.vg_refiner import VG_REFINER
from reground.evaluation.scoring.peers.vlm_r1 import (
    VLM_R1,
    VLM_R1_BASELINE,
    VLM_R1_REWARD,
    VLM_R1_TOLERANT,
)
from reground.evaluation.scoring.peers.vlmevalkit import VLMEVALKIT_REFCOCO

PEERS = {
    peer.name: peer
    for peer in (
        MIG_BENCH,
        VLM_R1,
        VLM_R1_TOLERANT,
        VLM_R1_REWARD,
        VG_REFINER,
        LMMS_EVAL_BBOX_REC,
        LMMS_EVAL_GROUNDING,
        VLMEVALKIT_REFCOCO,
    )
}


def get_peer(name: str, texts: Iterable[str], *, migician_y_scale: bool = False) -> Peer:
    """The scorer called ``name`` for one run's answers.

    VLM-R1 has two evaluation scripts: where no answer of the run holds an ``<answer>`` tag, it is
    the one for models that answer at once. ``migician_y_scale`` is MIG-Bench's for Migician.
    Raises ``ConfigError`` for an unknown name, and for a scale that the scorer does not have.
    """
    if migician_y_scale:
        if name != MIG_BENCH.name:
            raise ConfigError(f"--migician-y-scale is an option of mig_bench, not of {name}")
        return MIG_BENCH_MIGICIAN
    if name == VLM_R1.name and not any("<answer>" in text for text in texts):
        return VLM_R1_BASELINE
    if name in PEERS:
        return PEERS[name]
    raise ConfigError(f"unknown scorer {name!r}; {did_you_mean(name, ['reground', *PEERS])}")
