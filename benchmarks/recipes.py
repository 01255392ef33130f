"""What the full-size recipes would need, derived from their configs: nothing here is measured.

Sizes of the models are those that their cards publish. An H100 of 80 GB computes 989 TFLOP/s in
bfloat16, of which an update is taken to reach ``UTILISATION``, and reads 3.35 TB/s, of which
decoding is taken to reach ``BANDWIDTH``. A weight that is trained costs 16 bytes (itself, gradient
and two moments in float32), spread over the GPUs; one that is frozen costs 4, next to adapters 2.
An A10 of 24 GB computes 125 TFLOP/s and reads 0.6 TB/s.

    python benchmarks/recipes.py --out docs/results/recipes.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.config import load
from reground.training.settings import TrainConfig

UTILISATION, BANDWIDTH = 0.3, 0.5


@dataclass(frozen=True, slots=True)
class Model:
    """Weights of the language model (its table of tokens among them) and of the tower."""

    language: float
    vision: float
    layers: int
    hidden: int


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs of one kind: GB, FLOP/s and bytes read per second of each."""

    gpus: int
    gb: int
    flops: float
    bytes: float


H100S, A10 = Machine(8, 80, 989e12, 3.35e12), Machine(1, 24, 125e12, 0.6e12)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A config, its model, and how many tokens prompts and answers are taken to hold."""

    path: str
    model: Model
    prompt: int
    answer: int
    machine: Machine = H100S


SMALL, LARGE = Model(1.54e9, 0.67e9, 28, 1536), Model(7.62e9, 0.68e9, 28, 3584)
RECIPES = (  # three images of 512 tokens and a question; one photo of RefCOCO and a tool's result
    Recipe("configs/univg_r1/qwen2_vl_2b_sft.yaml", SMALL, 1650, 200),
    Recipe("configs/univg_r1/qwen2_vl_2b_grpo.yaml", SMALL, 1650, 200),
    Recipe("configs/univg_r1/qwen2_vl_7b_sft.yaml", LARGE, 1650, 200),
    Recipe("configs/univg_r1/qwen2_vl_7b_grpo.yaml", LARGE, 1650, 200),
    Recipe("configs/vg_refiner/qwen2_5_vl_7b.yaml", LARGE, 700, 350),
    Recipe("configs/single_gpu/qwen2_vl_2b_grpo.yaml", SMALL, 1650, 200, A10),
    Recipe("configs/photos/large/1_questions.yaml", SMALL, 850, 40, A10),  # one photo of 768 tokens
)


def main() -> None:
    """Derive and publish."""
    asked = parser(__doc__).parse_args()
    config = {"utilisation": UTILISATION, "bandwidth": BANDWIDTH}
    rows = {r.path.removeprefix("configs/").removesuffix(".yaml"): derived(r) for r in RECIPES}
    publish(rows, out=asked.out, config=config)


def derived(recipe: Recipe) -> dict[str, Any]:
    """GiB of a GPU, and hours."""
    machine = recipe.machine
    config = load(TrainConfig, Path(recipe.path))
    samples = config.rollout.group_size if config.method == "rl" else 1
    tokens = config.batch_size * (recipe.prompt + samples * recipe.answer)
    passes = 8 if config.tuning.gradient_checkpointing else 6  # FLOPs of a token for each weight
    has_reference = config.method == "rl" and getattr(config.algorithm, "kl", 0) > 0
    flops = (passes + 2 * has_reference) * recipe.model.language * tokens
    seconds = {"update": flops / (machine.gpus * machine.flops * UTILISATION), "decoding": 0.0}
    if config.method == "rl":
        one_token = 2 * recipe.model.language / (machine.bytes * BANDWIDTH)
        seconds["decoding"] = recipe.answer * one_token
    return {
        "gpus": f"{machine.gpus} x {machine.gb} GB",
        "gib": round(_bytes(config, recipe, has_reference=has_reference) / 2**30),
        "engine_gib": round(machine.gb * config.engine.vllm.memory) if config.engine.vllm else 0,
        "seconds a step": {name: round(value, 2) for name, value in seconds.items()},
        "steps": config.steps,
        "hours": round(sum(seconds.values()) * config.steps / 3600, 1),
    }


def _bytes(config: TrainConfig, recipe: Recipe, *, has_reference: bool) -> float:
    """Weights, gradients and moments; kept activations of the layers; logits of a chunk."""
    model = recipe.model
    states = (16 + 4 * has_reference) * model.language / recipe.machine.gpus + 4 * model.vision
    if (
        config.tuning.language == "lora"
    ):  # seven matrices a layer, up to 5.8 times as long on a side
        adapters = 7 * model.layers * config.tuning.lora_rank * 4 * model.hidden
        states = 2 * (model.language + model.vision) + 16 * adapters
    tokens = config.micro_batch_tokens
    activations = 2 * tokens * model.hidden * (model.layers + 40)  # 40: one layer, made again
    logits = 2048 * 152_000 * 4 * 3
    return states + activations + logits


if __name__ == "__main__":
    main()
