"""GRPO steps of ReGround and of TRL's GRPOTrainer: the same random model, question and images.

A random Qwen2.5-VL of about 30 M weights (configs/bench/30m.yaml), eight completions of up to 96
tokens. Both train all weights with AdamW, one prompt and a group of completions a step, without a
reference model, gradient checkpointing or vLLM; in float32 on a CPU and bfloat16 on a GPU. TRL
reads a full row for every completion and, as it always does, also computes entropies; ReGround
reads the prompt once. Every side runs in a process of its own, turn by turn; the first step of each
is left out. ``make bench-peers`` builds the environment, which needs TRL and torchvision.

    python benchmarks/vs_trl.py --repeats 3 --out docs/results/vs_trl.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import parser, publish, spread
from device import in_own_process, noise, peak_mib
from PIL import Image

from reground.config import load
from reground.data.source import save_dataset
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import ImageRef, Sample, Target
from reground.io import read_jsonl
from reground.model.load import save
from reground.model.runtime import Runtime
from reground.training.run import starting_checkpoint, train
from reground.training.settings import Phase, TrainConfig

CONFIG = Path(__file__).parent / "configs/bench/30m.yaml"
CASES = {"one image": (1, 672), "four images": (4, 532)}  # how many, and their side in pixels
STEPS = 2  # of which the first is left out
QUESTION = (
    "find the red circle that is left of the large blue square and " * 3 + "answer with a box"
)
LENGTHS = ("prompt", "completion")  # in tokens


def main() -> None:
    """Measure every case on both sides, in turns."""
    command_line = parser(__doc__, repeats=3)
    asked = command_line.parse_args()
    if reason := why_not():
        command_line.error(reason)
    settings = load(TrainConfig, CONFIG, ["max_pixels=451584"])
    figures = {
        case: beside_trl(settings, images=images, side=side, repeats=asked.repeats)
        for case, (images, side) in CASES.items()
    }
    config = {"config": CONFIG.name, "cases": CASES, "steps": STEPS, "repeats": asked.repeats,
              "threads": torch.get_num_threads()}  # fmt: skip
    publish(figures, out=asked.out, config=config)


def beside_trl(config: TrainConfig, *, images: int, side: int, repeats: int) -> dict[str, Any]:
    """How many times faster and smaller a step of ours is, over turns, and the medians of both.

    ``side`` is of the images, in pixels.
    """
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        for name in SIDES:
            turns[name].append(in_own_process(_measured, name, config, images, side))
    pairs = list(zip(turns["reground"], turns["trl"], strict=True))

    def ratio(name: str) -> dict[str, float]:
        return spread([other[name] / own[name] for own, other in pairs])

    return {
        "update, times faster": ratio("update_s"),
        "step with generation, times faster": ratio("step_s"),
        "peak memory, times less": ratio("peak_mib"),
        **{name: _medians(own) for name, own in turns.items()},
    }


def _medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}


def _measured(name: str, config: TrainConfig, images: int, side: int) -> dict[str, float]:
    """Seconds of an update and of a step, and by how much memory rose at its peak."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(starting_checkpoint(config, Runtime()), folder / "model")
        rows = SIDES[name](config, folder, noise(images, side))
    return _medians(rows[1:])


def reground_steps(
    config: TrainConfig, folder: Path, images: list[Image.Image]
) -> list[dict[str, float]]:
    """A run of `reground train`, from its own timings."""
    data = _one_sample(folder, images)
    own = TrainConfig(
        method="rl",
        model=str(folder / "model"),
        family=config.family,
        data=(Phase(mix={str(data): 1.0}),),
        steps=STEPS,
        batch_size=1,
        rollout=config.rollout,
        algorithm=config.algorithm,
    )
    before = peak_mib()
    run = train(own, folder / "run")
    rise = peak_mib() - before
    return [
        {
            "update_s": times["seconds/update"],
            "step_s": times["seconds/update"] + times["seconds/batch"],
            "peak_mib": rise,
            "completion": row["rollout/length"],
        }
        for times, row in zip(
            read_jsonl(run.timings, dict), read_jsonl(run.metrics, dict), strict=True
        )
    ]


def _one_sample(folder: Path, images: list[Image.Image]) -> Path:
    refs = []
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        refs.append(ImageRef(str(folder / f"{number}.png"), *image.size))
    target = Target(0, Box(1, 1, 20, 20, Frame.pixels(*images[0].size)))
    sample = Sample("one", tuple(refs), QUESTION, (target,), "referring")
    save_dataset(folder / "one.jsonl", [sample])
    return folder / "one.jsonl"


def trl_steps(
    config: TrainConfig, folder: Path, images: list[Image.Image]
) -> list[dict[str, float]]:
    """A run of GRPOTrainer; an update is a step less generation and scoring."""
    from datasets import Dataset

    question = [{"role": "user", "content": QUESTION}]
    rows: list[dict[str, float]] = []
    trainer = _timed(
        rows,
        model=str(folder / "model"),
        reward_funcs=_by_ids,
        train_dataset=Dataset.from_list([{"prompt": question, "images": images}] * STEPS),
        args=_trl_config(config, folder),
    )
    before = peak_mib()
    trainer.train()
    rise = peak_mib() - before
    return [row | {"peak_mib": rise} for row in rows]


def _by_ids(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs within a group."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def _trl_config(config: TrainConfig, folder: Path) -> Any:
    from trl import GRPOConfig

    on_gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=config.rollout.group_size,
        num_generations=config.rollout.group_size,
        max_completion_length=config.rollout.max_tokens,
        max_steps=STEPS,
        temperature=config.rollout.temperature,
        beta=0.0,
        gradient_checkpointing=False,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _timed(rows: list[dict[str, float]], **given: Any) -> Any:
    """A GRPOTrainer that writes a row a step: seconds, and tokens of prompt and completion."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            begin = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            count = len(made["completion_mask"])
            lengths = {own: float(made[f"{own}_mask"].sum() / count) for own in LENGTHS}
            rows.append({"update_s": begin - time.perf_counter(), **lengths})
            return made

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            rows[-1]["step_s"] = time.perf_counter() - self.begin
            rows[-1]["update_s"] += rows[-1]["step_s"]

    return Timed(**given, callbacks=[Clock()])


def why_not() -> str | None:
    """Why TRL cannot be measured here, if it cannot."""
    missing = [name for name in ("trl", "datasets", "torchvision") if find_spec(name) is None]
    if missing:
        return f"found no {', '.join(missing)}; pip install {' '.join(missing)}"
    return None


SIDES: dict[str, Callable[[TrainConfig, Path, list[Image.Image]], list[dict[str, float]]]] = {
    "reground": reground_steps,
    "trl": trl_steps,
}


if __name__ == "__main__":
    main()
