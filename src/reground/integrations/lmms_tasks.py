"""Tasks of lmms-eval: a folder for ``--include_path``, and the functions that its YAML files name.

A task is one data set in one way of asking, for lmms-eval does not tell the scorer which model
answered. Beside each YAML file is a row that says which; the data are read when the task is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from reground.errors import DataError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.integrations.exam import Asked, Exam, Mark, average, over_tasks
from reground.io import locked

if TYPE_CHECKING:
    from PIL import Image

Doc = Mapping[str, Any]
_HERE = __name__
_TEMPLATE = f"""\
dataset_path: json
test_split: test
output_type: generate_until
process_docs: !function {_HERE}.docs
doc_to_visual: !function {_HERE}.images
doc_to_text: !function {_HERE}.text
doc_to_target: target
process_results: !function {_HERE}.results
reasoning_tags: none  # by default its command line takes the chain of thought out of answers
generation_kwargs: {{max_new_tokens: %d, temperature: 0, do_sample: false, until: []}}
cluster_key: image
metric_list:
  - {{metric: acc@0.5, aggregation: !function {_HERE}.accuracy, higher_is_better: true}}
  - {{metric: mean_iou, aggregation: !function {_HERE}.mean_iou, higher_is_better: true}}
  - {{metric: mean_of_tasks, aggregation: !function {_HERE}.mean_of_tasks, higher_is_better: true}}
metadata: {{version: 1}}
"""
_TASK = """\
include: template
task: %s
dataset_kwargs: {data_files: {test: %s}}
"""


def write_tasks(out: Path, exams: Sequence[Exam], *, max_tokens: int) -> list[str]:
    """Write a task for each exam into ``out``, beside those that are there; returns their names.

    Raises ``DataError`` where two exams would have the same name.
    """
    named = {name_of(exam): exam for exam in exams}
    if len(named) < len(exams):
        raise DataError(f"{out}: two data sets have one name; write them into folders of their own")
    with locked(out / "template"):
        for name, exam in named.items():
            (out / f"{name}.jsonl").write_text(json.dumps({"exam": exam.to_json()}) + "\n")
            (out / f"{name}.yaml").write_text(_TASK % (name, f"{name}.jsonl"))
        (out / "template").write_text(_TEMPLATE % max_tokens)
    return list(named)


def name_of(exam: Exam) -> str:
    """What a task is called: the data set, and who is asked in which way.

    >>> from reground.integrations.exam import Exam
    >>> name_of(Exam.of("photos/val.jsonl", family="qwen3_vl"))
    'reground_val_qwen3_vl'
    """
    stem = PurePath(exam.data).name.removesuffix(".jsonl")
    parts = ["reground", stem, exam.who, exam.protocol or ""]
    return "_".join(re.sub(r"[^\w.+-]", "_", part) for part in parts if part)


# ---- what the YAML files name ------------------------------------------------------------------


def docs(dataset: Any) -> Any:
    """The questions, in place of the row that says which; a ``datasets.Dataset`` of both."""
    import datasets

    (row,) = dataset
    exam = Exam.from_json(row["exam"])
    return datasets.Dataset.from_list(
        [
            {
                "id": asked.sample.id,
                "task": asked.sample.task,
                "question": exam.text(asked),
                "target": json.dumps([box.xyxy for box in asked.sample.boxes]),
                "sample": json.dumps(asked.sample.to_json()),
                "sizes": json.dumps([asdict(size) for size in asked.sizes]),
                "exam": row["exam"],
            }
            for asked in exam.open()
        ]
    )


def images(doc: Doc, _: Any = None) -> list[Image.Image]:
    """What is shown."""
    return Exam.from_json(doc["exam"]).images(_asked(doc))


def text(doc: Doc, _: Any = None) -> str:
    """What is asked."""
    return str(doc["question"])


def results(doc: Doc, answers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the answer is worth, by metric."""
    mark = asdict(Exam.from_json(doc["exam"]).mark(_asked(doc), answers[0]))
    hit = mark | {"score": mark["hit"]}
    return {"acc@0.5": hit, "mean_iou": mark | {"score": mark["iou"]}, "mean_of_tasks": hit}


def accuracy(items: Sequence[Mapping[str, Any]]) -> float | None:
    """Acc@0.5."""
    return average(_marks(items), "hit").value


def mean_iou(items: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean IoU."""
    return average(_marks(items), "iou").value


def mean_of_tasks(items: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean of the tasks' Acc@0.5."""
    return over_tasks(_marks(items)).value


def _asked(doc: Doc) -> Asked:
    sizes = tuple(EncodedSize(**size) for size in json.loads(doc["sizes"]))
    return Asked(Sample.from_json(json.loads(doc["sample"])), sizes)


def _marks(items: Sequence[Mapping[str, Any]]) -> list[Mark]:
    return [Mark(**{key: item[key] for key in Mark.__slots__}) for item in items]
