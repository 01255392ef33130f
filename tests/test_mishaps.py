"""What breaks in the middle of a run stops it soon, in one sentence, and is not seen afterwards."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from driver import PYTHON, Child, Job, free_port, planned, torchrun, unsupervised
from reground.config import dump
from reground.errors import DataError, RunError
from reground.runs import RunDir, room_in
from reground.training.run import train
from reground.training.settings import TrainConfig
from worlds import CASES, World, assert_same_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCES = {
    "dies": "another rank is gone, or did not come for 1800 seconds",
    "hangs": "another rank is gone, or did not come for 5 seconds",
    "generate": "http://.*/inference/v1/generate: .*; see in the server's out",
    "write": "http://.*/update_weights: .*; see in the server's output why",
}


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run that a mishap stopped, what it printed and how it ended; by now it is resumed."""

    run: RunDir
    printed: str
    status: int


def _written(folder: Path, name: str, config: TrainConfig) -> Job:
    path = folder / f"{name}.yaml"
    path.write_text(dump(config))
    return Job(str(path), str(folder / name), resume=name != "undisturbed")


@pytest.fixture(scope="module")
def ranks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Stopped]:
    """Two ranks of which one dies, and nobody ends the other one; or hangs, under torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    settings = {"undisturbed": (), "dies": (), "hangs": ("collective_timeout_s=5",)}
    jobs = {
        name: _written(folder, name, world.config("sft", "steps=4", "save_every=1", *own))
        for name, own in settings.items()
    }
    dies, hangs = ((jobs[name].config, jobs[name].out, name) for name in ("dies", "hangs"))
    both = unsupervised(2, "command", *dies, log=folder / "dies.log")
    launch = torchrun(2, "command", *hangs, log=folder / "launch.log")
    (lost, killed), launched = [rank.ended() for rank in both], launch.ended()
    assert killed.status == -signal.SIGKILL
    statuses = {"dies": lost.status, "hangs": launched.status}
    printed = {name: Path(f"{jobs[name].out}-0.log").read_text() for name in statuses}
    again = torchrun(
        2, "jobs", planned(folder / "plan.json", list(jobs.values())), log=folder / "again.log"
    ).ended()
    assert again.status == 0, again
    return _stopped(jobs, printed, statuses)


@pytest.fixture(scope="module")
def servers(world: World, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Stopped]:
    """A server is killed over an answer, another one while it takes weights."""
    folder, jobs = tmp_path_factory.mktemp("servers"), {}
    for name in ("undisturbed", "generate", "write"):
        engine = f"engine={{server: {{url: 'http://127.0.0.1:{free_port()}'}}}}"
        config = world.config("rl", "steps=4", "save_every=1", engine)
        jobs[name] = _written(folder, name, config)
    running = {
        kind: (_served(kind, number, jobs[kind]), jobs[kind])
        for kind, number in (("generate", 10), ("write", 3))
    }
    runs = {
        kind: Child([*PYTHON, "command", job.config, job.out, "none"], folder / f"{kind}.run.log")
        for kind, (_, job) in running.items()
    }
    statuses = {kind: run.ended().status for kind, run in runs.items()}
    for server, _ in running.values():
        assert server.ended().status == -signal.SIGKILL
    printed = {kind: Path(f"{jobs[kind].out}-0.log").read_text() for kind in runs}
    lives = _served("", 0, *jobs.values())
    plan = planned(folder / "plan.json", list(jobs.values()))
    again = Child([*PYTHON, "jobs", plan], folder / "again.log").ended()
    lives.ended()
    assert again.status == 0, again
    return _stopped(jobs, printed, statuses)


def _served(kind: str, number: int, *jobs: Job) -> Child:
    """A process with a server for each job, which answers by now."""
    words = ("serve", kind, str(number), *(job.config for job in jobs))
    server = Child([*PYTHON, *words], Path(f"{jobs[0].out}.server{kind}.log"))
    assert server.process.stdout
    assert server.process.stdout.readline() == b"ready\n", server.log.read_text()
    return server


def _stopped(
    jobs: Mapping[str, Job], printed: Mapping[str, str], statuses: Mapping[str, int]
) -> Mapping[str, Stopped]:
    return {
        name: Stopped(RunDir(Path(job.out)), printed.get(name, ""), statuses.get(name, 0))
        for name, job in jobs.items()
    }


@pytest.mark.parametrize("name", SENTENCES)
def test_a_lost_partner_is_one_sentence_and_leaves_no_trace(
    request: pytest.FixtureRequest, name: str
) -> None:
    made = request.getfixturevalue("ranks" if name in ("dies", "hangs") else "servers")
    printed = made[name].printed
    assert re.findall(rf"^error: {SENTENCES[name]}", printed, re.MULTILINE), printed
    assert printed.count("error: ") == 1
    assert "--resume" in printed
    assert "Traceback" not in printed
    assert made[name].status == (1 if name == "hangs" else 2)  # torchrun's own is 1
    assert_same_bytes(made[name].run, made["undisturbed"].run)


def test_a_full_disk_is_one_sentence_and_leaves_no_trace(
    world: World, whole: Mapping[str, RunDir], tmp_path: Path
) -> None:
    job = _written(tmp_path, "run", dataclasses.replace(CASES["sft"](world), save_every=3))
    ended = Child([*PYTHON, "fill", job.config, job.out], tmp_path / "log").ended()
    assert ended.status == 0, ended
    report = json.loads(Path(f"{job.out}.json").read_text())
    if "skipped" in report:
        pytest.skip(f"no small disk can be mounted here: {report['skipped']}")
    assert len(report["printed"]) >= 4, "too few stops to prove anything"
    for sentence in report["printed"]:
        assert re.match(r".*: no space is left on its disk \(\d+ MiB.*--resume", sentence)
    assert_same_bytes(RunDir(Path(job.out)), whole["sft"])


# ---- full disks, anywhere ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl", "trainer.pt"])
def test_what_a_full_disk_left_half_written_is_not_trusted(
    world: World,
    whole: Mapping[str, RunDir],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    config = dataclasses.replace(CASES["grpo"](world), save_every=2)
    with monkeypatch.context() as patch:
        _fill_up(patch, name, times=3)
        with pytest.raises(RunError, match="no space is left on its disk"):
            train(config, tmp_path / "run")
    run = train(config, tmp_path / "run", resume=True)
    assert_same_bytes(run, whole["grpo"])


def _fill_up(patch: pytest.MonkeyPatch, name: str, *, times: int) -> None:
    """The file of that name takes half of what is written to it, when opened so often."""
    really_open, opened = Path.open, iter(range(1, times + 1))

    def half_open(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file: Any = really_open(self, mode, *args, **options)
        if self.name == name and mode in ("ab", "wb") and next(opened, times) == times:
            really_write = file.write

            def write(content: Any) -> None:
                really_write(content[: len(content) // 2])
                file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

            file.write = write
        return file

    patch.setattr(Path, "open", half_open)


def _full() -> io.BufferedWriter:
    return open("/dev/full", "wb")


def _save() -> None:
    with _full() as file:
        torch.save({"a": torch.zeros(100_000)}, file)


def _write() -> None:
    with _full() as file:
        file.write(b"a")


def _serialise() -> None:
    raise SafetensorError("Error: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("writing", [_save, _write, _serialise])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_whoever_writes_to_a_full_disk_the_sentence_is_one(
    writing: Callable[[], None], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="no space is left") as raised, room_in(tmp_path / "new"):
        writing()
    assert str(raised.value).startswith(str(tmp_path / "new"))


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "no"), RuntimeError("unexpected pos"), DataError("no space")]
)
def test_other_errors_are_not_taken_for_a_full_disk(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as raised, room_in(tmp_path):
        raise error
    assert raised.value is error
