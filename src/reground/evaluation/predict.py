"""Step one of an evaluation: a model answers every sample. The only step that needs a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track

from reground.data.images import SYNTH_PREFIX, load
from reground.data.source import open_dataset
from reground.errors import ConfigError, DataError
from reground.evaluation.records import Prediction, RunInfo, write_predictions
from reground.grounding.sample import Sample
from reground.model.chat import Prompt
from reground.model.load import load as load_checkpoint
from reground.model.prompting import Prompter
from reground.rollout.policy import Policy, Sampling
from reground.rollout.transformers_policy import TransformersPolicy

BATCH = 64


def predict_folder(
    out: Path,
    *,
    model: str,
    data: str,
    seed: int,
    limit: int | None,
    family: str | None = None,
    prompt: str | None = None,
    max_tokens: int = 256,
    blank: bool = False,
) -> int:
    """Load a model, answer a data spec and write predictions.jsonl and run.json into ``out``.

    Returns how many answers were written. Raises ``UserError`` for what the user can mend.
    """
    samples = open_dataset(data, seed=seed, limit=limit)
    if limit is None and data.startswith(SYNTH_PREFIX):
        raise ConfigError(f"{data} is endless; say how many samples with --limit")
    checkpoint = load_checkpoint(model, family=family, prompt=prompt)
    prompter = Prompter.of(checkpoint)
    answers = predict(
        prompter, TransformersPolicy(checkpoint), samples, max_tokens=max_tokens, blank=blank
    )
    info = run_info(
        prompter, model=model, data=data, seed=seed, limit=limit, max_tokens=max_tokens, blank=blank
    )
    return write_predictions(out, answers, run=info)


def predict(
    prompter: Prompter,
    policy: Policy,
    samples: Sequence[Sample],
    *,
    max_tokens: int,
    blank: bool = False,
) -> Iterator[Prediction]:
    """Greedy answers in the order of ``samples``, with a progress bar.

    A sample whose image cannot be read becomes a prediction with an error, not an exception.
    ``blank`` replaces every image by a grey one: what is left is what the model guesses.
    """
    sampling = Sampling(max_tokens=max_tokens)
    bar = track(samples, description="answering", transient=True)
    for batch in _batches(bar, BATCH):
        yield from _answer(prompter, policy, batch, sampling, blank)


def run_info(
    prompter: Prompter,
    *,
    model: str,
    data: str,
    seed: int,
    limit: int | None,
    max_tokens: int,
    blank: bool = False,
) -> RunInfo:
    """How predictions are made, for the head of every file that follows from them."""
    size = prompter.checkpoint.chat.image_processor.size
    return RunInfo(
        model=model,
        family=prompter.family.name,
        prompt=prompter.profile.name,
        prompt_sha256=prompter.profile.sha256,
        data=f"{data} (blank images)" if blank else data,
        seed=seed,
        limit=limit,
        temperature=0.0,
        max_new_tokens=max_tokens,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
        reground_version=version("reground"),
    )


def _answer(
    prompter: Prompter, policy: Policy, samples: Sequence[Sample], sampling: Sampling, blank: bool
) -> Iterator[Prediction]:
    asked = [_prompt_or_error(prompter, sample, blank) for sample in samples]
    prompts = [prompt for prompt in asked if not isinstance(prompt, str)]
    groups = iter(policy.generate(prompts, n=1, sampling=sampling))
    for prompt, sample in zip(asked, samples, strict=True):
        if isinstance(prompt, str):
            yield Prediction(sample, error=prompt)
            continue
        (completion,) = next(groups)
        yield Prediction(
            sample,
            text=prompter.checkpoint.chat.decode(completion.ids),
            sizes=tuple(image.size for image in prompt.images),
            num_tokens=len(completion.ids),
            finish=completion.finish,
        )


def _prompt_or_error(prompter: Prompter, sample: Sample, blank: bool) -> Prompt | str:
    """The sample's prompt, or why one of its images cannot be used."""
    try:
        images = [load(image) for image in sample.images]
        if blank:
            images = [Image.new("RGB", image.size, (128, 128, 128)) for image in images]
        return prompter.ask(images, sample.question)
    except DataError as error:
        return str(error)


def _batches(rows: Iterable[Sample], size: int) -> Iterator[list[Any]]:
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch
