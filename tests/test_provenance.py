"""A run says with what it was made, and whether another one was asked the same."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from files import read_rows
from made import run_of
from reground.data.source import open_dataset
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import differing, read_run, with_provenance
from reground.model.load import load
from reground.provenance import provenance
from reground.runs import RunDir
from reground.training.run import train
from worlds import Row, World

CPU = {"device": "cpu", "dtype": "float32"}


def test_the_digest_is_of_what_was_asked_in_which_precision() -> None:
    one = provenance({"seed": 0, "data": "a"}, **CPU)
    assert (
        one.digest == provenance({"data": "a", "seed": 0}, device="a GPU", dtype="float32").digest
    )
    others = [provenance({"data": "a", "seed": 1}, **CPU), provenance({"data": "a", "seed": 0})]
    assert len({one.digest, *(other.digest for other in others)}) == 3
    assert one.versions["torch"] == version("torch")
    assert one.versions.keys() == {"reground", "torch", "transformers", "vllm"}


def test_an_evaluation_names_what_made_it(world: World, tmp_path: Path) -> None:
    runs = []
    for name, limit in (("one", 2), ("again", 2), ("other", 1)):
        question = Question(
            model=str(world.random), data=str(world.four), limit=limit, max_tokens=2
        )
        evaluate(tmp_path / name, question)
        runs.append(read_run(tmp_path / name))
    one, again, other = (run.made for run in runs)
    assert one and again and other
    assert (one.device, one.dtype) == ("cpu", str(load(str(world.random)).model.dtype)[6:])
    assert one == again
    assert one.digest != other.digest


def test_answers_in_another_precision_are_of_another_run() -> None:
    samples = open_dataset("synth:diff", seed=0, limit=1)[:]
    run = with_provenance(run_of(samples), CPU)
    elsewhere = with_provenance(run_of(samples), CPU | {"device": "a GPU"})
    half = with_provenance(run_of(samples), CPU | {"dtype": "bfloat16"})
    assert differing(run, elsewhere, apart_from="endpoint") == []
    assert differing(run, half, apart_from="endpoint") == ["made.dtype"]


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    config = world.config("sft", "steps=1")
    return train(config, tmp_path_factory.mktemp("trained") / "run")


def made(run: RunDir) -> Row:
    found: Row = json.loads((run.path / "made.json").read_text())
    return found


def test_a_training_names_what_made_it(world: World, trained: RunDir, tmp_path: Path) -> None:
    assert made(trained).items() >= CPU.items()
    changes = {"micro_batch_tokens=7": True, "optim.lr=0.5": False}
    for number, (change, is_same) in enumerate(changes.items()):
        run = train(world.config("sft", "steps=1", change), tmp_path / str(number))
        assert (made(run)["digest"] == made(trained)["digest"]) is is_same


def test_a_training_names_how_its_rows_are_asked(
    world: World, trained: RunDir, tmp_path: Path
) -> None:
    usual = made(trained)
    own = made(train(world.config("sft", "steps=1", "protocol=think"), tmp_path / "think"))
    for found, protocol, by in ((usual, "direct", "checkpoint"), (own, "think", "config")):
        assert (found["family"], found["protocol"], found["protocol_by"]) == (
            "univg_r1",
            protocol,
            by,
        )
        assert list(found["prompts"]) == [protocol]
        assert found["prompts"][protocol].keys() == {"name", "sha256", "chosen_by", "wording"}
    assert usual["digest"] != own["digest"]


def test_what_goes_on_with_a_run_is_kept_as_well(
    world: World, trained: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config("sft", "steps=1")
    train(config, trained.path, resume=True)
    assert not (trained.path / "resumed.jsonl").exists()
    monkeypatch.setattr("reground.provenance.commit", lambda: "another")
    train(config, trained.path, resume=True)
    (row,) = read_rows(trained.path / "resumed.jsonl")
    assert row["made"] == made(trained) | {"commit": "another"}
