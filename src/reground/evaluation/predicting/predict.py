"""Step one of an evaluation: a model answers every sample. The only step that needs a model.

The model is in this process (local.py) or behind a server (remote.py); who is asked, what is kept
and what a killed run goes on with is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from reground.data import benchmarks
from reground.data.source import read_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.predicting.journal import Journal, check_unique
from reground.evaluation.predicting.question import Answerer, Question
from reground.evaluation.predicting.tools import asked_tool
from reground.evaluation.records import Prediction, RunInfo
from reground.grounding.families import Form
from reground.grounding.sample import Sample, digest


def predict_folder(out: Path, question: Question) -> int:
    """Ask what has no answer in ``out`` yet; write predictions.jsonl and run.json.

    Returns how many samples were answered; the others hold an error and are asked again by the
    next call. Raises ``UserError`` for what the user can mend.
    """
    samples = _samples(question)
    model = _answerer(question)
    if question.tool:
        samples = asked_tool(samples, question.tool)
    _check_tool_results(samples, model, question.data)
    journal = Journal(out, _run_info(question, model, samples))
    own = question.shard.take(samples) if question.shard else samples
    if not own:
        raise DataError(f"shard {question.shard} of {len(samples)} samples is empty; ask for fewer")
    left = journal.left(own)
    if left:
        with _progress(len(left)) as advance:

            def add(prediction: Prediction) -> None:
                journal.add(prediction)
                advance()

            model.answer(left, add=add)
    return journal.finish(own)


def _check_tool_results(samples: Sequence[Sample], model: Answerer, data: str) -> None:
    needs = model.profile.shows_tool or model.family.form is Form.THINK_RETHINK
    if needs and all(sample.tool_results is None for sample in samples):
        raise DataError(
            f"{data}: no sample, from {samples[0].id!r} on, has a detector's boxes (tool_results), "
            f"which {model.family.name} with prompt {model.profile.name} works with; ask a "
            "detector with --tool, or use data that has them"
        )


def _samples(question: Question) -> list[Sample]:
    samples = read_dataset(question.data, seed=question.seed, limit=question.limit)
    check_unique(samples, data=question.data)
    return samples


def _answerer(question: Question) -> Answerer:
    if question.endpoint is None:
        if question.processor is not None:
            raise ConfigError("--processor is for servers; a model in process has its own")
        from reground.evaluation.predicting.local import LocalModel  # torch

        return LocalModel.load(question)
    from reground.evaluation.predicting.remote import RemoteModel  # openai

    return RemoteModel.of(question)


def _run_info(question: Question, model: Answerer, samples: Sequence[Sample]) -> RunInfo:
    fewest, most = model.pixel_limits or (None, None)
    benchmark = question.benchmark
    return RunInfo(
        model=question.model,
        weights=model.weights,
        endpoint=question.endpoint.url if question.endpoint else None,
        family=model.family.name,
        prompt=model.profile.name,
        prompt_sha256=model.profile.sha256,
        data=f"{question.data} (blank images)" if question.blank else question.data,
        data_sha256=digest(samples),
        file_sha256=benchmarks.digest(benchmark) if benchmark else None,
        num_samples=len(samples),
        seed=question.seed,
        limit=question.limit,
        shard=str(question.shard) if question.shard else None,
        tool=question.tool.spec if question.tool else None,
        temperature=0.0,
        max_new_tokens=question.max_tokens,
        min_pixels=fewest,
        max_pixels=most,
        hit=benchmark.hit if benchmark else ">",
        reground_version=version("reground"),
    )


class _Rate(ProgressColumn):
    """Answers a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeLeft())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("answering", total=total)
        yield lambda: bar.advance(task)
