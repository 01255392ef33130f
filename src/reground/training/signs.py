"""What a run says of itself: signs in its last batches that it learns the wrong thing.

They are read off the rows of ``metrics.jsonl`` alone, so that a resumed run says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reground.protocols.readings import CLEAR
from reground.training.rewards import RewardSettings

RECENT = 10
"""Batches that are looked at together."""
FEWEST = 5  # fewer say nothing
RARE = 0.02  # of groups: a term that differs in no more of them teaches nothing

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sign:
    """What is wrong, by a word of its own, and a sentence about it."""

    kind: str
    says: str


def new_signs(rows: Sequence[Row], rewards: Sequence[RewardSettings]) -> list[Sign]:
    """The signs of the last ``RECENT`` of rows (of steps, in order) that were not there before."""
    before = {sign.kind for sign in _signs(rows[:-RECENT][-RECENT:], rewards)}
    return [sign for sign in _signs(rows[-RECENT:], rewards) if sign.kind not in before]


def _signs(rows: Sequence[Row], rewards: Sequence[RewardSettings]) -> Iterator[Sign]:
    if len(rows) < FEWEST:
        return
    means = {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in rows[-1]}
    last = f"in the last {len(rows)} batches"
    if says := _of_form(means, rewards):
        yield Sign("form", f"{last} {says}")
    if says := _of_frame(means):
        yield Sign("frame", f"{last} {says}")
    parts = [name for name in means if name.startswith("grad_norm/")]
    silent = [name.partition("/")[2] for name in parts if means[name] == 0.0]
    if silent and means.get("advantage/zero_variance", 0.0) < 1.0:
        yield Sign(
            f"gradient {' '.join(silent)}",
            f"{last} no gradient reached {' and '.join(silent)}, which tuning trains; see what "
            "cuts it off, or set tuning to frozen there",
        )


def _of_form(means: Row, rewards: Sequence[RewardSettings]) -> str | None:
    """What to say where nothing but terms of form differed within groups."""
    shares = {each: means.get(f"varied/{each.name}", 0.0) for each in rewards if each.weight}
    differ = [each for each, share in shares.items() if share > RARE]
    aims = [each.name for each in shares if not each.of_form]
    if not differ or not aims or not all(each.of_form for each in differ):
        return None
    return (
        f"rewards differed within groups by {' and '.join(each.name for each in differ)} alone, "
        f"not by {' or '.join(aims)}: only the form is being learned (the best of a group is right "
        f"in {means['rollout/best']:.0%} of groups); look at rollouts.jsonl, draw easier data, or "
        "teach the task first (method: sft)"
    )


def _of_frame(means: Row) -> str | None:
    """What to say where the answers would fit clearly better in another frame."""
    others = {name: value for name, value in means.items() if name.startswith("frame/")}
    declared = others.pop("frame/declared", None)
    if declared is None or not others:
        return None
    best = max(others, key=lambda name: others[name])
    if others[best] - declared <= CLEAR:
        return None
    kind = best.partition("/")[2]
    kind = f"{kind.removesuffix('_yx')}, y before x" if kind.endswith("_yx") else kind
    return (
        f"answers fit best as {kind} (mean IoU {others[best]:.2f}), but are read as declared "
        f"({declared:.2f}): family, data or min_pixels and max_pixels do not fit the model"
    )
