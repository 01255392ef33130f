"""A run's model as a folder: the very model that was trained, for anyone to load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from reground.cli import app
from reground.errors import ModelError, RunError
from reground.model.load import load
from reground.training import export as exporting
from reground.training.export import export
from reground.training.run import train
from worlds import LORA, World

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tuning", ["tuning={}", LORA], ids=["full", "lora"])
def test_the_folder_is_the_trained_model(world: World, tmp_path: Path, tuning: str) -> None:
    run = train(world.config("sft", "steps=3", tuning), tmp_path / "run")
    done = export(run.path, tmp_path / "model")
    assert done.step == 3
    assert done.from_live < 1e-4 < 1e-2 < done.from_start
    names = {path.name for path in done.folder.iterdir()}
    assert {"config.json", "generation_config.json", "preprocessor_config.json"} <= names
    plain = AutoModelForImageTextToText.from_pretrained(done.folder)
    assert not any("lora" in name for name in plain.state_dict())


def test_a_folder_in_bfloat16(world: World, tmp_path: Path) -> None:
    run = train(world.config("sft", "steps=3"), tmp_path / "run")
    out = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(run.path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "step 3 in bfloat16" in done.output
    model = AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16


def test_a_model_that_learnt_nothing_is_refused(world: World, tmp_path: Path) -> None:
    run = train(world.config("sft", "steps=1", "optim.lr=1e-30"), tmp_path / "run")
    with pytest.raises(ModelError, match="equals the model it started from"):
        export(run.path, tmp_path / "model")


def test_another_model_than_the_trained_one_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(world.config("sft", "steps=3"), tmp_path / "run")
    other = load(str(world.taught))
    monkeypatch.setattr(exporting, "load", lambda path, runtime: other)
    with pytest.raises(ModelError, match=r"differ by .* from the trained one's"):
        export(run.path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("there", ["run", "out"])
def test_what_cannot_be_exported_is_one_sentence(world: World, tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    complaint = "is there already" if there == "out" else "has saved a checkpoint"
    with pytest.raises(RunError, match=complaint):
        export(tmp_path / "run", tmp_path / "out")
