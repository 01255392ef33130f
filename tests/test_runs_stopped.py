"""The best model of a run, and runs that cannot go on or cannot start."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from files import read_rows
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError, DataError, RunError, TrainingError
from reground.grounding.sample import ImageRef
from reground.runs import RunDir
from reground.training.checkpoint import checkpoints
from reground.training.rl import Reinforcement
from reground.training.run import train
from worlds import (
    CASES,
    World,
    column,
    poison,
    same_weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- validation --------------------------------------------------------------------------------


def test_the_best_model_is_kept(world: World, tmp_path: Path) -> None:
    """Training that destroys a good model: the best is the one before."""
    config = world.config(
        "sft",
        "steps=3",
        "optim={lr: 0.3, warmup: 0.0}",
        "save_every=1",
        world.validation(every=1),
        model=world.taught,
    )
    run = train(config, tmp_path / "run")
    scores = column(run, "validation/acc@0.5")
    assert len(scores) == 4
    assert scores[0] > max(scores[1:])
    best = json.loads((run.path / "best.json").read_text())
    assert best == {"step": 0, "validation/acc@0.5": scores[0]}
    assert same_weights(run.path / "best", checkpoints(RunDir(world.taught))[-1].model)
    assert not same_weights(run.path / "best", checkpoints(run)[-1].model)


def test_a_better_model_replaces_the_best(world: World, whole: Mapping[str, RunDir]) -> None:
    scores = {
        row["step"]: row["validation/acc@0.5"]
        for row in read_rows(whole["sft"].metrics)
        if "validation/acc@0.5" in row
    }
    assert list(scores) == [0, 4, 8, 10]
    best = json.loads((whole["sft"].path / "best.json").read_text())
    assert best["validation/acc@0.5"] == max(scores.values())
    assert best["step"] == next(step for step in scores if scores[step] == max(scores.values()))


# ---- runs that cannot go on, or cannot start ---------------------------------------------------


def test_batches_without_variance_are_counted_and_then_an_error(
    world: World, tmp_path: Path
) -> None:
    config = world.config("rl", "rollout.patience=3", "rollout.max_tokens=4", model=world.random)
    with pytest.raises(TrainingError, match=r"step 3: 3 batches in a row.*iou, format") as raised:
        train(config, tmp_path / "run")
    assert "rollout.temperature" in str(raised.value)
    run = RunDir(tmp_path / "run")
    assert column(run, "rollout/zero_variance_batches") == [1, 2]
    assert column(run, "advantage/zero_variance") == [1, 1]


def test_the_count_of_zero_variance_batches_survives_a_resume(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(
        "rl", "rollout.patience=4", "rollout.max_tokens=4", "save_every=2", model=world.random
    )
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="step 3: loss nan"):
        poison(patch, Reinforcement, step=3)
        train(config, tmp_path / "run")
    with pytest.raises(TrainingError, match="step 4: 4 batches"):
        train(config, tmp_path / "run", resume=True)


def test_a_batch_without_variance_trains_nothing_without_kl(world: World, tmp_path: Path) -> None:
    config = world.config(
        "rl", "steps=2", "algorithm.kl=0.0", "rollout.max_tokens=4", model=world.random
    )
    run = train(config, tmp_path / "run")
    assert column(run, "grad_norm") == [0, 0]
    assert column(run, "loss") == [0, 0]


def test_resume_with_another_config_names_the_keys(
    world: World, whole: Mapping[str, RunDir]
) -> None:
    config = dataclasses.replace(CASES["grpo"](world), seed=3)
    config = dataclasses.replace(config, algorithm=dataclasses.replace(config.algorithm, kl=0.5))
    before = whole["grpo"].metrics.read_bytes()
    with pytest.raises(RunError, match=r"seed: 0 -> 3; algorithm\.kl: 0\.04 -> 0\.5"):
        train(config, whole["grpo"].path, resume=True)
    assert whole["grpo"].metrics.read_bytes() == before


def test_a_run_does_not_go_on_with_other_rows(world: World, tmp_path: Path) -> None:
    rows = list(open_dataset(str(world.four)))
    data = tmp_path / "rows.jsonl"
    save_dataset(data, rows)
    config = world.config("sft", f"data=[{{mix: {{{json.dumps(str(data))}: 1.0}}}}]", "steps=2")
    run = train(config, tmp_path / "run")
    before = run.metrics.read_bytes()
    save_dataset(data, [dataclasses.replace(row, think="another") for row in rows])
    with pytest.raises(RunError, match=r"rows\.jsonl holds other rows.*--data-changed"):
        train(config, run.path, resume=True)
    assert run.metrics.read_bytes() == before
    train(config, run.path, resume=True, data_changed=True)
    assert "files" in (run.path / "resumed.jsonl").read_text()


def test_photos_that_are_gone_are_named_before_a_run_begins(world: World, tmp_path: Path) -> None:
    rows = list(open_dataset(str(world.four)))
    gone = ImageRef(str(tmp_path / "gone.png"), 112, 112)
    save_dataset(tmp_path / "rows.jsonl", [dataclasses.replace(r, images=(gone,)) for r in rows])
    mix = f"data=[{{mix: {{{json.dumps(str(tmp_path / 'rows.jsonl'))}: 1.0}}}}]"
    with pytest.raises(DataError, match=r"1 of 1 photos cannot be used: .*gone\.png: no such"):
        train(world.config("sft", mix), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_occupied_folder_is_refused(world: World, whole: Mapping[str, RunDir]) -> None:
    with pytest.raises(RunError, match="already holds a run; give --resume"):
        train(CASES["sft"](world), whole["sft"].path)


def test_clean_starts_anew(world: World, tmp_path: Path) -> None:
    runs = [
        train(world.config("sft", f"steps={steps}"), tmp_path / "run", clean=True)
        for steps in (3, 2)
    ]
    assert [row["step"] for row in read_rows(runs[1].metrics)] == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.0.mix={empty.jsonl: 1.0}"], DataError, "holds no sample"),
        (["data.0.mix={absent.jsonl: 1.0}"], DataError, "no such file"),
        (["validation={data: empty.jsonl}"], DataError, "holds no sample"),
        (["tuning={vision: frozen, merger: frozen, language: frozen}"], ConfigError, "frozen"),
        (["family=univg_r2"], ConfigError, "did you mean 'univg_r1'"),
        (["prompt=tinny"], ConfigError, "did you mean 'tiny'"),
        (["max_pixels=1"], ConfigError, r"images of \d+ to 1 pixels; .* raise max_pixels"),
    ],
)
def test_what_cannot_start_leaves_no_folder(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    error: type[Exception],
    message: str,
) -> None:
    """So that the mended command works as it stands, without --clean."""
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    with pytest.raises(error, match=message):
        train(world.config("sft", *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_clean_keeps_the_old_run_where_the_new_one_cannot_start(
    world: World, tmp_path: Path
) -> None:
    run = train(world.config("sft", "steps=1"), tmp_path / "run")
    before = run.metrics.read_bytes()
    with pytest.raises(DataError):
        train(world.config("sft", "data.0.mix={absent.jsonl: 1.0}"), run.path, clean=True)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "stepz: unknown key; did you mean 'steps'?"),
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean 'optim.lr'?"),
        ("rollout.group_sise=4", "did you mean 'rollout.group_size'?"),
        ("group_size=4", "did you mean 'rollout.group_size'?"),
        ("tuning.visions=full", "did you mean 'tuning.vision'?"),
        ("method=ppo", "method: unknown 'ppo'; known are sft, rl, dense"),
        ("steps=many", 'steps: found "many", expected an integer'),
        ("rollout.top_p=0.9", "rollout.top_p: unknown key"),  # training refuses a cut distribution
        ("data=[]", "data phases must end in rising order"),
        ("data.0.until=0.5", "the last at 1.0; found [0.5]"),
        ("data=[{mix: {}}]", "data.0.mix: found {}, expected at least 1 of them"),
        ("algorithm={type: grppo}", "algorithm.type: unknown 'grppo'; did you mean 'grpo'?"),
        ("algorithm={type: rloo, clip: 0.2}", "algorithm.clip: rloo has no such setting; it has"),
        ("rewards=[{type: iouu}]", "rewards.0.type: unknown 'iouu'; did you mean 'iou'?"),
        ("rewards=[{type: iou}, {type: iou}]", "rewards: iou is there twice"),
        ("rewards=[{type: iou, weight: 0}]", "rewards: every weight is 0"),
        ("rewards=[{type: refinement}]", "about a detector's boxes; set tools.specs"),
        ("rewards=[{type: length, limit: 4, buffer: 5}]", "buffer 5 is above limit 4"),
    ],
)
def test_a_wrong_setting_is_explained(world: World, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        world.config("rl", override)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=-1", "at least 0"),
        ("steps=0", "at least 1"),
        ("batch_size=0", "at least 1"),
        ("micro_batch_tokens=0", "at least 1"),
        ("min_pixels=0", "at least 1"),
        ("max_pixels=0", "at least 1"),
        ("save_every=0", "at least 1"),
        ("keep=-1", "at least 1"),
        ("collective_timeout_s=0", "above 0"),
        ("runtime.batch_tokens=0", "at least 1"),
        ("data.0.until=0", "above 0"),
        ("data.0.until=1.5", "at most 1"),
        ("data=[{mix: {a.jsonl: 0}}]", "above 0"),
        ("data=[{mix: {a.jsonl: -1}}]", "above 0"),
        ("optim.lr=-1e-3", "above 0"),
        ("optim.lr=.inf", "a finite number"),
        ("optim.lr=.nan", "a finite number"),
        ("optim.clip_norm=-1", "above 0"),
        ("optim.warmup=7", "at most 1"),
        ("optim.final=-1", "at least 0"),
        ("optim.weight_decay=-1", "at least 0"),
        ("optim.betas=[1.0, 0.9]", "below 1"),
        ("tuning.lora_rank=0", "at least 1"),
        ("vision_cache.memory=-1", "at least 0"),
        ("sft.digit_weights=[]", "at least 1 of them"),
        ("sft.digit_weights=[-1]", "at least 0"),
        ("sft.questions_per_image=0", "at least 1"),
        ("rollout.group_size=1", "at least 2"),
        ("rollout.temperature=0", "above 0"),
        ("rollout.max_tokens=0", "at least 1"),
        ("rollout.updates_per_batch=0", "at least 1"),
        ("rollout.patience=0", "at least 1"),
        ("algorithm={type: grpo, kl: -1}", "at least 0"),
        ("algorithm={type: grpo, clip: -0.2}", "above 0"),
        ("algorithm={type: dapo, dynamic_sampling: {threshold: -1}}", "at least 0"),
        ("algorithm={type: cispo, max_weight: 0.5}", "at least 1"),
        ("rewards=[{type: iou, weight: -1}]", "at least 0"),
        ("rewards=[{type: iou_threshold, threshold: 2}]", "at most 1"),
        ("rewards=[]", "at least 1 of them"),
        ("tools.max_calls=0", "at least 1"),
        ("tools.timeout_s=0", "above 0"),
        ("engine.tolerance=0", "above 0"),
        ("engine.truncate=0.5", "at least 1"),
        ("engine.vllm={memory: 1.5}", "below 1"),
        ("validation={data: a.jsonl, every: 0}", "at least 1"),
        ("validation={data: a.jsonl, limit: 0}", "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(
    world: World, override: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=f"found .*, expected {expected}") as raised:
        world.config("rl", override)
    assert str(raised.value).startswith(override.partition("=")[0])
    assert "\n" not in str(raised.value)


def test_rewards_of_no_file_are_known_before_a_model_is_loaded(
    world: World, tmp_path: Path
) -> None:
    config = world.config("rl", "model=absent", "rewards=[{path: absent.py:centre}]")
    with pytest.raises(ConfigError, match=r"absent\.py:centre: no such file"):
        train(config, tmp_path / "run")
