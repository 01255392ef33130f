"""The shipped model behind a real OpenAI-compatible server, beside the same model in process.

    vllm serve FOLDER --served-model-name tiny --dtype float32 --max-model-len 2048 \\
        --limit-mm-per-prompt '{"image": 8}'
    python benchmarks/endpoint.py http://127.0.0.1:8000/v1 --out docs/results/endpoint.json

FOLDER is the shipped model, ``src/reground/tinyworld/assets/tiny`` in the repository. With
``--refiner FOLDER`` it is one that ``reground train`` made for think-rethink, and a noisy oracle is
the tool.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import parser, publish

from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import read_scores
from reground.rollout.endpoint import Endpoint

RUNS = Path("runs/endpoint")
TASKS = ("referring", "relation", "correspondence", "video")
SEED = 21
KEPT = ("n", "errors", "acc@0.5", "acc@0.5_stderr", "mean_iou")


def main() -> None:
    """Evaluate every task both ways, compare answer by answer, print and keep one object."""
    command_line = parser(__doc__)
    command_line.add_argument("url", help="as http://127.0.0.1:8000/v1")
    command_line.add_argument("--limit", type=int, default=100, help="samples of each task")
    command_line.add_argument("--refiner", metavar="FOLDER", help="compare think-rethink")
    asked = command_line.parse_args()
    figures = {task: _compared(task, asked.url, asked.limit, asked.refiner) for task in TASKS}
    config = {"tasks": TASKS, "limit": asked.limit, "refiner": asked.refiner}
    publish({"tasks": figures}, out=asked.out, config=config, seed=SEED)


def _compared(task: str, url: str, limit: int, refiner: str | None) -> dict[str, Any]:
    here = Question(
        model=refiner or "tiny",
        data=f"synth:{task}",
        seed=SEED,
        limit=limit,
        max_tokens=128,
        family="univg_r1",
        protocol="think_rethink" if refiner else "think",
        prompt="tiny_refiner" if refiner else "tiny",
        tool=ToolUse(spec="oracle:weak") if refiner else None,
    )
    there = replace(here, processor=here.model, endpoint=Endpoint(url=url, model="tiny"))
    reports, seconds = {}, {}
    for name, question in (("in process", here), ("server", there)):
        begin = time.perf_counter()
        report = evaluate(_folder(task, name), question)
        seconds[name] = round(time.perf_counter() - begin, 1)
        reports[name] = {key: report[key] for key in KEPT}
    pairs = zip(*(read_scores(_folder(task, name)) for name in reports), strict=True)
    same = [(_plain(one.text) == _plain(other.text), one.iou == other.iou) for one, other in pairs]
    texts, ious = (sum(column) for column in zip(*same, strict=True))
    print(f"{task}: {texts} texts and {ious} scores of {len(same)} are the same", flush=True)
    return reports | {"same texts": texts, "same scores": ious, "seconds": seconds}


def _plain(text: str) -> str:
    return text.removesuffix("<|im_end|>")  # a server leaves it out of replies of one part


def _folder(task: str, name: str) -> Path:
    return RUNS / f"{task}-{name.replace(' ', '-')}"


if __name__ == "__main__":
    main()
