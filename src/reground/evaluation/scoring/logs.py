"""Answers that other projects stored, with the truth they were scored against.

Such logs hold no images and at times no sizes; where a size is missing a stand-in is recorded that
changes no number: one unit of the log is one pixel. Where the images' names are missing too, every
answer counts as one about an image of its own, so that standard errors are not clustered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reground.data.benchmarks import MIG_BENCH_COLUMNS
from reground.errors import ConfigError, DataError, did_you_mean
from reground.evaluation.records import Prediction
from reground.evaluation.scoring.peers.vlm_r1 import VLM_R1, VLM_R1_OVER_LINES
from reground.grounding.boxes import Box
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import ImageRef, Sample, Target

NOT_RECORDED = "not recorded"
_OVER_LINES = {VLM_R1.name: VLM_R1_OVER_LINES.name}  # such logs hold answers of several lines
_COCO_SIDE = 640  # no side of a COCO image is longer


@dataclass(frozen=True, slots=True)
class Log:
    """Stored answers as predictions, and the family in whose form they are written.

    ``recorded`` are the boxes that the project itself read, as answers of four numbers. ``scorers``
    says by which state of a scorer, where there are several.
    """

    predictions: tuple[Prediction, ...]
    family: str
    recorded: tuple[Prediction, ...]
    scorers: Mapping[str, str] = field(default_factory=dict)


def read_log(path: Path, *, format_name: str) -> Log:
    """The answers in ``path``; raises ``DataError`` where it is not what the format says.

    ``mig_bench_outputs`` is a folder of one model's ten files, ``vlm_r1_log`` one file.
    """
    if format_name not in FORMATS:
        hint = did_you_mean(format_name, ["predictions", "cases", *FORMATS])
        raise ConfigError(f"unknown format {format_name!r}; {hint}")
    try:
        return FORMATS[format_name](path)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: not what {format_name} holds ({type(error).__name__}: {error}); "
            "check the path and the format"
        ) from None


def _mig_bench_outputs(folder: Path) -> Log:
    files = {_task_of(path): path for path in sorted(folder.glob("*.json"))}
    missing = [task for task in MIG_BENCH_COLUMNS if task not in files]
    if missing:
        raise DataError(
            f"{folder}: found {len(files)} of MIG-Bench's ten tasks, no file for "
            f"{', '.join(missing)}; expected one JSON for each, as its evaluator writes them"
        )
    predictions, recorded = [], []
    for task in MIG_BENCH_COLUMNS:
        *rows, _totals = _json(files[task])
        for number, row in enumerate(rows):
            name, truth = f"{task}/{number}", row["groundtruth"]
            sample = _sample(name, task, row["question"], truth, 1000, image=name)
            predictions.append(_prediction(sample, row["answer"]))
            recorded.append(_prediction(sample, str(row["filter_answer"])))
    return Log(tuple(predictions), "qwen2_vl", tuple(recorded))


def _task_of(path: Path) -> str:
    return next((task for task in _BY_LENGTH if f"_{task}_" in path.name), path.stem)


_BY_LENGTH = sorted(MIG_BENCH_COLUMNS, key=len, reverse=True)  # view_diff before diff


def _vlm_r1_log(path: Path) -> Log:
    rows = _json(path)["results"]
    samples = [
        _sample(
            str(number),
            "rec",
            row["question"],
            row["ground_truth"],
            _COCO_SIDE,
            image=row.get("image", str(number)),
        )
        for number, row in enumerate(rows)
    ]
    pairs = list(zip(samples, rows, strict=True))
    predictions = [_prediction(sample, row["model_output"]) for sample, row in pairs]
    recorded = [_prediction(sample, str(row["extracted_answer"])) for sample, row in pairs]
    thinks = any("<answer>" in row["model_output"] for row in rows)
    family = "vlm_r1" if thinks else "qwen2_5_vl"
    return Log(tuple(predictions), family, tuple(recorded), _OVER_LINES)


def _sample(
    name: str, task: str, question: str, truth: list[float], side: int, *, image: str
) -> Sample:
    ref = ImageRef(image, side, side)
    x1, y1, x2, y2 = truth
    return Sample(name, (ref,), question, (Target(0, Box(x1, y1, x2, y2, ref.frame)),), task)


def _prediction(sample: Sample, text: str) -> Prediction:
    (image,) = sample.images
    size = EncodedSize(image.width, image.height, image.width, image.height)
    return Prediction(sample, text, (size,), finish="unrecorded")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path") from None


FORMATS: Mapping[str, Callable[[Path], Log]] = {
    "mig_bench_outputs": _mig_bench_outputs,
    "vlm_r1_log": _vlm_r1_log,
}
