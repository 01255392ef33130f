"""Step one of an evaluation: a model answers every sample. The only step that needs a model.

The model is in this process (local.py) or behind a server (remote.py); who is asked, what is kept
and what a killed run goes on with is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from reground.data import benchmarks
from reground.data.source import read_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.predicting.journal import Journal, check_unique
from reground.evaluation.predicting.question import Answerer, Question
from reground.evaluation.predicting.tools import with_results
from reground.evaluation.records import Prediction, RunInfo, with_provenance
from reground.grounding.sample import Sample, digest
from reground.protocols.choice import Answering, Protocols
from reground.protocols.protocol import AnswerProtocol
from reground.rollout.http import shown
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.results import TOOL_RESULTS


def predict_folder(out: Path, question: Question) -> int:
    """Ask what has no answer in ``out`` yet; write predictions.jsonl and run.json.

    Returns how many samples were answered; the others hold an error and are asked again by the
    next call. Raises ``UserError`` for what the user can mend.
    """
    samples = _samples(question)
    protocols = question.protocols(_answering(question))
    used = protocols.used(samples)
    own = question.shard.take(samples) if question.shard else samples
    if not own:
        raise DataError(f"shard {question.shard} of {len(samples)} samples is empty; ask for fewer")
    tool = open_tool(question.tool.spec, samples=samples) if question.tool else None
    model = _answerer(question, protocols, used)
    journal = Journal(out, _run_info(question, model, protocols, used, samples))
    if question.tool and tool:
        own = with_results(own, tool, timeout_s=question.tool.timeout_s, path=out / TOOL_RESULTS)
    for protocol in used:
        part = [sample for sample in own if protocols.name(sample) == protocol.name]
        _check_tool_results(part, protocol, question.data)
    left = journal.left(own)
    if left:
        with _progress(len(left)) as advance:

            def add(prediction: Prediction) -> None:
                journal.add(prediction)
                advance()

            model.answer(own, left={sample.id for sample in left}, add=add)
    return journal.finish(own)


def _check_tool_results(samples: Sequence[Sample], protocol: AnswerProtocol, data: str) -> None:
    has_none = samples and all(sample.tool_results is None for sample in samples)
    if protocol.shows_tool and has_none:
        raise DataError(
            f"{data}: no sample, from {samples[0].id!r} on, has a detector's boxes (tool_results), "
            f"which {protocol.name} with prompt {protocol.profile.name} works with; ask a "
            "detector with --tool, or use data that has them",
            help="boxes-of-a-detector-that-are-missing",
        )


def _samples(question: Question) -> list[Sample]:
    samples = read_dataset(question.data, seed=question.seed, limit=question.limit)
    check_unique(samples, data=question.data)
    return samples


def _answering(question: Question) -> Answering:
    """How the model answers, as far as it says so: a server's, by the folder of its processor."""
    if question.endpoint is None:
        from reground.model.load import answering_of  # torch

        return answering_of(question.model)
    known = None
    if question.processor:
        from reground.model.load import remembered  # torch

        known = remembered(question.processor)
    if known is None and question.family is None:
        raise ConfigError(
            "an endpoint does not say how its model answers; give --family", help="unknown-family"
        )
    return known or Answering(family=question.family or "")


def _answerer(question: Question, protocols: Protocols, used: Sequence[AnswerProtocol]) -> Answerer:
    if question.endpoint is None:
        if question.processor is not None:
            raise ConfigError("--processor is for servers; a model in process has its own")
        from reground.evaluation.predicting.local import LocalModel  # torch

        return LocalModel.load(question, protocols)
    if question.device or question.dtype or question.engine != "transformers":
        raise ConfigError("--device, --dtype and --engine are for a model in process, not a server")
    if (question.min_pixels or question.max_pixels) and question.processor is None:
        raise ConfigError(
            "--min-pixels and --max-pixels resize images as a processor does; name the server's "
            "with --processor",
            help="limits-of-pixels",
        )
    from reground.evaluation.predicting.remote import RemoteModel

    return RemoteModel.of(question, protocols, used)


def _run_info(
    question: Question,
    model: Answerer,
    protocols: Protocols,
    used: Sequence[AnswerProtocol],
    samples: Sequence[Sample],
) -> RunInfo:
    fewest, most = model.pixel_limits or (None, None)
    benchmark = question.benchmark
    run = RunInfo(
        model=question.model,
        weights=model.weights,
        endpoint=str(question.endpoint.address) if question.endpoint else None,
        engine=None if question.endpoint else question.engine,
        family=protocols.family.name,
        protocol=protocols.usual,
        protocol_by=protocols.decided_by,
        prompts=protocols.prompts_of(used),
        zoom=protocols.answering.zoom,
        max_calls=protocols.answering.max_calls,
        data=f"{question.data} (blank images)" if question.blank else question.data,
        data_sha256=digest(samples),
        file_sha256=benchmarks.digest(benchmark) if benchmark else None,
        num_samples=len(samples),
        seed=question.seed,
        limit=question.limit,
        shard=str(question.shard) if question.shard else None,
        tool=shown(question.tool.spec) if question.tool else None,
        temperature=question.temperature,
        draws=question.draws,
        max_new_tokens=question.max_tokens,
        min_pixels=fewest,
        max_pixels=most,
        authors_scorer=question.authors_scorer or (benchmark.scorer if benchmark else None),
        hit=benchmark.hit if benchmark else ">",
    )
    return with_provenance(run, model.place)


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
