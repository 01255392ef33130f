"""A step that does not fit into memory is made in smaller parts, and is the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from files import read_rows
from reground.errors import TrainingError
from reground.training.method import LogProbs
from reground.training.run import train
from worlds import World

pytestmark = pytest.mark.usefixtures("one_thread")

RUNS = {
    "sft": ("sft", "steps=3"),
    "grpo": ("rl", "steps=2", "algorithm.kl=0.1", "rollout.updates_per_batch=2"),
    "engine": ("rl", "steps=2", "engine.truncate=2", "micro_batch_tokens=200"),
}


class Memory:
    """Ends at some number of tokens, for forwards (``with_gradient``, or all) but the first."""

    def __init__(
        self, tokens: int, monkeypatch: pytest.MonkeyPatch, *, with_gradient: bool = True
    ) -> None:
        self.tokens, self.ended, self.seen = tokens, 0, list[int]()
        forward = LogProbs.forward

        def within(module: LogProbs, batch: Any) -> Tensor:
            if torch.is_grad_enabled() or not with_gradient:
                if batch.num_tokens > self.tokens and self.seen:
                    self.ended += 1
                    raise torch.OutOfMemoryError("CUDA out of memory")
                self.seen.append(batch.num_tokens)
            return forward(module, batch)

        monkeypatch.setattr(LogProbs, "forward", within)


@pytest.mark.parametrize("name", RUNS)
def test_halves_change_no_figure(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    config = world.config(RUNS[name][0], *RUNS[name][1:])
    memory = Memory(1_000_000, monkeypatch)
    expected = read_rows(train(config, tmp_path / "whole").metrics)
    memory.tokens = max(memory.seen) * 2 // 3
    memory.seen.clear()
    found = read_rows(train(config, tmp_path / "parts").metrics)
    assert memory.ended > 0
    assert max(memory.seen[1:]) <= memory.tokens
    assert "out of memory; on with at most" in capsys.readouterr().out
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_old_and_reference_log_probs_are_made_in_halves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(RUNS["grpo"][0], *RUNS["grpo"][1:])
    memory = Memory(1_000_000, monkeypatch, with_gradient=False)
    expected = read_rows(train(config, tmp_path / "whole").metrics)
    memory.tokens = max(memory.seen) * 2 // 3
    found = read_rows(train(config, tmp_path / "parts").metrics)
    assert memory.ended > 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_what_did_not_fit_once_is_not_tried_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(150, monkeypatch)
    config = world.config("sft", "steps=3", "save_every=1")
    run = train(config, tmp_path / "run")
    assert memory.ended == 1
    (run.checkpoints / "step-000003").rename(tmp_path / "gone")
    train(config, tmp_path / "run", resume=True)
    assert memory.ended == 1


def test_one_rollout_that_does_not_fit_ends_the_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(10, monkeypatch)
    with pytest.raises(TrainingError, match=r"out of memory with \d+ tokens, .* lower max_pixels"):
        train(world.config("rl", "steps=2"), tmp_path / "run")
