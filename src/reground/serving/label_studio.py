"""The model as Label Studio's machine learning back end: boxes before a person draws them."""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Self
from urllib.parse import quote, unquote
from uuid import uuid4

import httpx2
from fastapi import FastAPI, Request
from PIL import Image
from pydantic import BaseModel, Field

from reground.api import GroundingRequest
from reground.data.images import decoded, inline
from reground.data.media import MAX_BYTES, TIME_S, downloaded, is_address
from reground.data.regions import region
from reground.errors import DataError, UserError, shown
from reground.grounding.answers import Status
from reground.grounding.boxes import Box, Frame
from reground.rollout.http import Address, JsonClient, NoReply, key_of
from reground.serving.batching import LARGEST
from reground.serving.guard import Refused
from reground.serving.label_config import LONGEST, Interface, Label, interface_of
from reground.serving.messages import LONGEST_TEXT, FoundBox, found_boxes
from reground.serving.service import AT_ONCE, MOST_PIXELS, Service

KEY = "LABEL_STUDIO_API_KEY"
MOST_TASKS = 1_000
_FILES = re.compile(r"/(?:data|storage-data)/")  # where Label Studio keeps what was uploaded


@dataclass(frozen=True, slots=True)
class LabelStudio:
    """The Label Studio whose uploads are read, with a key of one of its users, if need be."""

    address: Address
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """By its address, with the key of LABEL_STUDIO_API_KEY; raises ``ConfigError``."""
        address = Address.of(url, whose="a Label Studio", example="http://127.0.0.1:8080")
        return cls(address, key_of(KEY))

    async def fetched(self, path: str) -> bytes:
        """A file by its path; raises ``DataError`` where it cannot be had."""
        name = shown(path.partition("?")[0], limit=100)
        written = quote(path, safe=string.punctuation)
        if not _FILES.match(written) or {"..", "."} & set(re.split(r"[/\\]", unquote(written))):
            raise DataError(f"{name}: no upload of Label Studio; expected /data/... or https://...")
        try:
            async with asyncio.timeout(TIME_S):
                url = self.address.at(written).url.copy_with(userinfo=b"")
                headers = await self._authorization()
                return await downloaded(url, name, most=MAX_BYTES, headers=headers)
        except (TimeoutError, httpx2.ConnectError, NoReply) as error:
            reason = str(error) or type(error).__name__
            raise DataError(f"{name}: Label Studio does not send it ({reason})") from None

    async def _authorization(self) -> dict[str, str]:
        """A legacy key is sent as it is, a personal one buys one for five minutes."""
        if self.key is None:
            return {}
        if self.key.count(".") != 2:
            return {"Authorization": f"Token {self.key}"}
        async with aclosing(JsonClient(self.address, variable=None, timeout_s=TIME_S)) as client:
            to = self.address.at("/api/token/refresh/")
            reply = await client.ask("POST", to, {"refresh": self.key})
        access = reply.get("access") if isinstance(reply, dict) else None
        return {"Authorization": f"Bearer {access}"}


class SetupRequest(BaseModel):
    """A project that is connected; what else Label Studio sends, keys among it, is not read."""

    schema_: Annotated[str, Field(alias="schema", max_length=LONGEST)] = ""


class SetupResponse(BaseModel):
    """Who answers."""

    model_version: str


class PredictRequest(BaseModel):
    """Tasks of a project, and what a person typed."""

    tasks: Annotated[list[Any], Field(max_length=MOST_TASKS)]
    label_config: Annotated[str, Field(max_length=LONGEST)]
    params: dict[str, Any] | None = None

    @property
    def typed(self) -> str | None:
        """The last text that the person typed, into a TextArea of the open task."""
        context = (self.params or {}).get("context")
        regions = context.get("result") if isinstance(context, dict) else None
        for each in reversed(regions if isinstance(regions, list) else []):
            value = each.get("value") if isinstance(each, dict) else None
            text = value.get("text") if isinstance(value, dict) else None
            last = text[-1] if isinstance(text, list) and text else text
            if isinstance(last, str) and last.strip():
                return last
        return None


class Region(BaseModel):
    """A box as Label Studio reads it, its value in percent of the upright image."""

    id: str
    from_name: str
    to_name: str
    type: str
    original_width: int
    original_height: int
    image_rotation: int
    score: float | None = None
    value: dict[str, Any]


class Prediction(BaseModel):
    """The boxes of a task; without ``result`` there are none, and ``error`` says why."""

    task: Any = None
    model_version: str
    score: float | None = None
    result: list[Region] | None = None
    error: str | None = None


