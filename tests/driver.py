"""Trains in child processes that are killed, that are the ranks of one run, or meet a mishap.

A script of its own, so that torch is imported once, and forked: python driver.py PLAN
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from reground.config import load
from reground.runs import RunDir
from reground.training import run as running
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sharding import shard
from worlds import Row


@dataclass(frozen=True, slots=True)
class Job:
    """What the driver is asked for: a run by several ranks, or one that is killed and resumed.

    With the name of a ``mishap`` it is one that stops with an error, and is resumed.
    """

    config: str
    out: str
    ranks: int = 1
    kills: int = 0
    mishap: str = ""


def driven(folder: Path, jobs: Mapping[str, Job]) -> dict[str, Row]:
    """Run the driver in a process of its own; what it reports of each job."""
    plan = folder / "jobs.json"
    plan.write_text(json.dumps({name: dataclasses.asdict(job) for name, job in jobs.items()}))
    done = subprocess.run(
        [sys.executable, __file__, str(plan)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Row] = json.loads((folder / "report.json").read_text())
    for name, outcome in report.items():
        outcome["stderr"] = done.stderr
        outcome["run"] = RunDir(Path(jobs[name].out))
    return report


# ---- the driver --------------------------------------------------------------------------------

_FILE_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"})
_REMOVALS = frozenset({"os.remove", "os.rmdir"})  # paths relative to an open folder
_OPERATIONS = range(4, 45)  # between two kills
_LONGEST = 120  # seconds that a child may live


def drive(plan: Path) -> None:
    """Do the jobs of ``plan`` and write how each ended beside it."""
    report = {}
    jobs = {name: Job(**values) for name, values in json.loads(plan.read_text()).items()}
    for name, job in jobs.items():
        config, out = load(TrainConfig, Path(job.config)), Path(job.out)
        if job.mishap:
            report[name] = MISHAPS[job.mishap](job)
        else:
            report[name] = _killed(config, out, job) if job.kills else _by_ranks(config, out, job)
    (plan.parent / "report.json").write_text(json.dumps(report))


def _by_ranks(config: TrainConfig, out: Path, job: Job) -> Row:
    port = free_port()
    train_as = partial(_train_as, ranks=job.ranks, port=port, config=config, out=out)
    children = [fork(partial(train_as, rank, resume=False)) for rank in range(job.ranks)]
    statuses = []
    for _ in range(job.ranks):
        child, status = os.wait()
        children.remove(child)
        statuses.append(status)
        if status:  # the others would wait for it for ever
            for other in children:
                os.kill(other, signal.SIGKILL)
    return {"statuses": statuses}


def _train_as(
    rank: int, *, ranks: int, port: int, config: TrainConfig, out: Path, resume: bool
) -> None:
    become_rank(rank, ranks, port)
    with mock.patch.object(running, "shard", _really_sharded):
        train(config, out, resume=resume)


def become_rank(rank: int, ranks: int, port: int) -> None:
    """Set what a launcher sets."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _really_sharded(module: nn.Module, model: nn.Module) -> None:
    """Weights that were not spread would train just as well."""
    shard(module, model)
    parameters = [each for name, each in module.named_parameters() if "visual." not in name]
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    own = sum(parameter.to_local().numel() for parameter in parameters)  # type: ignore[attr-defined]
    total = sum(parameter.numel() for parameter in parameters)
    assert own < 0.6 * total, f"this rank holds {own} of {total} numbers"


def _killed(config: TrainConfig, out: Path, job: Job) -> Row:
    """Kill the run at random points and resume it each time; at last leave it in peace."""
    rng, deaths = random.Random(job.out.rpartition("/")[2]), 0
    for _ in range(job.kills):
        countdown = rng.choice(_OPERATIONS)
        _, status = os.waitpid(fork(partial(_train_until, countdown, config, out)), 0)
        deaths += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    _, status = os.waitpid(fork(partial(_train_until, None, config, out)), 0)
    return {"statuses": [status], "deaths": deaths}


def _train_until(countdown: int | None, config: TrainConfig, out: Path) -> None:
    """Train or resume; with a countdown die just before that file operation."""
    resume = (out / "config.yaml").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    if countdown:
        sys.addaudithook(partial(_die, out=str(out), countdown=iter(range(countdown, 0, -1))))
    train(config, out, resume=resume)


def _die(event: str, arguments: tuple[Any, ...], *, out: str, countdown: Iterator[int]) -> None:
    """An audit hook: SIGKILL to this process where the countdown of file operations ends."""
    if event not in _FILE_EVENTS:
        return
    in_run = event in _REMOVALS or str(arguments[0]).startswith(out)
    if in_run and next(countdown, None) == 1:
        print(f"killed before {event} {arguments[0]}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def fork(action: Callable[[], None]) -> int:
    """Start a child for ``action``; returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    signal.alarm(_LONGEST)
    try:
        action()
        status = 0
    except SystemExit as stop:  # of the command line
        status = stop.code  # type: ignore[assignment]
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    from mishaps import MISHAPS

    torch.set_num_threads(1)
    drive(Path(sys.argv[1]))
