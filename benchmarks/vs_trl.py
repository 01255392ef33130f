"""GRPO steps of ReGround and of TRL's GRPOTrainer: the same random model, question and images.

Both train all weights of a random Qwen2.5-VL of about 30 M parameters in float32 with AdamW, one
prompt and eight completions of up to 96 tokens a step, without a reference model, gradient
checkpointing or vLLM. TRL reads a full row for every completion and, as it
always does, also computes entropies; ReGround reads the prompt once. Every side runs in a process
of its own, turn by turn; the first step of each is left out. ``make bench-peers`` builds the
environment, which needs TRL and torchvision.

    python benchmarks/vs_trl.py --repeats 3 --out docs/results/vs_trl.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser, publish
from grpo_update import QUESTION, C, G, make_checkpoint
from PIL import Image

from reground.config import load
from reground.data.source import save_dataset
from reground.grounding.boxes import Box, Frame
from reground.grounding.sample import ImageRef, Sample, Target
from reground.model.load import save
from reground.training.run import train
from reground.training.settings import TrainConfig

CASES = {"one image": (1, 672), "four images": (4, 532)}  # how many, and their side in pixels
STEPS = 2  # of which the first is left out


def main() -> None:
    """Measure every case on both sides, in turns."""
    command_line = parser(__doc__)
    command_line.add_argument("--repeats", type=int, default=3)
    command_line.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    command_line.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
    asked = command_line.parse_args()
    if asked.side:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_measured(asked.side, asked.case, Path(folder))))
        return
    figures = {case: _compared(case, asked.repeats) for case in CASES}
    config = {"model": "random Qwen2.5-VL, 30 M", "G": G, "C": C, "steps": STEPS,
              "repeats": asked.repeats, "threads": torch.get_num_threads()}  # fmt: skip
    publish(figures, out=asked.out, config=config)


def _compared(case: str, repeats: int) -> dict[str, Any]:
    turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            turns[side].append(_in_own_process(side, case))
    ours, theirs = turns["reground"], turns["trl"]

    def ratio(name: str) -> dict[str, float]:
        values = [other[name] / own[name] for own, other in zip(ours, theirs, strict=True)]
        return {"median": round(statistics.median(values), 2), "min": round(min(values), 2),
                "max": round(max(values), 2)}  # fmt: skip

    def medians(side: str) -> dict[str, float]:
        return {name: round(statistics.median(turn[name] for turn in turns[side]), 3)
                for name in turns[side][0]}  # fmt: skip

    return {
        "update, times faster": ratio("update_s"),
        "step with generation, times faster": ratio("step_s"),
        "peak memory, times less": ratio("peak_mib"),
        "reground": medians("reground"),
        "trl": medians("trl"),
    }


def _in_own_process(side: str, case: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--case", case]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measured(side: str, case: str, folder: Path) -> dict[str, float]:
    """Medians over steps: seconds of an update and a step, by how much memory rose at its peak."""
    checkpoint = make_checkpoint()
    save(checkpoint, folder / "model")
    del checkpoint
    count, length = CASES[case]
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 255, (length, length, 3), dtype=np.uint8))
        for _ in range(count)
    ]
    rows = SIDES[side](folder, images)
    return {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reground_steps(folder: Path, images: list[Image.Image]) -> list[dict[str, float]]:
    """A run of `reground train`, from its own timings."""
    frame = Frame.pixels(*images[0].size)
    refs = []
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        refs.append(ImageRef(str(folder / f"{number}.png"), *image.size))
    sample = Sample(
        id="one",
        images=tuple(refs),
        question=QUESTION,
        targets=(Target(0, Box(10, 10, 200, 200, frame)),),
        task="referring",
    )
    save_dataset(folder / "one.jsonl", [sample])
    config = load(
        TrainConfig,
        None,
        [
            "method=grpo",
            f"model={folder / 'model'}",
            f"data=[{{mix: {{{json.dumps(str(folder / 'one.jsonl'))}: 1.0}}}}]",
            f"steps={STEPS}",
            "batch_size=1",
            f"grpo={{group_size: {G}, max_tokens: {C}, kl: 0.0}}",
        ],
    )
    before = _peak_mib()
    run = train(config, folder / "run")
    rise = _peak_mib() - before
    lines = [json.loads(line) for line in run.timings.read_text().splitlines()]
    lengths = [json.loads(line)["rollout/length"] for line in run.metrics.read_text().splitlines()]
    return [
        {
            "update_s": row["seconds/update"],
            "step_s": row["seconds/update"] + row["seconds/batch"],
            "peak_mib": rise,
            "completion": length,
        }
        for row, length in zip(lines, lengths, strict=True)
    ]


def trl_steps(folder: Path, images: list[Image.Image]) -> list[dict[str, float]]:
    """A run of GRPOTrainer; an update is a step less generation and scoring."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rows: list[dict[str, float]] = []

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            begin = time.perf_counter()
            made = super()._generate_and_score_completions(inputs)
            mask = made["completion_mask"]
            rows.append(
                {
                    "update_s": begin - time.perf_counter(),
                    "completion": float(mask.sum() / len(mask)),
                    "prompt": float(made["prompt_mask"].sum() / len(mask)),
                }
            )
            return made

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begin = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            rows[-1]["step_s"] = time.perf_counter() - self.begin
            rows[-1]["update_s"] += rows[-1]["step_s"]

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids) % 7) for ids in completion_ids]

    question = [{"role": "user", "content": QUESTION}]
    trainer = Timed(
        model=str(folder / "model"),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": question, "images": images}] * STEPS),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=G,
            num_generations=G,
            max_completion_length=C,
            max_steps=STEPS,
            temperature=0.9,
            beta=0.0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            model_init_kwargs={"dtype": "float32"},
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        callbacks=[Clock()],
    )
    before = _peak_mib()
    trainer.train()
    rise = _peak_mib() - before
    return [row | {"peak_mib": rise} for row in rows]


SIDES: dict[str, Callable[[Path, list[Image.Image]], list[dict[str, float]]]] = {
    "reground": reground_steps,
    "trl": trl_steps,
}

if __name__ == "__main__":
    main()
