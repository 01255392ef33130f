"""What the benchmarks share: their arguments, timing in turns, and the one object they publish."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reground.config import load
from reground.evaluation.scoring.metrics import clustered_mean
from reground.io import read_jsonl, write_json
from reground.provenance import result_header
from reground.training.settings import TrainConfig

HELD_OUT = 1_000_007  # seed of the scenes that are evaluated: no run draws from it


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that something took: on the clock, and of this process's cores."""

    wall: float
    cpu: float


def parser(doc: str | None, *, repeats: int | None = None) -> argparse.ArgumentParser:
    """A command line whose help is the script's docstring, with ``--out`` (and ``--repeats``)."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, metavar="JSON", help="also keep the result here")
    if repeats is not None:
        made.add_argument("--repeats", type=int, default=repeats)
    return made


def publish(
    figures: Mapping[str, Any], *, out: Path | None, config: Mapping[str, Any], seed: int = 0
) -> None:
    """Print the figures, after what repeats them, as a line of JSON, and keep them in ``out``."""
    command = " ".join(["python", *sys.argv])
    result = result_header(command=command, config=config, seed=seed) | dict(figures)
    if out:
        write_json(out, result)
    print(json.dumps(result))


def measured(action: Callable[[], object]) -> Cost:
    """What one call of ``action`` costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(repeats: int, **sides: Callable[[], object]) -> dict[str, list[Cost]]:
    """What each side costs, every side once in a turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, action in sides.items():
            costs[name].append(measured(action))
    return costs


def compared(ours: Sequence[Cost], theirs: Sequence[Cost]) -> dict[str, float]:
    """How many times faster we are, over turns; the ratio of core seconds bears a busy machine."""
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [other.wall / own.wall for own, other in pairs]
    return {
        "speedup": round(statistics.median(ratios), 2),
        "speedup_min": round(min(ratios), 2),
        "speedup_max": round(max(ratios), 2),
        "cpu_speedup": round(statistics.median(other.cpu / own.cpu for own, other in pairs), 2),
    }


def median_seconds(costs: Sequence[Cost]) -> float:
    """The median time on the clock."""
    return round(statistics.median(cost.wall for cost in costs), 3)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def averaged(name: str, values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """A mean under its name, and its standard error, clustered, as NAME_stderr."""
    mean = clustered_mean(values, clusters)
    return {name: mean.value, f"{name}_stderr": mean.stderr}


def trained(path: Path, out: Path, *overrides: str) -> Path:
    """The run of a config in ``out``; trained, or resumed, unless it is done."""
    from reground.training.run import train  # torch: only the benchmarks that train need it

    config = load(TrainConfig, path, overrides)
    if not (out / "checkpoints" / f"step-{config.steps:06d}").exists():
        train(config, out, resume=out.exists())
    return out


def training_seconds(run: Path) -> float:
    """Seconds that a training run took, validation and checkpoints included."""
    rows = read_jsonl(run / "timings.jsonl", dict)
    return float(
        sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
    )
