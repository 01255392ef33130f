"""Runs of the command line that meet a mishap, stop, and are resumed: for the driver's children.

A mishap is a function of a job. It reports ``statuses`` of the resumed processes and, of each stop,
what was printed and how many seconds after the mishap the last process ended.
"""

from __future__ import annotations

import base64
import ctypes
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from PIL import Image
from safetensors.torch import save_file

from driver import Job, become_rank, fork, free_port
from reground import cli
from reground.config import load
from reground.errors import RunError
from reground.model.chat import Prompt
from reground.model.load import load as load_checkpoint
from reground.model.load import save
from reground.rollout.engine import weights, worker
from reground.rollout.engine.worker import Announced, Invitation, Receiver
from reground.rollout.policy import Completion, Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.training.draw import Draws
from reground.training.run import train
from reground.training.settings import TrainConfig
from server import Response, serving
from worlds import Row


def command(config: str, out: str, log: Path, *flags: str) -> None:
    """``reground train``, as a user gives it; what it prints goes to ``log``."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = ["reground", "train", config, "--out", out, *flags]
    cli.main()


# ---- ranks -------------------------------------------------------------------------------------

Mishap = Callable[[], None]


def lose_rank(job: Job, *, last: Mishap) -> Row:
    """What happens to the last rank as step 3's first sample is drawn (SFT)."""
    port, logs = free_port(), [Path(f"{job.out}-{rank}.log") for rank in range(job.ranks)]
    mishaps = [None] * (job.ranks - 1) + [last]
    children = [
        fork(partial(_rank, rank, job, port, logs[rank], mishap))
        for rank, mishap in enumerate(mishaps)
    ]
    _, status = os.waitpid(children[-1], os.WUNTRACED)
    begin = time.monotonic()
    stopped = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children[:-1]]
    seconds = time.monotonic() - begin
    if os.WIFSTOPPED(status):
        os.kill(children[-1], signal.SIGKILL)
        os.waitpid(children[-1], 0)
    printed = [log.read_text() for log in logs[:-1]]
    return {"stops": stopped, "printed": printed, "seconds": [seconds], **resumed(job)}


def resumed(job: Job) -> Row:
    """All ranks again, undisturbed."""
    port, flags = free_port(), ["--resume"] if Path(job.out).exists() else []
    children = [
        fork(partial(_rank, rank, job, port, Path(f"{job.out}-{rank}.log"), None, *flags))
        for rank in range(job.ranks)
    ]
    return {"statuses": [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children]}


def _rank(rank: int, job: Job, port: int, log: Path, mishap: Mishap | None, *flags: str) -> None:
    config = load(TrainConfig, Path(job.config))
    if job.ranks > 1:
        become_rank(rank, job.ranks, port)
    third, draw = 2 * config.batch_size, Draws.samples

    def samples(self: Draws, item: int, *limit: int) -> Any:
        if mishap and item >= third:
            mishap()
        return draw(self, item, *limit)

    with mock.patch.object(Draws, "samples", samples):
        command(job.config, job.out, log, *flags)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


# ---- a server of rollouts ----------------------------------------------------------------------


def lose_server(job: Job, *, kind: str, number: int) -> Row:
    """The server dies over a request of this kind; the run goes on when it is back."""
    config = load(TrainConfig, Path(job.config))
    server = _serve(config, kind, number)
    log = Path(f"{job.out}.log")
    child = fork(partial(command, job.config, job.out, log))
    os.waitpid(server, 0)
    begin = time.monotonic()
    stop = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds, printed = time.monotonic() - begin, log.read_text()
    again = keep_server(job)
    return {"stops": [stop], "printed": [printed], "seconds": [seconds], **again}


def keep_server(job: Job) -> Row:
    """A run, or the rest of one, with a server that lives."""
    server = _serve(load(TrainConfig, Path(job.config)), "", 0)
    outcome = resumed(job)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    return outcome


def _serve(config: TrainConfig, kind: str, number: int) -> int:
    reading, writing = os.pipe()

    def serve() -> None:
        engine = FakeEngine(config.model, kind, number)
        port = int(str(config.engine.server.url).rpartition(":")[2])
        with serving(engine, models=engine.facts, question=lambda _: "", port=port):
            os.write(writing, b"\n")
            signal.pause()

    child = fork(serve)
    os.read(reading, 1)
    return child


