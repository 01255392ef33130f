"""How the cost of a GRPO update grows with completions, images and the size of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reground.bench.device import in_own_process, spread
from reground.bench.update import measure
from reground.training.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured: updates of ``config`` on a prompt of so many images."""

    config: TrainConfig
    images: int

    def sized(self, *, completions: int) -> Point:
        """The same with another number of completions in a group."""
        grpo = replace(self.config.grpo, group_size=completions)
        return replace(self, config=replace(self.config, grpo=grpo))


def points(start: Point) -> tuple[Point, ...]:
    """``start``, then half to four times its completions, and one to eight images."""
    group = start.config.grpo.group_size
    varied = [start.sized(completions=max(2, group * times // 2)) for times in (1, 4, 8)]
    varied += [replace(start, images=count) for count in (1, 2, 4, 8)]
    return (start, *(own for own in varied if own != start))


def growth(
    asked: Sequence[Point], *, side: int, repeats: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Updates of each point in turns, each in a process of its own, beside the first point.

    Images have ``side`` x ``side`` pixels. ``seconds over FLOPs`` is by how much more the time
    grew than the counted FLOPs did; ``advance`` is called after each measurement.
    """
    turns: list[list[dict[str, Any]]] = []
    for _ in range(repeats):
        turns.append([])
        for point in asked:
            turns[-1].append(in_own_process(_measured, point, side))
            advance()
    rows = [_summary(point, place, turns) for place, point in enumerate(asked)]
    ratios = [row["seconds over FLOPs"]["median"] for row in rows]
    furthest = max(max(ratio, 1 / ratio) for ratio in ratios)
    return {"points": rows, "furthest from FLOPs": round(furthest, 3)}


def _measured(point: Point, side: int) -> dict[str, Any]:
    return measure(point.config, images=point.images, side=side, repeats=1)


def _summary(point: Point, place: int, turns: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    own, base = [turn[place] for turn in turns], [turn[0] for turn in turns]
    flops = sum(own[0]["gflop"].values()) / sum(base[0]["gflop"].values())
    seconds, start = ([turn["seconds"]["median"] for turn in each] for each in (own, base))
    ratios = [mine / first / flops for mine, first in zip(seconds, start, strict=True)]
    return {
        "completions": point.config.grpo.group_size,
        "images": point.images,
        **own[0],
        "seconds": spread(seconds),
        "peak MiB": spread([turn["peak MiB"] for turn in own]),
        "seconds over FLOPs": spread(ratios),
    }
