"""The script that ``driver.py`` starts: its first word says what to do, the others with what."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.tensor import DTensor

from fake_engine import FakeEngine
from reground import cli
from reground.config import load
from reground.errors import RunError
from reground.training import run as running
from reground.training.draw import Draws
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sharding import shard
from server import serving

LOOK_S = 120.0  # a process that lives longer shows where it is


def jobs(plan: str) -> None:
    """Runs, one after the other, by all the ranks that were started: one process group for all."""
    group = torch.distributed
    with mock.patch.object(group, "destroy_process_group"):
        for job in json.loads(Path(plan).read_text()):
            config, out = load(TrainConfig, Path(job["config"])), Path(job["out"])
            with mock.patch.object(running, "shard", _really_sharded):
                train(config, out, resume=job["resume"])
            AcceleratorState._reset_state(reset_partial_state=True)
            print(f"done {out}", file=sys.stderr, flush=True)
    if group.is_initialized():
        group.destroy_process_group()


def _really_sharded(module: nn.Module, model: nn.Module, *, from_first: bool) -> None:
    """Weights that were not sharded, or that every rank has loaded, would train just as well."""
    loaded = not next(module.parameters()).is_meta
    assert loaded == (not from_first or torch.distributed.get_rank() == 0)
    shard(module, model, from_first=from_first)
    parameters = [each for name, each in module.named_parameters() if "visual." not in name]
    assert all(isinstance(parameter, DTensor) for parameter in parameters)
    own = sum(parameter.to_local().numel() for parameter in parameters)  # type: ignore[attr-defined]
    total = sum(parameter.numel() for parameter in parameters)
    assert own < 0.6 * total, f"this rank holds {own} of {total} numbers"


# ---- kills -------------------------------------------------------------------------------------

_FILE_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"})
_REMOVALS = frozenset({"os.remove", "os.rmdir"})  # paths relative to an open folder


def until(countdown: str, config: str, out: str) -> None:
    """Train or resume, and die just before that file operation in the run's folder; 0 is never."""
    resume = (Path(out) / "config.yaml").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    if int(countdown):
        sys.addaudithook(partial(_die, out=out, countdown=iter(range(int(countdown), 0, -1))))
    train(load(TrainConfig, Path(config)), Path(out), resume=resume)


def _die(event: str, arguments: tuple[Any, ...], *, out: str, countdown: Iterator[int]) -> None:
    """An audit hook: SIGKILL to this process where the countdown of file operations ends."""
    if event not in _FILE_EVENTS:
        return
    in_run = event in _REMOVALS or str(arguments[0]).startswith(out)
    if in_run and next(countdown, None) == 1:
        print(f"killed before {event} {arguments[0]}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


# ---- partners that are lost --------------------------------------------------------------------


def command(config: str, out: str, mishap: str) -> None:
    """``reground train``, as a user gives it; what a rank prints goes to a log of its own.

    The mishap comes to the last rank, as the first sample of step 3 is drawn (SFT).
    """
    rank, ranks = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    os.dup2(os.open(f"{out}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = ["reground", "train", config, "--out", out]
    third, draw = 2 * load(TrainConfig, Path(config)).batch_size, Draws.samples

    def samples(self: Draws, item: int, *limit: int) -> Any:
        if item >= third and rank == ranks - 1:
            MISHAPS[mishap]()
        return draw(self, item, *limit)

    with mock.patch.object(Draws, "samples", samples):
        cli.main()


MISHAPS: Mapping[str, Callable[[], object]] = {
    "none": lambda: None,
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hangs": lambda: time.sleep(1000),
}


def serve(kind: str, number: str, *configs: str) -> None:
    """Servers of rollouts for these configs, which die over request ``number`` of a kind."""
    with ExitStack() as stack:
        for config in configs:
            settings = load(TrainConfig, Path(config))
            engine = FakeEngine(settings.model, kind, int(number))
            port = int(str(settings.engine.server.url).rpartition(":")[2])  # type: ignore[union-attr]
            stack.enter_context(
                serving(engine, models=engine.facts, question=lambda _: "", port=port)
            )
        print("ready", flush=True)
        sys.stdin.read()  # until the test closes it


# ---- a disk ------------------------------------------------------------------------------------

_GROWTH = range(200, 1500)  # KiB, each time that the disk was full


def fill(config: str, out: str) -> None:
    """The run's folder is a disk of its own, too small, then a little larger, until it is enough.

    The disk is in memory and seen by this process alone; at last the run is copied from it, with
    what was printed in ``OUT.json``.
    """
    settings, disk, report = load(TrainConfig, Path(config)), Path(f"{out}-disk"), f"{out}.json"
    disk.mkdir()
    if reason := _mounted(disk, 1000):
        Path(report).write_text(json.dumps({"skipped": reason}))
        return
    rng, printed, size = random.Random(0), [], 1000
    while True:
        try:
            train(settings, disk / "run", resume=bool(printed))
            break
        except RunError as error:
            printed.append(str(error))
        size += rng.choice(_GROWTH)
        _mounted(disk, size, again=True)
    shutil.copytree(disk / "run", out)
    Path(report).write_text(json.dumps({"printed": printed}))


def _mounted(folder: Path, kib: int, *, again: bool = False) -> str | None:
    """Mount so much memory as a disk that only this process sees; or why that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, new_users, remount, private = 0x20000, 0x10000000, 32, 1 << 14 | 1 << 18
    options = f"size={kib}k".encode()
    if again:
        failed = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", remount, options)
    else:
        failed = (libc.unshare(new_mounts) and libc.unshare(new_mounts | new_users)) or libc.mount(
            None, b"/", None, private, None
        )
        failed = failed or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options)
    return os.strerror(ctypes.get_errno()) if failed else None


ACTIONS: Mapping[str, Callable[..., None]] = {
    "jobs": jobs,
    "until": until,
    "command": command,
    "serve": serve,
    "fill": fill,
}

if __name__ == "__main__":
    faulthandler.dump_traceback_later(LOOK_S, repeat=True)
    torch.set_num_threads(1)
    ACTIONS[sys.argv[1]](*sys.argv[2:])
