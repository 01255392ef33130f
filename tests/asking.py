"""A real server of the HTTP API, and a model that answers when it is let."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import httpx2
import pytest

from background import running
from reground.api import Grounder, Grounding
from reground.data.media import MediaHosts
from reground.grounding.answers import Answer, Status
from reground.rollout.environment import Start
from reground.serving.app import make_app
from reground.serving.batching import Answers, ModelThread
from reground.serving.guard import Rules
from reground.serving.label_studio import LabelStudio
from reground.serving.request_log import RequestLog
from reground.serving.service import Limits, ServedModel, Service

LIMITS, RULES, NO_HOSTS = Limits(), Rules(), MediaHosts()


@contextmanager
def served(
    tiny: Grounder,
    model: Answers,
    limits: Limits = LIMITS,
    rules: Rules = RULES,
    others: Mapping[str, Answers] = MappingProxyType({}),
    name: str = "tiny",
    log: RequestLog | None = None,
    *,
    media: MediaHosts = NO_HOSTS,
    studio: LabelStudio | None = None,
) -> Iterator[httpx2.Client]:
    """A client of a real server over a model and ``others``; ``tiny`` prompts for what is none."""
    models = [
        _served(own, each, each if isinstance(each, Grounder) else tiny, limits)
        for own, each in {name: model, **others}.items()
    ]
    with over(models, limits, rules, log, media=media, studio=studio) as client:
        yield client


@contextmanager
def over(
    models: Sequence[ServedModel],
    limits: Limits = LIMITS,
    rules: Rules = RULES,
    log: RequestLog | None = None,
    *,
    media: MediaHosts = NO_HOSTS,
    studio: LabelStudio | None = None,
) -> Iterator[httpx2.Client]:
    """A client of a real server over these models."""
    service = Service(models, limits, log=log, media=media)
    with (
        running(make_app(service, rules, studio=studio)) as address,
        httpx2.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def _served(name: str, model: Answers, grounder: Grounder, limits: Limits) -> ServedModel:
    thread = ModelThread(model, batch_tokens=20_000, most_waiting=limits.most_waiting)
    return ServedModel(name, grounder, thread)


@dataclass(slots=True)
class Slow:
    """A model that answers when it is let, and keeps what it was asked."""

    may: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)
    spoilt: str = ""

    def answers(self, starts: Sequence[Start], **_: Any) -> list[Grounding]:
        questions = [start.sample.question for start in starts]
        self.batches.append(questions)
        self.may.wait(30)
        if self.spoilt in questions:
            raise MemoryError
        return [Grounding(Answer(Status.OK), each.sample.question, each.sample) for each in starts]


def until(is_so: Callable[[], bool]) -> None:
    """Wait for it."""
    for _ in range(12_000):
        if is_so():
            return
        time.sleep(0.01)
    pytest.fail("it never came to that")
