"""What an update costs: counted as by hand, measured, told as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from reground.cli import app
from reground.training.bench import bench, prepared
from worlds import World

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 112


def test_flops_are_those_of_a_formula(world: World) -> None:
    config = world.config("grpo", "grpo={group_size: 3, max_tokens: 27}")
    update = prepared(config, images=2, side=SIDE)
    found = bench(config, images=2, side=SIDE, repeats=1)
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
    sizes = ("grpo={group_size: 4, max_tokens: 16}",)
    whole = bench(world.config("grpo", *sizes), images=1, side=SIDE, repeats=2)
    part = bench(world.config("grpo", *sizes, frozen), images=1, side=SIDE, repeats=2)
    assert part["trained"] < whole["trained"] == whole["parameters"]
    assert part["counted MiB"] < whole["counted MiB"]
    assert sum(part["gflop"].values()) < sum(whole["gflop"].values())
    assert 0 < whole["seconds"]["min"] <= whole["seconds"]["median"] <= whole["seconds"]["max"]
    assert whole["completion tokens"] == 4 * 16


def test_the_command_prints_and_keeps_json(world: World, tmp_path: Path) -> None:
    config = tmp_path / "grpo.yaml"
    config.write_text(
        f"method: grpo\nmodel: {world.random}\ndata: [{{mix: {{'synth:diff': 1}}}}]\n"
    )
    words = ["bench", str(config), "grpo.group_size=2", "grpo.max_tokens=8", "--side", str(SIDE)]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "found.json").read_text())
    assert json.loads(done.stdout).items() <= kept.items()
    assert kept["completion tokens"] == 16
    assert "reground bench" in kept["command"]


def test_a_config_of_another_method_is_refused(world: World, tmp_path: Path) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(f"method: sft\nmodel: {world.random}\ndata: [{{mix: {{'synth:diff': 1}}}}]\n")
    done = CliRunner().invoke(app, ["bench", str(config)])
    assert "method is sft; expected grpo" in str(done.exception)
