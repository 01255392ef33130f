"""Runs one job of two sharded ranks again and again, half of the time with both cores busy.

Fault 28 was a corrupted heap in one of some thirty runs of this job: a test that runs it once would
not have caught it. Launches are fresh, and each makes ten runs.

    python tests/hundred.py FOLDER          # prints a line for every launch
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from driver import Job, planned, torchrun
from reground.config import dump
from reground.runs import RunDir
from worlds import make_world, single_thread

LAUNCHES, RUNS = 10, 10
BUSY = ("nice", "-n", "4", sys.executable, "-c", "while True: pass")


def main(folder: Path) -> None:
    """Launch; stops with an error at the first launch that does not end well."""
    folder.mkdir(parents=True)
    with single_thread():
        world = make_world(folder)
    config = folder / "job.yaml"
    config.write_text(dump(world.config("rl", "steps=3", "save_every=2", "sharding=full")))
    for launch in range(LAUNCHES):
        busy = [subprocess.Popen(BUSY) for _ in range(2 * (launch % 2))]
        try:
            metrics = _launched(folder / str(launch), config)
        finally:
            for each in busy:
                each.kill()
        print(f"launch {launch + 1}: {RUNS} runs, busy {bool(busy)}, {metrics}", flush=True)


def _launched(folder: Path, config: Path) -> str:
    folder.mkdir()
    jobs = [Job(str(config), str(folder / str(run))) for run in range(RUNS)]
    plan = planned(folder / "plan.json", jobs)
    ended = torchrun(2, "jobs", plan, log=folder / "log").ended(longest=3600)
    assert ended.status == 0, ended
    figures = {RunDir(Path(job.out)).metrics.read_text() for job in jobs}
    assert len(figures) == 1, "runs of one config differ"
    for job in jobs:
        shutil.rmtree(job.out)
    return "all ended well, with the same figures"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
