"""A real server of the HTTP API, and a model that answers when it is let."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import uvicorn

from reground.api import Grounder, Grounding
from reground.data.media import MediaHosts
from reground.grounding.answers import Answer, Status
from reground.rollout.environment import Start
from reground.serving.app import make_app
from reground.serving.batching import Answers, ModelThread
from reground.serving.guard import Rules
from reground.serving.label_studio import LabelStudio
from reground.serving.run import listening
from reground.serving.service import Limits, Service

LIMITS, RULES, NO_HOSTS = Limits(), Rules(), MediaHosts()


@contextmanager
def served(
    tiny: Grounder,
    model: Answers,
    limits: Limits = LIMITS,
    rules: Rules = RULES,
    *,
    media: MediaHosts = NO_HOSTS,
    studio: LabelStudio | None = None,
) -> Iterator[httpx2.Client]:
    """A client of a real server over a model; ``tiny`` makes its prompts."""
    thread = ModelThread(model, batch_tokens=20_000, most_waiting=limits.most_waiting)
    service = Service(tiny, "tiny", thread, limits, media=media)
    config = uvicorn.Config(
        make_app(service, rules, studio), log_level="warning", http="h11", ws="none"
    )
    server, listener = uvicorn.Server(config), listening("127.0.0.1", 0)
    running = threading.Thread(target=server.run, args=[[listener]])
    running.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx2.Client(base_url=address, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        running.join()


@dataclass(slots=True)
class Slow:
    """A model that answers when it is let, and keeps what it was asked."""

    may: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    spoilt: str = ""

    def answers(self, starts: Sequence[Start], *, max_tokens: int) -> list[Grounding]:
        questions = [start.sample.question for start in starts]
        self.batches.append(questions)
        self.may.wait(30)
        if self.spoilt in questions:
            raise MemoryError
        return [Grounding(Answer(Status.OK), question, 0) for question in questions]
