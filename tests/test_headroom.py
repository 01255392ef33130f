"""Headroom: what sampled groups say about a run of RL before it starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from reground.cli import app
from reground.data.source import open_dataset
from reground.errors import ConfigError
from reground.grounding.answers import Status
from reground.training.headroom import Headroom, PromptRoom, headroom
from reground.training.rewards import Scored
from reground.training.settings import TrainConfig

SAMPLE = open_dataset("synth:referring", limit=1)[0]
CONFIG = """
method: {method}
model: tiny
data: [{{mix: {{"synth:referring": 1.0, "synth:diff": 1.0}}}}]
steps: 1
batch_size: 4
rollout: {{group_size: 4, max_tokens: 48}}
"""


def group(*members: tuple[float, float, Status]) -> list[Scored]:
    """Trajectories of one prompt by IoU, reward and status."""
    trajectory = SimpleNamespace(sample=SAMPLE)
    return [
        cast(
            Scored,
            SimpleNamespace(
                trajectory=trajectory, iou=iou, reward=reward, answer=SimpleNamespace(status=status)
            ),
        )
        for iou, reward, status in members
    ]


def test_a_group_is_counted_as_by_hand() -> None:
    ok, none = Status.OK, Status.NO_ANSWER
    room = PromptRoom.of(group((0.9, 1.1, ok), (0.5, 0.7, ok), (0.2, 0.4, ok), (0.0, 0.0, none)))
    assert (room.accuracy, room.best, room.parsed) == (0.25, 1.0, 0.75)  # 0.5 is no hit
    assert (room.mean_iou, room.spread) == pytest.approx((0.4, 1.1))
    assert room.teaches
    assert not PromptRoom.of(group((0.9, 1.1, ok), (0.6, 1.1, ok))).teaches


def room(accuracy: float, best: float, *, parsed: float = 1.0, teaches: bool = True) -> PromptRoom:
    return PromptRoom(SAMPLE, accuracy, best, accuracy, parsed, 0.5 * teaches, teaches)


@pytest.mark.parametrize(
    ("rooms", "says"),
    [
        ([room(0.5, 1.0)] * 4, "up to 50 points to gain, from 100% of groups"),
        ([room(1.0, 1.0, teaches=False)] * 3 + [room(0.9, 1.0)], "little to gain: the best of 8"),
        ([room(0.0, 0.0, parsed=0.2)] * 4, "only 20% of answers can be read: teach the form first"),
        ([room(0.0, 0.0, teaches=False)] * 3 + [room(0.5, 1.0)], "75% of groups teach nothing"),
    ],
)
def test_the_verdict_says_what_to_do(rooms: list[PromptRoom], says: str) -> None:
    assert says in Headroom(tuple(rooms), 8).verdict


def test_the_verb_shows_every_task_and_keeps_what_teaches(tmp_path: Path) -> None:
    config, kept = tmp_path / "rl.yaml", tmp_path / "kept.jsonl"
    config.write_text(CONFIG.format(method="rl"))
    asked = ["headroom", str(config), "--prompts", "12", "--keep", str(kept)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    counts = {line.split("|")[1].strip(): line.split("|") for line in lines if line.startswith("|")}
    assert int(counts["all"][2]) == 12 == int(counts["referring"][2]) + int(counts["diff"][2])
    share = float(counts["all"][7].split("±")[0]) / 100
    rows = list(open_dataset(str(kept)))
    assert len(rows) == round(12 * share) > 0
    assert CliRunner().invoke(app, asked).stdout == done.stdout  # the same prompts and samples


def test_what_does_not_sample_is_refused(tmp_path: Path) -> None:
    from reground.config import load

    config = tmp_path / "sft.yaml"
    config.write_text(CONFIG.format(method="sft"))
    with pytest.raises(ConfigError, match="found method: sft; expected method: rl"):
        next(headroom(load(TrainConfig, config), num_prompts=1))
