"""The first stage: n chains of every sample, from a teacher that is shown the true boxes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reground.data.schemes import is_endless
from reground.data.source import open_dataset
from reground.errors import ConfigError, RunError
from reground.grounding.sample import Sample, digest, is_file_path
from reground.protocols.prompts import PromptProfile, load_profile
from reground.rollout.endpoint import without_marks
from reground.teacher.calling import Caller, CallOutcome
from reground.teacher.pictures import Pictures, encoded_size
from reground.teacher.rows import Entry, TeacherCall
from reground.teacher.settings import PROTOCOL, TeachConfig, noted, noted_prompt
from reground.teacher.store import Store
from reground.teacher.teachers import TeacherRequest


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
    specs = (config.data,) if isinstance(config.data, str) else config.data
    data, samples = _source(config, specs), _samples(config, specs)
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


def _source(config: TeachConfig, specs: Sequence[str]) -> str:
    """Where the samples come from, as the database and the data card say it."""
    drawn = any(not is_file_path(spec) for spec in specs)
    chosen = {"seed": config.seed if drawn else None, "limit": config.limit}
    given = ", ".join(f"{key}={value}" for key, value in chosen.items() if value is not None)
    return ", ".join(specs) + (f" ({given})" if given else "")


def _samples(config: TeachConfig, specs: Sequence[str]) -> Iterator[Sample]:
    """The samples of every spec, one after the other; raises as ``open_dataset`` does."""
    for spec in specs:
        samples = open_dataset(spec, seed=config.seed, limit=config.limit)
        if is_endless(samples):
            raise ConfigError(
                f"{spec} is endless; say how many samples with limit=", help="endless-data"
            )
        yield from samples


def ask(
    store: Store,
    config: TeachConfig,
    *,
    begin: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[TeacherCall], None] = lambda call: None,
) -> CallOutcome:
    """Ask for the chains that the database lacks; each answer is stored as it comes.

    ``begin`` is called with how many calls are done and how many there are in all, then ``watch``
    with each that is made. Raises ``UserError`` where nothing can be asked: the prompt, the server,
    the database.
    """
    how = config.ask
    profile = load_profile(how.prompt, needs=("boxes",))
    caller = Caller(
        store=store,
        teacher=config.teacher,
        stage="ask",
        prompt_sha256=profile.sha256,
        settings=_noted(config, profile),
        temperature=how.temperature,
        max_tokens=how.max_tokens,
        max_calls=how.max_calls,
        max_cost=how.max_cost,
        begin=begin,
        watch=watch,
    )
    requests = partial(_requests, store, config, profile)
    return caller.run(requests, total=how.n * store.counts().samples)


def _noted(config: TeachConfig, profile: PromptProfile) -> str:
    """The settings as they are stored with the chains; the embedded teacher has few."""
    how, teacher = config.ask, config.teacher
    made: dict[str, Any] = {"model": teacher.model, "prompt": noted_prompt(profile)}
    if teacher.url is not None:
        names = ("temperature", "max_tokens", "seed", "max_pixels", "factor")
        made |= {name: getattr(how, name) for name in names}
    return noted(made)


def _requests(
    store: Store, config: TeachConfig, profile: PromptProfile
) -> Iterator[TeacherRequest]:
    how = config.ask
    for entry in store.entries():
        sample = entry.sample
        pictures = Pictures(sample.images, max_pixels=how.max_pixels, factor=how.factor)
        text = partial(teacher_text, sample, profile)
        model, sha256 = config.teacher.model, profile.sha256
        for number in unanswered(entry, n=how.n, model=model, prompt_sha256=sha256):
            seed = zlib.crc32(f"{how.seed}/{sample.id}/{number}".encode()) >> 1  # 31 bits
            yield TeacherRequest(sample, number, text, pictures, seed)


def unanswered(entry: Entry, *, n: int, model: str, prompt_sha256: str) -> list[int]:
    """Which of a sample's chains 0 .. n - 1 this model has not written to this prompt."""
    calls = [chain.call for chain in entry.chains]
    done = {c.number for c in calls if (c.model, c.prompt_sha256) == (model, prompt_sha256)}
    return [number for number in range(n) if number not in done]


def teacher_text(sample: Sample, profile: PromptProfile, *, chains: str | None = None) -> str:
    """What a teacher is asked about a sample, with its true boxes as UniVG-R1 writes them, 0-1000.

    A judge is also given the ``chains`` to choose from. No special token is left in any of it.
    Raises ``DataError`` for a true box without area.
    """
    size = encoded_size(sample.images[sample.target_image])
    return profile.render(
        question=without_marks(sample.question),
        num_images=len(sample.images),
        boxes=PROTOCOL.codec.spell(sample.boxes, size=size),
        chains=chains and without_marks(chains),
        image=sample.target_image + 1,
    )
