"""The schema of a config for ``reground teach``, and how its settings are stored and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from reground.config import Count, NotNegative, Positive, Share, config
from reground.protocols.prompts import PromptProfile
from reground.protocols.protocol import get_protocol

PROTOCOL = get_protocol("univg_r1", "think")  # in which teachers answer


@config
class Teacher:
    """Who answers, how many requests it gets at a time, and what it costs.

    Without ``url`` the embedded teacher answers, which needs no network. ``model`` is the name
    under which an OpenAI-compatible server at ``url`` serves; the key is read from the
    environment's OPENAI_API_KEY. A request is tried again ``retries`` times, after as long as
    Retry-After says or ever longer pauses. Prices are those of a million tokens.
    """

    url: str | None = None
    model: str = "embedded"
    concurrency: Count = 8
    timeout_s: Positive = 300.0
    retries: Annotated[int, Field(ge=0)] = 8
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    prompt_price: NotNegative = 0.0
    completion_price: NotNegative = 0.0


@config
class Asking:
    """How many chains of a sample are asked for, and how.

    ``prompt`` is a profile for teachers, which shows the true boxes. Images are sent with at most
    ``max_pixels``, their sides in proportion and multiples of ``factor`` (28 for Qwen2-VL and
    Qwen2.5-VL, 32 for Qwen3-VL, whose servers then do not resize them again); where the server
    refuses them as too large (413), with half as many at each further try. The stage stops before
    the database holds more than ``max_calls`` answers or has cost more than ``max_cost``.
    """

    n: Count = 3
    prompt: str = "teach"
    temperature: NotNegative = 0.9
    max_tokens: Count = 1024
    seed: int = 0
    max_pixels: Count | None = 1_003_520
    factor: Count = 1
    max_calls: Count | None = None
    max_cost: Positive | None = None

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError("temperature must be above 0, or all chains of a sample are alike")
        if self.max_pixels is not None and self.max_pixels < self.factor**2:
            raise ValueError("max_pixels must be at least the square of factor")


@config
class Verify:
    """What a chain must be to count as verified.

    Its boxes overlap the true ones with at least ``min_iou`` (several: matched one to one); its
    reasoning has ``min_words`` to ``max_words`` words, of which at most the share ``max_repeated``
    repeats what was said before.
    """

    min_iou: Share = 0.5
    min_words: Annotated[int, Field(ge=0)] = 5
    max_words: int = 400
    max_repeated: Share = 0.5

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise ValueError("min_words must be at most max_words")


@config
class Judge:
    """Who picks the best of a sample's verified chains, and how it is asked.

    Without ``teacher.url`` a rule picks (``reground.teacher.judge.by_rule``). A judge is asked once
    for each of the first ``rotations`` orders of k chains; without a number for all k, so that
    every chain is shown in every place. Only with all of them does no place have an advantage.
    """

    teacher: Teacher = Teacher()
    prompt: str = "judge"
    rotations: Count | None = None
    max_tokens: Count = 512
    max_cost: Positive | None = None


@config
class Export:
    """Which files are written to the folder ``out``.

    Rows of ``direct_tasks`` about one image get the form without reasoning, as UniVG-R1 is trained
    on RefCOCO, in a file of their own. With ``copy_images`` the folder holds all images.
    """

    out: str = "chains"
    direct_tasks: tuple[str, ...] = ()
    copy_images: bool = False


@config
class TeachConfig:
    """Chains for ``data`` in the database ``store``: a section for each stage.

    ``data`` is one spec or several, ``limit`` how many samples are taken of each, ``seed`` which
    scenes ``synth:TASK`` draws: not those of an evaluation, whose seed is 7 by default. Once the
    database is there, ``data`` may be left out; given, it must be the same samples.
    """

    store: str
    data: str | tuple[str, ...] | None = None
    seed: int = 41
    limit: Count | None = None
    teacher: Teacher = Teacher()
    ask: Asking = Asking()
    verify: Verify = Verify()
    judge: Judge = Judge()
    export: Export = Export()

    def __post_init__(self) -> None:
        if self.data is not None and not self.data:
            raise ValueError("data names no samples; expected a JSONL, synth:TASK or a benchmark")
        _check_prices("ask", self.ask.max_cost, self.teacher, "teacher")
        _check_prices("judge", self.judge.max_cost, self.judge.teacher, "judge.teacher")


def _check_prices(stage: str, max_cost: float | None, teacher: Teacher, section: str) -> None:
    if max_cost is not None and not (teacher.prompt_price or teacher.completion_price):
        raise ValueError(
            f"{stage}.max_cost needs {section}.prompt_price and {section}.completion_price"
        )


def noted(settings: Mapping[str, Any]) -> str:
    """Settings as the database stores them, with each row that they made."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def noted_prompt(profile: PromptProfile) -> str:
    """A prompt by its name and the begin of its hash: a file may be written anew."""
    return f"{profile.name}@{profile.sha256[:8]}"


def as_overrides(settings: Mapping[str, Any]) -> str:
    """Settings as they are given on the command line.

    >>> as_overrides({"min_words": 5, "prompt": "judge"})
    'min_words=5 prompt=judge'
    """
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
    )


def changed(made: Mapping[str, int], now: str) -> Iterator[tuple[int, str, str]]:
    """Of rows that other settings made than those of ``now``: how many, by which, and which now.

    Only what differs counts, of settings that both have.

    >>> old, new = noted({"min_words": 5, "min_iou": 0.5}), noted({"min_words": 60, "min_iou": 0.5})
    >>> list(changed({old: 12, new: 3}, new))
    [(12, 'min_words=5', 'min_words=60')]
    """
    wanted = json.loads(now)
    for settings, count in made.items():
        old = json.loads(settings)
        keys = [key for key in old if key in wanted and old[key] != wanted[key]]
        if keys:
            before, after = ({key: each[key] for key in keys} for each in (old, wanted))
            yield count, as_overrides(before), as_overrides(after)
