"""What the server did, as Prometheus reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reground.serving.batching import Answered
from reground.serving.guard import App, Message, Receive, Scope, Send

_SIZES = (1, 2, 4, 8, 16, 32)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(slots=True)
class Counts:
    """Responses by status, answers, their times and sizes of batches."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    _responses: Counter = field(init=False)
    _model: Histogram = field(init=False)
    _waited: Histogram = field(init=False)
    _batch: Histogram = field(init=False)
    _waiting: Gauge = field(init=False)

    def __post_init__(self) -> None:
        own = self.registry
        self._responses = Counter("reground_responses", "Responses.", ["status"], registry=own)
        self._model = Histogram(
            "reground_model_seconds", "A batch's time in the model.", buckets=_SECONDS, registry=own
        )
        self._waited = Histogram(
            "reground_waited_seconds", "A question's wait.", buckets=_SECONDS, registry=own
        )
        self._batch = Histogram(
            "reground_batch_questions", "Questions of a batch.", buckets=_SIZES, registry=own
        )
        self._waiting = Gauge("reground_waiting_questions", "Questions that wait.", registry=own)

    def answered(self, answered: Answered) -> None:
        """Count an answer."""
        self._model.observe(answered.model_s)
        self._waited.observe(answered.waited_s)
        self._batch.observe(answered.batch)

    def text(self, waiting: int) -> str:
        """All counts, with how many questions wait now."""
        self._waiting.set(waiting)
        return generate_latest(self.registry).decode()

    def around(self, app: App) -> App:
        """Middleware that counts responses by their status."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._responses.labels(str(message["status"])).inc()
                await send(message)

            await app(scope, receive, send_counted)

        return counted
