"""Tables of docs/results.md: what each way of training gives, arm by arm, with seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tables.common import read, table

_ARMS = {
    "tiny": "shipped model, no training",
    "pure_rl": "GRPO without cold start",
    "box_sft": "SFT on coordinates alone",
    "cot_sft": "CoT-SFT",
    "more_sft": "CoT-SFT, then more SFT",
    "grpo": "CoT-SFT, then GRPO (phi = none)",
    "grpo_exp": "CoT-SFT, then GRPO with phi = exp",
    "grpo_log": "CoT-SFT, then GRPO with phi = log",
    "grpo_square": "CoT-SFT, then GRPO with phi = square",
}
_LAB = {
    "start": "cold start on chains",
    "more_sft": "more SFT",
    "grpo": "GRPO, loss per token",
    "grpo_sequence": "GRPO, loss per sequence",
    "grpo_kl": "GRPO with KL",
    "grpo_exp": "GRPO with phi = exp",
    "grpo_log": "GRPO with phi = log",
    "grpo_square": "GRPO with phi = square",
    "grpo_two": "GRPO, two updates a batch",
    "clip_higher": "the same with DAPO's upper bound",
    "dynamic_sampling": "GRPO with DAPO's dynamic sampling",
    "dapo": "DAPO",
    "dr_grpo": "Dr. GRPO",
    "rloo": "RLOO",
    "gspo": "GSPO",
    "gspo_two": "GSPO, two updates a batch",
    "cispo": "CISPO",
    "cispo_two": "CISPO, two updates a batch",
    "rejection_sampling": "SFT on samples that were right",
    "hits": "GRPO, thresholded IoU as reward",
    "squared": "GRPO, IoU squared as reward",
    "direct_start": "cold start without chains",
    "direct": "cold start without chains, then GRPO: answers at once",
}
_HEAD = ["arm", "seeds", "n", "Acc@0.5 (%)", "one sample", "best of 8", "vote of 8", "PFLOPs"]


def table4() -> str:
    """UniVG-R1's Table 4 in miniature."""
    arms = ("tiny", "pure_rl", "box_sft", "cot_sft", "more_sft", "grpo", "grpo_exp")
    return _table("ablation", arms, over=("cot_sft", "more_sft"))


def table5() -> str:
    """UniVG-R1's Table 5 in miniature."""
    return _table("ablation", ("grpo", "grpo_exp", "grpo_log", "grpo_square"), over=("grpo",))


def lab() -> str:
    """What every method gives from one start at equal compute."""
    return _table("lab", tuple(_LAB), over=("start", "more_sft", "grpo"), names=_LAB)


def curves() -> str:
    """UniVG-R1's Figure 3: prompts by how hard they are, over the training of GRPO."""
    rows = read("rl")["ablation"]["arms"]["grpo"]
    parts = range(10)
    return table(
        ["part of the training", *(f"{10 * part + 10} %" for part in parts)],
        [
            [
                label,
                *(f"{fmean([own['curves'][name][part] for own in rows]):.2f}" for part in parts),
            ]
            for label, name in (
                ("easy (mean IoU above 0.7)", "difficulty/easy"),
                ("medium", "difficulty/medium"),
                ("hard (mean IoU below 0.3)", "difficulty/hard"),
                ("mean IoU of samples", "reward/iou"),
            )
        ],
    )


def _table(
    experiment: str,
    arms: Sequence[str],
    *,
    over: Sequence[str],
    names: Mapping[str, str] = _ARMS,
) -> str:
    found = read("rl")[experiment]
    gains = {(own["arm"], own["over"]): own for own in found["differences"]}
    rows = [
        [
            names[arm],
            *_cells(found["arms"][arm]),
            *(_gain(gains.get((arm, other))) for other in over),
        ]
        for arm in arms
        if arm in found["arms"]
    ]
    return table([*_HEAD, *(f"over {names[other]}" for other in over)], rows)


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sampled = [own["sampled"] for own in rows]
    return [
        str(len(rows)),
        str(sum(own["n"] for own in rows)),
        f"{100 * fmean([own['acc@0.5'] for own in rows]):.1f}",
        *(f"{100 * fmean([own[name] for own in sampled]):.1f}" for name in ("one", "best", "vote")),
        f"{fmean([own['flops'] for own in rows]) / 1e15:.3f}",
    ]


def _gain(own: Mapping[str, Any] | None) -> str:
    """Points, the interval over scenes, and the gain of each seed."""
    if own is None:
        return ""
    seeds = ", ".join(f"{100 * gain:+.1f}" for gain in own["gains"])
    low, high = 100 * own["low"], 100 * own["high"]
    return f"{100 * own['gain']:+.1f} ({low:+.1f} to {high:+.1f}); seeds {seeds}"
