"""Accumulation, ranks, resume and kills change nothing."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from driver import PYTHON, Child, Ended, Job, planned, torchrun
from files import read_rows
from reground.config import dump, load
from reground.errors import RunError, TrainingError
from reground.model.load import load as load_checkpoint
from reground.runs import RunDir
from reground.training.checkpoint import checkpoints
from reground.training.run import train
from reground.training.settings import TrainConfig
from reground.training.sft import Sft
from worlds import (
    CASES,
    LORA,
    METHODS,
    Row,
    World,
    assert_same_bytes,
    column,
    poison,
    same_weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same_training(found: RunDir, want: RunDir) -> None:
    """Invariant 6: the same samples and rollouts, every figure within 1e-5."""
    for one, other in zip(read_rows(found.metrics), read_rows(want.metrics), strict=True):
        # A policy gradient of opposite signs sums to little: its rounding is that of its parts.
        assert _figures(one) == pytest.approx(_figures(other), rel=1e-5, abs=1e-7)
    if want.rollouts.exists():
        assert [_rollout_id(row) for row in read_rows(found.rollouts)] == [
            _rollout_id(row) for row in read_rows(want.rollouts)
        ]


def _figures(row: Row) -> Row:
    """All but the distance to the engine that sampled, which is rounding and nothing else."""
    return {name: value for name, value in row.items() if "logprob_gap" not in name}


def _rollout_id(row: Row) -> Row:
    return {name: row[name] for name in ("step", "sample", "rollout", "text", "reward")}


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_changes_nothing(world: World, tmp_path: Path, method: str) -> None:
    runs = [
        train(
            world.config(method, "steps=3", f"micro_batch_tokens={tokens}"), tmp_path / str(tokens)
        )
        for tokens in (1, 100_000)
    ]
    assert_same_training(*runs)


SHARDED = ("steps=3", "save_every=2", "sharding=full")
JOBS: dict[str, Callable[[World], TrainConfig]] = {
    "sft": lambda world: world.config("sft", "steps=3", "batch_size=3"),
    "dense": lambda world: world.config(
        "dense", "steps=3", 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    ),
    "grpo": lambda world: world.config("rl", "steps=3"),
    "grpo-without-kl": lambda world: world.config(
        "rl", "steps=3", "algorithm.kl=0.0", "rollout.group_size=2"
    ),
    "sft-sharded": lambda world: world.config(
        "sft", *SHARDED, "batch_size=3", world.validation(every=2)
    ),
    "sft-from-first": lambda world: world.config("sft", *SHARDED, "batch_size=3"),
    "sft-from-first-lora": lambda world: world.config(
        "sft", *SHARDED, "batch_size=3", LORA, "tuning.vision=frozen", "tuning.merger=frozen"
    ),
    "dense-from-first": lambda world: world.config(
        "dense", *SHARDED, 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    ),
    "grpo-sharded": lambda world: world.config("rl", *SHARDED),
    "lora-sharded": lambda world: world.config("rl", *SHARDED, LORA),
    "refiner-sharded": lambda world: world.refiner(*SHARDED),
    "frozen-sharded": lambda world: world.config(
        "rl", *SHARDED, "tuning={vision: frozen, merger: frozen}"
    ),
    "refiner": lambda world: world.refiner("steps=3"),
}
KILLS = 7
_OPERATIONS = range(4, 45)  # on files, between two kills


@pytest.fixture(scope="module")
def two_ranks(world: World) -> Ended:
    """What one launch of two ranks printed, which made all the runs."""
    jobs = []
    for name, job in JOBS.items():
        path = world.folder / f"{name}.yaml"
        path.write_text(dump(job(world)))
        jobs.append(Job(str(path), str(world.folder / name)))
    plan = planned(world.folder / "ranks.json", jobs)
    return torchrun(2, "jobs", plan, log=world.folder / "ranks.log").ended()


@pytest.mark.parametrize("name", JOBS)
def test_two_ranks_equal_one(world: World, two_ranks: Ended, tmp_path: Path, name: str) -> None:
    out = world.folder / name
    assert two_ranks.printed.count(f"done {out}\n") == 2, two_ranks
    alone = dataclasses.replace(JOBS[name](world), sharding="none")
    assert_same_training(RunDir(out), train(alone, tmp_path / "one"))


def test_ranks_end_well(two_ranks: Ended) -> None:
    assert two_ranks.status == 0, two_ranks


@pytest.mark.parametrize("case", ["sft", "grpo"])
def test_one_rank_goes_on_where_two_that_shared_the_weights_stopped(
    world: World, two_ranks: Ended, tmp_path: Path, case: str
) -> None:
    two = RunDir(world.folder / f"{case}-sharded")
    assert two.path.exists(), two_ranks
    one = RunDir(tmp_path / "run")
    shutil.copytree(two.path, one.path)
    last = checkpoints(one)[-1]
    assert last.step == 3
    shutil.rmtree(last.path)
    config = load(TrainConfig, one.path / "config.yaml")
    train(config, one.path, resume=True)
    assert_same_training(one, two)


@pytest.mark.parametrize("case", ["sft", "grpo"])
def test_kills_leave_no_trace(
    world: World, whole: Mapping[str, RunDir], tmp_path: Path, case: str
) -> None:
    """SIGKILL just before random file operations, each time resumed; equal byte for byte."""
    path, run, rng = (
        tmp_path / "config.yaml",
        RunDir(tmp_path / "run"),
        random.Random(f"killed-{case}"),
    )
    path.write_text(dump(dataclasses.replace(CASES[case](world), save_every=3)))
    ends = []
    for countdown in (*(rng.choice(_OPERATIONS) for _ in range(KILLS)), 0):
        words = ("until", str(countdown), str(path), str(run.path))
        ends.append(Child([*PYTHON, *words], tmp_path / "log").ended())
    deaths = [end.status for end in ends].count(-signal.SIGKILL)
    assert deaths >= 5, "too few kills to prove anything"
    assert ends[-1].status == 0, ends[-1]
    assert_same_bytes(run, whole[case])
    left = sorted(path.name for path in run.checkpoints.iterdir())
    assert left == ["step-000009", "step-000010"]


@pytest.mark.parametrize("case", CASES)
def test_nan_stops_the_run_and_resume_equals_an_undisturbed_one(
    world: World,
    whole: Mapping[str, RunDir],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    """Ten steps equal five and five: the rows of steps 6 and 7 are made again, bit for bit."""
    config = dataclasses.replace(CASES[case](world), save_every=5)
    with monkeypatch.context() as patch:
        poison(patch, METHODS[config.method], step=8)
        with pytest.raises(TrainingError, match=r"step 8: loss nan.*last good checkpoint"):
            train(config, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert column(run, "loss") == column(whole[case], "loss")[:7]
    (kept,) = checkpoints(run)
    assert kept.step == 5
    parameters = load_checkpoint(str(kept.model)).model.parameters()
    assert all(bool(parameter.isfinite().all()) for parameter in parameters)
    train(config, run.path, resume=True)
    assert_same_bytes(run, whole[case])


def test_a_rate_that_blows_up_is_noticed(world: World, tmp_path: Path) -> None:
    config = world.config("sft", "optim={lr: 1e+30, warmup: 0.0}")
    with pytest.raises(TrainingError, match=r"lower optim\.lr"):
        train(config, tmp_path / "run")
    assert all(math.isfinite(loss) for loss in column(RunDir(tmp_path / "run"), "loss"))


def test_resuming_a_finished_run_changes_nothing(world: World, tmp_path: Path) -> None:
    config = world.config("sft", "steps=2", world.validation(every=1))
    run = train(config, tmp_path / "run")
    before = [path.read_bytes() for path in (run.metrics, run.timings, run.path / "best.json")]
    train(config, run.path, resume=True)
    after = [path.read_bytes() for path in (run.metrics, run.timings, run.path / "best.json")]
    assert before == after


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config("sft", "steps=3", world.validation(every=2))
    want = train(config, tmp_path / "want")
    with monkeypatch.context() as patch, pytest.raises(TrainingError):
        poison(patch, Sft, step=2)
        train(config, tmp_path / "run")
    run = train(config, tmp_path / "run", resume=True)
    assert [row["step"] for row in read_rows(run.metrics)] == [0, 1, 2, 3]
    assert_same_bytes(run, want)


def test_an_unfinished_checkpoint_is_neither_resumed_nor_loaded(
    world: World, tmp_path: Path
) -> None:
    run = train(world.config("sft", "steps=2", "save_every=1"), tmp_path / "run")
    first, second = checkpoints(run)
    second.path.rename(second.path.with_suffix(".partial"))  # as a kill before the rename leaves it
    assert checkpoints(run) == [first]
    assert same_weights(run.path, first.model)


@pytest.mark.parametrize("case", ["sft", "dense", "grpo-lora"])
def test_a_run_depends_on_its_config_alone(world: World, tmp_path: Path, case: str) -> None:
    """Not on what drew random numbers in this process before."""
    scenes = 'data=[{mix: {"synth:listing@2-3": 1.0}}]'
    config = CASES[case](world) if case in CASES else world.config(case, scenes)
    config = dataclasses.replace(config, steps=2, validation=None)
    figures = []
    for number in range(2):
        torch.manual_seed(number)
        random.seed(number)
        figures.append(train(config, tmp_path / str(number)).metrics.read_text())
    assert figures[0] == figures[1]


def test_prompts_made_in_two_threads_are_the_same(world: World) -> None:
    """A batch is made ahead in a thread, while validation asks with the same tokenizer."""
    chat = load_checkpoint(str(world.random)).chat
    text = "the red one <|im_end|>"
    want = chat.prompt([], text).ids
    found: set[tuple[int, ...]] = set()

    def ask() -> None:
        found.update(chat.prompt([], text).ids for _ in range(1500))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {want}


@pytest.mark.parametrize("damage", ["cut", "emptied", "pickled", "gone"])
def test_a_damaged_checkpoint_is_one_sentence(world: World, tmp_path: Path, damage: str) -> None:
    config = world.config("sft", "steps=2", "save_every=1")
    run = train(config, tmp_path / "run")
    path = checkpoints(run)[-1].path / "trainer.pt"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "emptied":
            path.write_bytes(b"")
        case "pickled":
            path.write_bytes(pickle.dumps(print))
        case "gone":
            path.unlink()
    with pytest.raises(RunError, match=r"trainer\.pt: found no state.*; delete .*step-000002"):
        train(config, run.path, resume=True)
