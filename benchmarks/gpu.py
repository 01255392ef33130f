"""Seconds and memory of evaluation, an SFT step and a GRPO step with LoRA, at the size of 3B.

Random weights in the shape of configs/bench/3b.yaml beside this file, drawn scenes as data, on the
GPU where there is one. Each part has a process of its own; the first step of each training is left
out.

    python benchmarks/gpu.py --out docs/results/gpu.json
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import device
from common import parser, publish

from reground.config import load
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question
from reground.io import read_jsonl
from reground.model.load import save
from reground.model.runtime import Runtime
from reground.training.run import starting_checkpoint, train
from reground.training.settings import TrainConfig

CONFIG = Path(__file__).parent / "configs/bench/3b.yaml"
LORA = "tuning={vision: frozen, merger: frozen, language: lora, lora_rank: 64}"
GRPO = ["method=rl", "batch_size=1", "rollout={group_size: 8, max_tokens: 256}", LORA]


def main() -> None:
    """Measure each part in a process of its own."""
    command_line = parser(__doc__)
    command_line.add_argument("--config", type=Path, default=CONFIG)
    command_line.add_argument("--samples", type=int, default=64, help="of the evaluation")
    asked = command_line.parse_args()
    with tempfile.TemporaryDirectory() as place:
        given = (str(asked.config), place, asked.samples)
        figures = {name: device.in_own_process(part, *given) for name, part in PARTS.items()}
    about = {"config": asked.config.name, "samples": asked.samples, "grpo": GRPO}
    publish(figures, out=asked.out, config=about)


def evaluation(config: str, place: str, samples: int) -> dict[str, Any]:
    """Greedy answers of up to 64 tokens, in batches, loading left out."""
    settings = load(TrainConfig, Path(config))
    runtime = Runtime.resolve()
    checkpoint = starting_checkpoint(settings, runtime)
    parameters = sum(each.numel() for each in checkpoint.model.parameters())
    save(checkpoint, Path(place) / "model")
    del checkpoint
    (data,) = settings.data[0].mix
    seconds = [
        device.seconds(
            lambda count=count: evaluate(  # type: ignore[misc]
                Path(place) / str(count),
                Question(model=f"{place}/model", data=data, limit=count, max_tokens=64),
            )
        )
        for count in (1, 1 + samples)
    ]
    return {
        "device": device.name(),
        "parameters": parameters,
        "seconds a sample": round((seconds[1] - seconds[0]) / samples, 4),
        "peak MiB": round(device.peak_mib(), 1),
    }


def sft(config: str, place: str, _: int) -> dict[str, Any]:
    """Steps of supervised fine-tuning, all weights."""
    return _steps(config, Path(place) / "sft", [])


def grpo(config: str, place: str, _: int) -> dict[str, Any]:
    """Steps of GRPO with LoRA, the model itself sampling."""
    return _steps(config, Path(place) / "grpo", GRPO)


def _steps(config: str, out: Path, overrides: list[str]) -> dict[str, Any]:
    run = train(load(TrainConfig, Path(config), overrides), out)
    rows = list(read_jsonl(run.timings, dict))[1:]
    batch, update = (
        round(statistics.median(float(row[f"seconds/{part}"]) for row in rows), 4)
        for part in ("batch", "update")
    )
    return {
        "seconds of a batch": batch,
        "seconds of an update": update,
        "peak MiB": round(device.peak_mib(), 1),
    }


PARTS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "evaluation": evaluation,
    "sft step": sft,
    "grpo step": grpo,
}

if __name__ == "__main__":
    main()
