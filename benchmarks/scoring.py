"""What scoring costs: the whole command, one parse, and hostile texts of growing length.

    python benchmarks/scoring.py OUTPUTS --out docs/results/scoring.json

OUTPUTS is a folder of one model's ten files as MIG-Bench's evaluator writes them (4,276 answers).
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import measured, parser, publish, spread

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
    command_line = parser(__doc__, repeats=9)
    command_line.add_argument("outputs", type=Path)
    asked = command_line.parse_args()
    figures = {
        "command": _command(asked.outputs, asked.repeats),
        "microseconds a parse": _parses(asked.outputs, asked.repeats),
        "hostile": {name: _hostile(unit) for name, unit in HOSTILE.items()},
    }
    publish({"scoring": figures}, out=asked.out, config={"repeats": asked.repeats})


def _command(outputs: Path, repeats: int) -> dict[str, float]:
    """Seconds of ``reground score`` from start to exit."""
    line = [sys.executable, "-m", "reground", "score", str(outputs)]
    line += ["--format", "mig_bench_outputs", "--scorer", "mig_bench", "--out"]

    def score() -> None:
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([*line, out], check=True, capture_output=True)

    return spread([measured(score).wall for _ in range(repeats)])


def _parses(outputs: Path, repeats: int) -> dict[str, float]:
    """The mean over all answers, of each repetition; of this process's core."""
    log = read_log(outputs, format_name="mig_bench_outputs")
    family = get_protocol(log.family)

    def parse() -> None:
        for row in log.predictions:
            family.read(row.text, row.sizes[0])

    return spread([1e6 * measured(parse).cpu / len(log.predictions) for _ in range(repeats)])


def _hostile(unit: str) -> dict[str, Any]:
    """Seconds of the slowest family at each length, and how they grow when it doubles."""
    seconds = [max(_seconds(unit * (n // len(unit)), name) for name in FAMILIES) for n in LENGTHS]
    growth = [round(b / a, 2) for a, b in itertools.pairwise(seconds)]
    return {"seconds at 100 KB": round(seconds[-1], 4), "growth when doubled": growth}


def _seconds(text: str, name: str) -> float:
    family = get_protocol(name)
    return min(measured(lambda: family.read(text, SIZE)).cpu for _ in range(3))


if __name__ == "__main__":
    main()
