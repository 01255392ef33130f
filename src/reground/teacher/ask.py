"""The first stage: n chains of every sample, from a teacher that is shown the true boxes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.schemes import is_endless
from reground.data.source import open_dataset
from reground.errors import ConfigError, RunError
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample, digest, is_file_path
from reground.protocols.families import get_family
from reground.protocols.prompts import PromptProfile, load_profile
from reground.teacher import changes
from reground.teacher.calling import Caller, Outcome
from reground.teacher.limits import Budget
from reground.teacher.pictures import Pictures
from reground.teacher.rows import Call, Todo
from reground.teacher.settings import Ask, TeachConfig
from reground.teacher.store import Store
from reground.teacher.teachers import Question, opened

_BOXES = get_family("univg_r1").codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the stage did, and how many calls are ``left`` of ``total``; ``settings`` as noted."""

    outcome: Outcome
    settings: str
    left: int
    total: int


def open_store(config: TeachConfig) -> Store:
    """The database of the settings, made from ``data`` where there is none.

    Raises ``RunError`` where it holds other samples than ``data``, ``ConfigError`` where there is
    neither.
    """
    path = Path(config.store)
    if config.data is None:
        if not path.exists():
            raise ConfigError(f"{path}: no such database yet; say with data= of which samples")
        return Store.open(path)
    data, samples = _source(config), _samples(config)
    if not path.exists():
        return Store.create(path, samples, data=data)
    store = Store.open(path)
    meta = store.meta()
    if meta["digest"] != digest(samples):
        store.close()
        raise RunError(
            f"{path}: holds other samples than {data}; it was made of {meta['data']} at "
            f"{meta['created']}; choose another store, or leave data out to go on with its own"
        )
    return store


def _specs(config: TeachConfig) -> Sequence[str]:
    return (config.data,) if isinstance(config.data, str) else config.data or ()


def _source(config: TeachConfig) -> str:
    """Where the samples come from, as it stands in the database and on the data card."""
    specs = _specs(config)
    drawn = any(not is_file_path(spec) for spec in specs)
    chosen = {"seed": config.seed if drawn else None, "limit": config.limit}
    told = ", ".join(f"{key}={value}" for key, value in chosen.items() if value is not None)
    return ", ".join(specs) + (f" ({told})" if told else "")


def _samples(config: TeachConfig) -> Iterator[Sample]:
    """The samples of every spec, one after the other; raises as ``open_dataset`` does."""
    for spec in _specs(config):
        samples = open_dataset(spec, seed=config.seed, limit=config.limit)
        if is_endless(samples):
            raise ConfigError(f"{spec} is endless; say how many samples with limit=")
        yield from samples


def ask(
    store: Store,
    config: TeachConfig,
    *,
    begin: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[Call], None] = lambda call: None,
) -> Asked:
    """Ask for the chains that the database lacks; each answer is stored as it comes.

    ``begin`` is told how many calls are done of how many, then ``watch`` of each that is made.
    Raises ``UserError`` where nothing can be asked: the prompt, the server, the database.
    """
    profile = load_profile(config.ask.prompt, needs=("boxes",))
    with store.exclusively():
        return asyncio.run(_ask(store, config, profile, begin, watch))


async def _ask(
    store: Store,
    config: TeachConfig,
    profile: PromptProfile,
    begin: Callable[[int, int], None],
    watch: Callable[[Call], None],
) -> Asked:
    how, counts = config.ask, store.counts()
    chains: Any = {"n": how.n, "model": config.teacher.model, "prompt_sha256": profile.sha256}
    by = noted(config, profile)
    total, done = how.n * counts.samples, store.num_answered(stage="ask", **chains)
    begin(done, total)
    if done == total:
        outcome = Outcome(answered=0, errors={}, stopped=None)
        return Asked(outcome=outcome, settings=by, left=0, total=total)
    budget = Budget(
        calls=_less(how.max_calls, counts.answered.get("ask", 0)),
        money=_less(how.max_cost, counts.cost),
    )
    teacher = opened(config.teacher, temperature=how.temperature, max_tokens=how.max_tokens)
    async with teacher as answerer:
        outcome = await Caller(
            store=store,
            answerer=answerer,
            teacher=config.teacher,
            stage="ask",
            prompt_sha256=profile.sha256,
            settings=by,
            max_tokens=how.max_tokens,
            budget=budget,
            watch=watch,
        ).run(_questions(store.todo(stage="ask", **chains), how, profile))
    left = total - done - outcome.answered
    return Asked(outcome=outcome, settings=by, left=left, total=total)


def noted(config: TeachConfig, profile: PromptProfile) -> str:
    """The settings as they stand beside the chains that they made; the embedded teacher has few."""
    how, teacher = config.ask, config.teacher
    made: dict[str, Any] = {"model": teacher.model, "prompt": changes.prompt(profile)}
    if teacher.url is not None:
        names = ("temperature", "max_tokens", "seed", "max_pixels", "factor")
        made |= {name: getattr(how, name) for name in names}
    return changes.noted(made)


def _questions(todos: Iterator[Todo], how: Ask, profile: PromptProfile) -> Iterator[Question]:
    for todo in todos:
        sample = todo.sample
        pictures = Pictures(sample.images, max_pixels=how.max_pixels, factor=how.factor)
        text = partial(teacher_text, sample, profile)
        for number in todo.numbers:
            seed = zlib.crc32(f"{how.seed}/{sample.id}/{number}".encode()) >> 1  # 31 bits
            yield Question(sample, number, text, pictures, seed)


def teacher_text(sample: Sample, profile: PromptProfile, *, chains: str | None = None) -> str:
    """What a teacher is told of a sample, with its true boxes as UniVG-R1 writes them, 0-1000.

    A judge is also told the ``chains`` to choose from.
    Raises ``DataError`` for a true box without area.
    """
    image = sample.images[sample.target_image]
    size = EncodedSize(image.width, image.height, image.width, image.height)
    return profile.render(
        question=sample.question,
        num_images=len(sample.images),
        boxes=_BOXES.spell(sample.boxes, size=size),
        chains=chains,
        image=sample.target_image + 1,
    )


def _less(most: float | None, used: float) -> float | None:
    return None if most is None else most - used
