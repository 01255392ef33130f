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
class TeachConfig:
    """Chains for ``data`` in the database ``store``: a section for each stage.

    ``seed`` and ``limit`` say which scenes ``synth:TASK`` draws and how many samples are taken.
    Once the database is there, ``data`` may be left out; given, it must be the same samples.
    """

    store: str
    data: str | None = None
    seed: int = 7
    limit: int | None = None
    teacher: Teacher = Teacher()
    ask: Ask = Ask()

    def __post_init__(self) -> None:
        if self.ask.max_cost is not None and not self.teacher.has_prices:
            raise ValueError("ask.max_cost needs teacher.prompt_price and teacher.completion_price")
