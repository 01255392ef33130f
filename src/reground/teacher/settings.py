"""The schema of a config for ``reground teach``: one section for each stage."""

from __future__ import annotations

from reground.config import config


@config
class Teacher:
    """Who answers, how hard it is asked, and what it costs.

    Without ``url`` the embedded teacher answers, which needs no network. ``model`` is the name
    under which an OpenAI-compatible server at ``url`` serves; the key is read from the
    environment's OPENAI_API_KEY. A request is tried again ``retries`` times, after as long as
    Retry-After says or ever longer pauses. Prices are those of a million tokens.
    """

    url: str | None = None
    model: str = "embedded"
    concurrency: int = 8
    timeout_s: float = 300.0
    retries: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    @property
    def has_prices(self) -> bool:
        """Whether its answers are known to cost anything."""
        return self.prompt_price > 0 or self.completion_price > 0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.retries < 0 or self.timeout_s <= 0:
            raise ValueError("concurrency must be at least 1, retries at least 0, timeout_s > 0")
        limits = (self.requests_per_minute, self.tokens_per_minute)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise ValueError("requests_per_minute and tokens_per_minute must be above 0")
        if self.prompt_price < 0 or self.completion_price < 0:
            raise ValueError("prices must be at least 0")


@config
class Ask:
    """How many chains of a sample are asked for, and how.

    ``prompt`` is a profile for teachers, which shows the true boxes. Images are sent with at most
    ``max_pixels``, their sides in proportion and multiples of ``factor`` (28 for Qwen2-VL and
    Qwen2.5-VL, 32 for Qwen3-VL, whose servers then resize them no more); where the server refuses
    them as too large (413), with half as many at each further try. The stage stops before the
    database holds more than ``max_calls`` answers or has cost more than ``max_cost``.
    """

    n: int = 3
    prompt: str = "teach"
    temperature: float = 0.9
    max_tokens: int = 1024
    seed: int = 0
    max_pixels: int | None = 1_003_520
    factor: int = 1
    max_calls: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError("n and max_tokens must be at least 1")
        if self.temperature < 0 or (self.temperature == 0 and self.n > 1):
            raise ValueError("temperature must be above 0, or all chains of a sample are alike")
        if self.factor < 1 or (self.max_pixels is not None and self.max_pixels < self.factor**2):
            raise ValueError("factor must be at least 1, and max_pixels at least its square")
        if self.max_calls is not None and self.max_calls < 1:
            raise ValueError("max_calls must be at least 1")
        if self.max_cost is not None and self.max_cost <= 0:
            raise ValueError("max_cost must be above 0")


@config
class Verify:
    """What a chain must be to count as verified.

    Its boxes overlap the true ones with at least ``min_iou`` (several: matched one to one), it
    thinks in ``min_words`` to ``max_words`` words, of which at most the share ``max_repeated``
    was said before.
    """

    min_iou: float = 0.5
    min_words: int = 5
    max_words: int = 400
    max_repeated: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_iou <= 1 or not 0 <= self.max_repeated <= 1:
            raise ValueError("min_iou and max_repeated are shares from 0 to 1")
        if not 0 <= self.min_words <= self.max_words:
            raise ValueError("min_words must be at least 0, and at most max_words")


@config
class Judge:
    """Who picks the best of a sample's verified chains, and how it is asked.

    Without ``teacher.url`` a rule picks (``reground.teacher.voting``). A judge is asked once for
    each of the first ``rotations`` orders of k chains; without a number for all k, so that every
    chain stands in every place. Only with all of them does no place have an advantage.
    """

    teacher: Teacher = Teacher()
    prompt: str = "judge"
    rotations: int | None = None
    max_tokens: int = 512
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or (self.rotations is not None and self.rotations < 1):
            raise ValueError("max_tokens and rotations must be at least 1")
        if self.max_cost is not None and self.max_cost <= 0:
            raise ValueError("max_cost must be above 0")


@config
class Export:
    """Which files are written to the folder ``out``.

    Rows of ``direct_tasks`` about one image get the form without thinking, as UniVG-R1 is trained
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
    limit: int | None = None
    teacher: Teacher = Teacher()
    ask: Ask = Ask()
    verify: Verify = Verify()
    judge: Judge = Judge()
    export: Export = Export()

    def __post_init__(self) -> None:
        if self.data is not None and not self.data:
            raise ValueError("data names no samples; expected a JSONL, synth:TASK or a benchmark")
        for name, stage, teacher in (
            ("ask", self.ask, self.teacher),
            ("judge", self.judge, self.judge.teacher),
        ):
            if stage.max_cost is not None and not teacher.has_prices:
                prefix = "" if name == "ask" else "judge."
                raise ValueError(
                    f"{name}.max_cost needs {prefix}teacher.prompt_price and "
                    f"{prefix}teacher.completion_price"
                )