class FakeEngine:
    """Answers as a vLLM server with our weight transfer does, from a model on the CPU.

    It dies over request ``number`` of a kind: "generate", or "write", where weights have begun to
    come. All that it is asked with GET is in ``facts``.
    """

    def __init__(self, model: str, kind: str, number: int) -> None:
        self._dies, self._seen = (kind, number), {"generate": 0, "write": 0}
        self._policy = TransformersPolicy(load_checkpoint(model))
        self._receiver, self._lock = FakeReceiver(self._written), threading.Lock()
        self.facts = Response("")
        self._weights_are("default")

    def __call__(self, body: dict[str, Any] | None, _: int) -> Response:
        with self._lock:
            match body:
                case {"init_info": init_info}:
                    self._receiver.init_transfer_engine(Invitation(**init_info))
                case {"update_info": update_info}:
                    self._receiver.receive_weights(Announced(**update_info))
                case {"new_version": version} | {"weight_version": version}:
                    self._weights_are(version)
                case {"token_ids": _}:
                    self._one_more("generate")
                    return Response(json.dumps(self._generated(body)))
        return Response("")  # of an update that begins, or a cache that is reset

    def _weights_are(self, version: str) -> None:
        self.facts.body = json.dumps(
            {"version": "0.32.0", "world_size": 1, "weight_version": version}
        )

    def _one_more(self, kind: str) -> None:
        self._seen[kind] += 1
        if (kind, self._seen[kind]) == self._dies:
            die()

    def _written(self, named: Iterator[tuple[str, torch.Tensor]]) -> None:
        state = dict(islice(named, 10))
        self._one_more("write")
        state |= named
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save(self._policy.checkpoint, folder)
            save_file(state, folder / "model.safetensors", {"format": "pt"})
            self._policy = TransformersPolicy(load_checkpoint(str(folder)))

    def _generated(self, body: Row) -> Row:
        chat, asked = self._policy.checkpoint.chat, body["sampling_params"]
        urls = [part["url"].partition(",")[2] for part in body["content_parts"]]
        pictures = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
        images = tuple(chat.encode_images(pictures))
        counts = iter([chat.num_tokens(image) for image in images])
        ids = tuple(
            each
            for short in body["token_ids"]
            for each in [short] * (next(counts) if short == chat.image_token_id else 1)
        )
        sampling = Sampling(temperature=asked["temperature"], max_tokens=asked["max_tokens"])
        (group,) = self._policy.generate(
            [Prompt(ids, images)], n=asked["n"], sampling=sampling, keys=[asked["seed"]]
        )
        return {"prompt_token_ids": ids, "choices": [_choice(each) for each in group]}


class FakeReceiver(Receiver):
    """The worker's end as it is, but for the model, which is not vLLM's."""

    def __init__(self, write: Callable[[Iterator[tuple[str, torch.Tensor]]], None]) -> None:
        self.device = torch.device("cpu")
        self.parallel_config = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        self.model = self.model_config = None
        mock.patch.object(weights, "write", lambda model, named, config: write(named)).start()
        mock.patch.object(worker, "as_launched", nullcontext).start()


def _choice(completion: Completion) -> Row:
    return {
        "token_ids": completion.ids,
        "logprobs": {"content": [{"logprob": each} for each in completion.logprobs]},
        "finish_reason": completion.finish,
        "stop_reason": None,
    }


# ---- a disk ------------------------------------------------------------------------------------

_KIB = 1024
_GROWTH = range(200, 1500)  # KiB, each time that the disk was full


def fill_disk(job: Job) -> Row:
    """The run's folder is a disk of its own, too small, then a little larger, until it is enough.

    The disk is in memory and seen by this child alone; at last the run is copied from it.
    """
    report = Path(f"{job.out}.json")
    status = os.waitpid(fork(partial(_fill, job, report)), 0)[1]
    return json.loads(report.read_text()) | {"statuses": [os.waitstatus_to_exitcode(status)]}


def _fill(job: Job, report: Path) -> None:
    config, disk = load(TrainConfig, Path(job.config)), Path(f"{job.out}-disk")
    disk.mkdir()
    if reason := _mounted(disk, 1000):
        report.write_text(json.dumps({"skipped": reason}))
        return
    rng, printed, size = random.Random(0), [], 1000
    while True:
        try:
            train(config, disk / "run", resume=bool(printed))
            break
        except RunError as error:
            printed.append(str(error))
        size += rng.choice(_GROWTH)
        _mounted(disk, size, again=True)
    shutil.copytree(disk / "run", job.out)
    report.write_text(json.dumps({"printed": printed}))


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


MISHAPS: Mapping[str, Callable[[Job], Row]] = {
    "none": resumed,
    "a rank is killed": partial(lose_rank, last=die),
    "a rank hangs": partial(lose_rank, last=hang),
    "the server lives": keep_server,
    "the server is killed while it answers": partial(lose_server, kind="generate", number=10),
    "the server is killed while it takes weights": partial(lose_server, kind="write", number=3),
    "the disk is full": fill_disk,
}
