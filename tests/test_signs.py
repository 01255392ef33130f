"""A run says by itself that it learns the wrong thing, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from files import read_rows
from reground.data.source import open_dataset, save_dataset
from reground.grounding.boxes import Box
from reground.grounding.sample import Sample, Target
from reground.model.load import Checkpoint
from reground.training import run as runs
from reground.training.checkpoint import checkpoints
from reground.training.rewards import Format, Giou, Iou
from reground.training.run import train
from reground.training.settings import Tuning
from reground.training.signs import RECENT, Row, new_signs
from worlds import World, make_world, single_thread

TERMS = (Iou(), Format())
SHORT = {"best": "rollout/best", "still": "advantage/zero_variance"}
USUAL = {
    "varied/iou": 0.5,
    "varied/format": 0.5,
    "rollout/best": 0.5,
    "grad_norm/vision": 1.0,
    "frame/declared": 0.5,
    "frame/pixels": 0.1,
    "frame/thousand_yx": 0.2,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with single_thread():
        yield make_world(tmp_path_factory.mktemp("signs"))


def row(**changes: float) -> dict[str, float]:
    return USUAL | {SHORT.get(key, key.replace("__", "/")): own for key, own in changes.items()}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([row()] * 10, []),
        ([row(varied__iou=0.0)] * 4, []),  # too few to say
        ([row(varied__iou=0.0)] * 5, ["form"]),
        ([row(varied__iou=0.01)] * 10, ["form"]),
        ([row(varied__format=0.0)] * 10, []),  # the form is known by now
        ([row(varied__iou=0.0, varied__format=0.0)] * 10, []),  # the loop stops such runs
        ([row(frame__pixels=0.61)] * 10, ["frame"]),
        ([row(frame__pixels=0.59)] * 10, []),
        ([row(grad_norm__vision=0.0)] * 10, ["gradient vision"]),
        ([row(grad_norm__vision=0.0)] * 9 + [row()], []),
        ([row(grad_norm__vision=0.0, still=1.0)] * 10, []),  # nothing to learn from
        ([{"loss": 1.0, "grad_norm/merger": 0.0}] * 10, ["gradient merger"]),
        ([row(varied__iou=0.0)] * 20, []),  # said before
        ([row()] * 10 + [row(varied__iou=0.0)] * 10, ["form"]),
    ],
)
def test_signs_of_rows(rows: list[Row], found: list[str]) -> None:
    assert [sign.kind for sign in new_signs(rows, TERMS)] == found


def test_only_terms_that_count_are_looked_at() -> None:
    rows = [row(varied__iou=0.0, varied__giou=0.5)] * RECENT
    assert new_signs(rows, (*TERMS, Giou(weight=0.0)))[0].kind == "form"
    assert new_signs(rows, (*TERMS, Giou())) == []


def changed(world: World, name: str, box: Callable[[Sample], Box]) -> str:
    """The world's samples with other true boxes, as an override."""
    samples = [
        replace(each, targets=(Target(each.target_image, box(each)),))
        for each in open_dataset(str(world.four))
    ]
    save_dataset(world.folder / name, samples)
    return f"data=[{{mix: {{{json.dumps(str(world.folder / name))}: 1.0}}}}]"


def corner(sample: Sample) -> Box:
    return Box(0, 0, 2, 2, sample.images[sample.target_image].frame)


def mirrored(sample: Sample) -> Box:
    """The box that the model was taught, with y before x."""
    frame = sample.images[sample.target_image].frame
    across, down = frame.width / frame.height, frame.height / frame.width
    x1, y1, x2, y2 = sample.boxes[0].xyxy
    return Box(y1 * across, x1 * down, y2 * across, x2 * down, frame)


def says(folder: Path) -> list[str]:
    path = folder / "warnings.jsonl"
    return [str(each["says"]) for each in read_rows(path)] if path.exists() else []


def test_a_run_that_learns_the_form_alone_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    data = changed(world, "corner.jsonl", corner)
    aims = "rewards=[{type: iou_threshold}, {type: format}]"
    run = world.run("form", world.config("rl", data, aims))
    (said,) = [each for each in says(run.path) if "form" in each]
    assert "by format alone, not by iou_above_0.5: only the form is being learned" in said
    assert "is right in 0% of groups" in said
    assert "only the form is being learned" in " ".join(capsys.readouterr().out.split())


def test_a_run_whose_boxes_are_in_another_frame_says_so(world: World) -> None:
    data = changed(world, "mirrored.jsonl", mirrored)
    run = world.run("frame", world.config("rl", data, "optim.lr=1e-6"))
    assert any("answers fit best as thousand, y before x" in each for each in says(run.path))


@pytest.mark.parametrize("method", ["sft", "rl"])
def test_a_run_names_parts_that_no_gradient_reaches(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def tuned(checkpoint: Checkpoint, tuning: Tuning) -> None:
        usual(checkpoint, tuning)
        for block in checkpoint.model.model.visual.blocks:
            block.register_forward_hook(cut)

    def cut(module: object, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.detach()

    usual = runs.set_tuning
    monkeypatch.setattr(runs, "set_tuning", tuned)
    only = "tuning={vision: full, merger: full, language: frozen}"
    run = train(world.config(method, only), world.folder / f"cut-{method}")
    (said,) = [each for each in says(run.path) if "gradient" in each]
    assert "no gradient reached vision, which tuning trains" in said
    assert any(each["grad_norm/merger"] > 0 for each in read_rows(run.metrics))


def test_a_run_that_goes_well_says_nothing(world: World) -> None:
    assert says(world.run("well", world.config("sft")).path) == []


def test_a_resumed_run_says_what_an_undisturbed_one_says(world: World) -> None:
    data = changed(world, "again.jsonl", mirrored)
    config = world.config("rl", "steps=20", "save_every=5", "keep=9", "optim.lr=1e-6", data)
    run = world.run("whole", config)
    before = run.warnings.read_bytes(), run.metrics.read_bytes()
    for saved in checkpoints(run)[1:]:  # as if it had ended at step 5, in the middle of a window
        shutil.rmtree(saved.path)
    train(config, run.path, resume=True)
    assert (run.warnings.read_bytes(), run.metrics.read_bytes()) == before