class PredictResponse(BaseModel):
    """Predictions in the order of the tasks."""

    results: list[Prediction]


def label_studio_routes(app: FastAPI, service: Service, studio: LabelStudio | None) -> None:
    """Add the routes; ``studio`` is where relative addresses of images lead to, if anywhere."""

    @app.post("/setup", summary="Label Studio connects a project")
    async def setup(request: SetupRequest) -> SetupResponse:
        if request.schema_ not in ("", "<View></View>"):  # a project's before it has an interface
            interface_of(request.schema_)
        return SetupResponse(model_version=service.named(None).name)

    @app.post(
        "/predict", summary="Boxes for tasks of Label Studio", response_model_exclude_none=True
    )
    async def predict(request: PredictRequest, http: Request) -> PredictResponse:
        project = _Project(interface_of(request.label_config), request.typed, service, studio, http)
        return PredictResponse(results=await asyncio.gather(*map(project.predicted, request.tasks)))

    @app.post("/webhook", summary="What changes in Label Studio is not used", status_code=201)
    async def webhook() -> dict[str, str]:
        return {}


@dataclass(frozen=True, slots=True)
class _Project:
    """The tasks of one request; a few have their images in memory, as many are asked at once."""

    interface: Interface
    phrase: str | None
    service: Service
    studio: LabelStudio | None
    http: Request
    _tasks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _questions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LARGEST))

    async def predicted(self, task: Any) -> Prediction:
        """A task's boxes, or by its name why there are none."""
        number = task.get("id") if isinstance(task, dict) else None
        prediction = Prediction(task=number, model_version=self.service.named(None).name)
        regions: list[Region] = []
        try:
            async with self._tasks:
                regions, problems = await self._regions(_data(task))
        except (UserError, Refused) as error:
            problems = [str(error)]
        if problems:
            prediction.error = f"task {number}: {'; '.join(problems)}"
        # Label Studio keeps what has a result, an empty one too, unless a person waits for it.
        if regions or not problems or self.phrase:
            prediction.result = regions
            if scores := [each.score for each in regions if each.score is not None]:
                prediction.score = sum(scores) / len(scores)
        return prediction

    async def _regions(self, data: dict[str, Any]) -> tuple[list[Region], list[str]]:
        """The boxes of all that is asked, and which phrases got no answer of use."""
        asked = self.interface.asked(self.phrase, data)
        image = await self._image(data)
        answers = await asyncio.gather(*(self._boxes(image, phrase) for phrase in asked))
        regions: list[Region] = []
        problems: list[str] = []
        for (phrase, label), (status, boxes) in zip(asked.items(), answers, strict=True):
            regions += [self._region(box, label, image) for box in boxes]
            if status is not Status.OK:
                problems.append(f"the model's answer to {shown(phrase)!r} is {status}")
        return regions, problems

    async def _image(self, data: dict[str, Any]) -> Image.Image:
        place = data.get(self.interface.image)
        if not isinstance(place, str):
            raise DataError(f"found no text under {self.interface.image!r}; expected an image")
        place = place.removeprefix(str(self.studio.address)) if self.studio else place
        if place.startswith("/"):
            if self.studio is None:
                raise DataError("its image was uploaded to Label Studio; give --label-studio URL")
            content = await self.studio.fetched(place)
        elif is_address(place):
            content = (await self.service.media.fetched([place]))[place]
        else:
            content = inline(place, "image")
        return await asyncio.to_thread(decoded, content, "image", most=MOST_PIXELS)

    async def _boxes(self, image: Image.Image, phrase: str) -> tuple[Status, Sequence[FoundBox]]:
        if len(phrase) > LONGEST_TEXT:
            raise DataError(f"found a phrase of more than {LONGEST_TEXT:,} letters")
        request = GroundingRequest(images=[image], text=phrase, tool=self.service.tool)
        async with self._questions:
            _, answered = await self.service.ask(
                lambda: request, self.http, model=self.service.named(None)
            )
        return answered.grounding.answer.status, found_boxes(answered.grounding)

    def _region(self, found: FoundBox, label: Label, image: Image.Image) -> Region:
        box = Box(*found.box, Frame.pixels(image.width, image.height))
        names = {"from_name": label.from_name, "to_name": self.interface.to_name}
        return Region(id=uuid4().hex[:10], **region(box, label.name, score=found.score, **names))


def _data(task: Any) -> dict[str, Any]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise DataError("found no data; expected {'id': ..., 'data': {...}}")
    return data
