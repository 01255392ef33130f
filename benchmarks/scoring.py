"""What scoring costs: the whole command, one parse, and hostile texts of growing length.

    python benchmarks/scoring.py OUTPUTS --out docs/results/scoring.json

OUTPUTS is a folder of one model's ten files as MIG-Bench's evaluator writes them (4,276 answers).
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, publish

from reground.evaluation.scoring.logs import read_log
from reground.grounding.codecs import EncodedSize
from reground.protocols.families import FAMILIES
from reground.protocols.protocol import get_protocol

SIZE = EncodedSize(1000, 1000, 1008, 1008)
HOSTILE: Mapping[str, str] = {
    "(": "(",
    "[": "[",
    "<answer>": "<answer>",
    "digits": "7",
    "(1,": "(1,",
    '{"bbox_2d":': '{"bbox_2d":',
    "<think></answer>": "<think></answer>",
}
LENGTHS = (25_000, 50_000, 100_000)


def main() -> None:
    """Measure, print one JSON object and keep it."""
    command_line = parser(__doc__)
    command_line.add_argument("outputs", type=Path)
    command_line.add_argument("--repeats", type=int, default=9)
    asked = command_line.parse_args()
    figures = {
        "command": _command(asked.outputs, asked.repeats),
        "microseconds a parse": _parses(asked.outputs, asked.repeats),
        "hostile": {name: _hostile(unit) for name, unit in HOSTILE.items()},
    }
    publish({"scoring": figures}, out=asked.out, config={"repeats": asked.repeats})


def _command(outputs: Path, repeats: int) -> dict[str, float]:
    """Seconds of ``reground score`` from start to exit."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as out:
            line = ["score", "--format", "mig_bench_outputs", "--scorer", "mig_bench"]
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "reground", *line, str(outputs), "--out", out],
                check=True,
                capture_output=True,
            )
            seconds.append(time.perf_counter() - begin)
    return _spread(seconds)


def _parses(outputs: Path, repeats: int) -> dict[str, float]:
    """The mean over all answers, of each repetition; of this process's core."""
    log = read_log(outputs, format_name="mig_bench_outputs")
    family = get_protocol(log.family)
    means = []
    for _ in range(repeats):
        begin = time.process_time()
        for row in log.predictions:
            family.read(row.text, row.sizes[0])
        means.append(1e6 * (time.process_time() - begin) / len(log.predictions))
    return _spread(means)


def _hostile(unit: str) -> dict[str, Any]:
    """Seconds of the slowest family at each length, and how they grow when it doubles."""
    seconds = [max(_seconds(unit * (n // len(unit)), name) for name in FAMILIES) for n in LENGTHS]
    growth = [round(b / a, 2) for a, b in itertools.pairwise(seconds)]
    return {"seconds at 100 KB": round(seconds[-1], 4), "growth when doubled": growth}


def _seconds(text: str, name: str) -> float:
    family, best = get_protocol(name), float("inf")
    for _ in range(3):
        begin = time.process_time()
        family.read(text, SIZE)
        best = min(best, time.process_time() - begin)
    return best


def _spread(values: list[float]) -> dict[str, float]:
    median, low, high = np.median(values), min(values), max(values)
    return {"median": round(float(median), 3), "min": round(low, 3), "max": round(high, 3)}


if __name__ == "__main__":
    main()
