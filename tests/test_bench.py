"""What an update costs: counted as by hand, measured, told as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gpu
import growth as growing
import pytest
import update
from growth import Point, growth, points
from torch import nn
from update import measure, prepared
from vs_trl import _measured, why_not

from reground.config import load
from reground.errors import ConfigError
from reground.training.settings import TrainConfig
from worlds import World

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 112


def test_flops_are_those_of_a_formula(world: World) -> None:
    config = world.config("rl", "rollout={group_size: 3, max_tokens: 27}")
    update = prepared(config, images=2, side=SIDE)
    found = measure(config, images=2, side=SIDE, repeats=1)
    batch = update.packed.batch
    language = update.module.model.model.language_model  # type: ignore[union-attr]
    linear = sum(
        each.weight.numel() for each in language.layers.modules() if isinstance(each, nn.Linear)
    )
    tokens = batch.prompt_ids.numel() + batch.suffix_ids.numel()
    gflop = found["gflop"]
    assert gflop["linear"] == pytest.approx(6 * linear * tokens / 1e9, abs=1e-4)
    # Scores and values, once forward and two and a half times backward: the prompt below one block
    # of keys is whole, each completion sees the prompt and itself.
    prompt, (_, count, length) = batch.prompt_ids.shape[1], batch.suffix_ids.shape
    pairs = prompt**2 + count * length * (prompt + length)
    width = config_heads(language) * language.layers[0].self_attn.head_dim
    assert gflop["attention"] == pytest.approx(
        7 * 2 * pairs * width * len(language.layers) / 1e9, abs=1e-4
    )
    head = update.module.model.lm_head.weight.numel()  # type: ignore[union-attr]
    assert gflop["lm_head"] == pytest.approx(6 * head * count * length / 1e9, abs=1e-4)
    assert gflop["vision"] > 0


def config_heads(language: nn.Module) -> int:
    heads: int = language.config.num_attention_heads  # type: ignore[union-attr, assignment]
    return heads


def test_what_is_frozen_costs_less(world: World) -> None:
    frozen = "tuning={vision: frozen, merger: frozen, language: lora, lora_rank: 2}"
    sizes = ("rollout={group_size: 4, max_tokens: 16}",)
    whole = measure(world.config("rl", *sizes), images=1, side=SIDE, repeats=2)
    part = measure(world.config("rl", *sizes, frozen), images=1, side=SIDE, repeats=2)
    assert part["trained"] < whole["trained"] == whole["parameters"]
    assert part["counted MiB"] < whole["counted MiB"]
    assert sum(part["gflop"].values()) < sum(whole["gflop"].values())
    assert 0 < whole["seconds"]["min"] <= whole["seconds"]["median"] <= whole["seconds"]["max"]
    assert whole["completion tokens"] == 4 * 16


def test_the_script_prints_and_keeps_json(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "grpo.yaml"
    config.write_text(f"method: rl\nmodel: {world.random}\ndata: [{{mix: {{'synth:diff': 1}}}}]\n")
    words = [str(config), "rollout.group_size=2", "--side", str(SIDE), "rollout.max_tokens=8"]
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks/update.py", *words, "--out", str(out)])
    update.main()
    kept = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == kept
    assert kept["completion tokens"] == 16
    assert "benchmarks/update.py" in kept["command"]


def test_a_config_of_another_method_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="method is sft; expected rl"):
        measure(world.config("sft"), images=1, side=SIDE, repeats=1)


@pytest.mark.parametrize("overrides", [*map(growing.shape, growing.SCALES), gpu.GRPO])
def test_scripts_override_what_configs_have(overrides: list[str]) -> None:
    changed = load(TrainConfig, growing.CONFIG, overrides)
    assert changed != load(TrainConfig, growing.CONFIG) and changed.method == "rl"


def test_growth_changes_one_thing_at_a_time(world: World) -> None:
    start = Point(world.config("rl", "rollout={group_size: 8}"), 1)
    found = [(own.config.rollout.group_size, own.images) for own in points(start)]
    assert found == [(8, 1), (4, 1), (16, 1), (32, 1), (8, 2), (8, 4), (8, 8)]
    few = Point(world.config("rl", "rollout={group_size: 2}"), 2)
    found = [(own.config.rollout.group_size, own.images) for own in points(few)]
    assert found == [(2, 2), (4, 2), (8, 2), (2, 1), (2, 4), (2, 8)]


def test_growth_is_told_beside_the_flops(world: World) -> None:
    start = Point(world.config("rl", "rollout={group_size: 2, max_tokens: 8}"), 1)
    found = growth([start, start.sized(completions=4)], side=SIDE, repeats=1)
    first, second = found["points"]
    assert first["seconds over FLOPs"]["median"] == 1.0
    assert (second["completions"], second["completion tokens"]) == (4, 4 * 8)
    grown = sum(second["gflop"].values()) / sum(first["gflop"].values())
    assert second["seconds over FLOPs"]["median"] == pytest.approx(
        second["seconds"]["median"] / first["seconds"]["median"] / grown, rel=0.02
    )


def test_without_trl_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vs_trl.find_spec", lambda name: None)
    assert why_not() == (
        "found no trl, datasets, torchvision; pip install trl datasets torchvision"
    )


def test_our_side_of_the_comparison(world: World) -> None:
    config = world.config("rl", "rollout={group_size: 2, max_tokens: 8}")
    found = _measured("reground", config, 2, SIDE)
    assert 0 < found["update_s"] < found["step_s"]
    assert 0 < found["completion"] <= 8
