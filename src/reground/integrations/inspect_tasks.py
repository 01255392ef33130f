"""Inspect's tasks, scorer and solvers: ``inspect eval reground/mig_bench -T family=qwen3_vl``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, chain, generate, solver

from reground.data.benchmarks import table
from reground.data.images import data_url
from reground.grounding.codecs import EncodedSize
from reground.grounding.names import ProtocolName
from reground.grounding.sample import Sample as Row
from reground.integrations.exam import Asked, Exam, Mark, answer_of, average, over_tasks
from reground.integrations.inspect_model import GroundingModel

MAX_TOKENS = 256


@task(name="grounding")
def of_data(
    data: str,
    family: str | None = None,
    checkpoint: str | None = None,
    protocol: ProtocolName | None = None,
    seed: int = 7,
    samples: int | None = None,
) -> Task:
    """Any data set: a JSONL, a benchmark, synth:TASK (with ``samples``), a folder of answers.

    It is asked as ``family`` is or as ``checkpoint`` was trained to be; left out, as the model that
    is evaluated, where that is ``reground/...``.
    """
    model = get_model().api
    if family is None and checkpoint is None and isinstance(model, GroundingModel):
        checkpoint = model.path
    exam = Exam.of(
        data, family=family, model=checkpoint, protocol=protocol, seed=seed, limit=samples
    )
    return Task(
        dataset=MemoryDataset([_sample(exam, asked) for asked in exam.open()], name=data),
        solver=chain(shown(), generate()),
        scorer=grounded(),
        config=GenerateConfig(temperature=0.0, max_tokens=MAX_TOKENS),
    )


def _benchmark(name: str) -> Callable[..., Task]:
    def of_benchmark(
        family: str | None = None,
        checkpoint: str | None = None,
        protocol: ProtocolName | None = None,
    ) -> Task:
        return of_data(name, family=family, checkpoint=checkpoint, protocol=protocol)

    return of_benchmark


for _name in table():
    task(name=_name)(_benchmark(_name))


@solver
def shown() -> Solver:
    """Put the images before the text, when their turn comes: a data set of them fills no memory."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        exam, asked = _read(state)
        images = [ContentImage(image=data_url(image)) for image in exam.images(asked)]
        state.messages = [ChatMessageUser(content=[*images, ContentText(text=state.input_text)])]
        return state

    return solve


@solver
def stored(answers: str) -> Solver:
    """Give the answers in the folder of an evaluation again, in the place of a model's."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        text = answer_of(answers, str(state.sample_id))
        state.output = ModelOutput.from_content(answers, text)
        return state

    return solve


@metric
def mean() -> Metric:
    """The mean, summed as ``reground report`` sums it."""

    def mean_of(scores: list[SampleScore]) -> float:
        return average(_marks(scores), "hit").value or 0.0

    return mean_of


@metric
def mean_of_tasks() -> Metric:
    """The mean of the tasks' Acc@0.5: MIG-Bench's average."""

    def mean_of(scores: list[SampleScore]) -> float:
        return over_tasks(_marks(scores)).value or 0.0

    return mean_of


@scorer(
    metrics={
        "acc@0.5": [mean(), stderr(cluster="image"), mean_of_tasks()],
        "mean_iou": [mean(), stderr(cluster="image")],
    }
)
def grounded() -> Scorer:
    """The hit and the IoU of an answer's boxes, read by the one parser of ReGround."""

    async def score(state: TaskState, target: Target) -> Score:
        exam, asked = _read(state)
        text = state.output.completion
        mark = exam.mark(asked, text)
        return Score(value={"acc@0.5": mark.hit, "mean_iou": mark.iou}, answer=text)

    return score


def _sample(exam: Exam, asked: Asked) -> Sample:
    sample = asked.sample
    return Sample(
        id=sample.id,
        input=exam.text(asked),
        target=json.dumps([box.xyxy for box in sample.boxes]),
        metadata={
            "image": exam.mark(asked, "").image,
            "task": sample.task,
            "sample": sample.to_json(),
            "sizes": [asdict(size) for size in asked.sizes],
            "exam": exam.to_json(),
        },
    )


def _read(state: TaskState) -> tuple[Exam, Asked]:
    held = state.metadata
    sizes = tuple(EncodedSize(**size) for size in held["sizes"])
    return Exam.from_json(held["exam"]), Asked(Row.from_json(held["sample"]), sizes)


def _marks(scores: Sequence[SampleScore]) -> list[Mark]:
    """One of the two values of each answer, as what is averaged."""
    marks = []
    for each in scores:
        held, value = each.sample_metadata or {}, each.score.as_float()
        marks.append(Mark(str(each.sample_id), held["task"], held["image"], value, value))
    return marks
