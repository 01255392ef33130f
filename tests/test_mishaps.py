"""What breaks in the middle of a run stops it soon, in one sentence, and is not seen afterwards."""

from __future__ import annotations

import dataclasses
import errno
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import driver
from driver import Job, free_port
from reground.config import dump
from reground.disk import room_in
from reground.errors import DataError, RunError
from reground.runs import RunDir
from reground.training.run import train
from worlds import CASES, Row, World, assert_same_bytes

pytestmark = pytest.mark.usefixtures("one_thread")

KILLED = "a rank is killed"
HANGS = "a rank hangs"
ANSWERING = "the server is killed while it answers"
WRITING = "the server is killed while it takes weights"
FULL = "the disk is full"


def _by_ranks(world: World, *overrides: str) -> Any:
    return world.config("sft", "steps=4", "save_every=1", *overrides)


def _served(world: World) -> Any:
    engine = f"engine={{server: {{url: 'http://127.0.0.1:{free_port()}'}}}}"
    return world.config("grpo", "steps=4", "save_every=1", engine)


# The mishap, the settings of the run, and its ranks.
JOBS: dict[str, tuple[str, Callable[[World], Any], int]] = {
    "two ranks": ("none", _by_ranks, 2),
    KILLED: (KILLED, _by_ranks, 2),
    HANGS: (HANGS, lambda world: _by_ranks(world, "collective_timeout_s=5"), 2),
    "a server": ("the server lives", _served, 1),
    ANSWERING: (ANSWERING, _served, 1),
    WRITING: (WRITING, _served, 1),
    FULL: (FULL, lambda world: dataclasses.replace(CASES["sft"](world), save_every=3), 1),
}


@pytest.fixture(scope="module")
def driven(world: World) -> Mapping[str, Row]:
    """What the driver reports of each job."""
    folder, jobs = world.folder / "mishaps", {}
    folder.mkdir()
    for number, (name, (mishap, config, ranks)) in enumerate(JOBS.items()):
        path = folder / f"{number}.yaml"
        path.write_text(dump(config(world)))
        jobs[name] = Job(str(path), str(folder / str(number)), ranks, mishap=mishap)
    return driver.driven(folder, jobs)


@pytest.mark.parametrize(
    ("name", "undisturbed", "sentences"),
    [
        (KILLED, "two ranks", ["another rank is gone, or did not come for 1800 seconds"]),
        (HANGS, "two ranks", ["another rank is gone, or did not come for 5 seconds"]),
        (ANSWERING, "a server", ["http://.*/inference/v1/generate: .*; see in the server's out"]),
        (WRITING, "a server", ["http://.*/update_weights: .*; see in the server's output why"]),
    ],
)
def test_a_lost_partner_is_one_sentence_and_leaves_no_trace(
    driven: Mapping[str, Row], name: str, undisturbed: str | None, sentences: list[str]
) -> None:
    outcome = driven[name]
    assert set(outcome["stops"]) == {2}, outcome["printed"]
    for printed, sentence in zip(outcome["printed"], sentences, strict=True):
        assert re.findall(rf"^error: {sentence}", printed, re.MULTILINE), printed
        assert printed.count("error: ") == 1
        assert "--resume" in printed
        assert "Traceback" not in printed
    assert max(outcome["seconds"]) < 60
    assert set(outcome["statuses"]) == {0}, outcome["stderr"]
    if undisturbed:
        assert_same_bytes(outcome["run"], driven[undisturbed]["run"])


def test_a_full_disk_is_one_sentence_and_leaves_no_trace(
    driven: Mapping[str, Row], whole: Mapping[str, RunDir]
) -> None:
    outcome = driven[FULL]
    if "skipped" in outcome:
        pytest.skip(f"no small disk can be mounted here: {outcome['skipped']}")
    assert outcome["statuses"] == [0], outcome["stderr"]
    assert len(outcome["printed"]) >= 4, "too few stops to prove anything"
    for sentence in outcome["printed"]:
        assert re.match(r".*: no space is left on its disk \(\d+ MiB.*--resume", sentence)
    assert_same_bytes(outcome["run"], whole["sft"])


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
        if self.name == name and mode in ("a", "wb") and next(opened, times) == times:
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
