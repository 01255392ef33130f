"""A model behind another server, served as our own: the other server is a real one of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

import server
from asking import over, served
from reground.api import Grounder
from reground.cli.serve import command
from reground.data.images import data_url
from reground.errors import EndpointError, UserError
from reground.evaluation.predicting.predict import remote_model
from reground.evaluation.predicting.question import Question
from reground.rollout.endpoint import Endpoint
from reground.serving.remote import RemoteGrounder, RemoteThread
from reground.serving.service import Limits, ServedModel
from reground.tinyworld import scenes as synth
from server import Response, says, serving

SAMPLES = [synth.sample("referring", seed=7, index=index) for index in range(4)]
IMAGES = [synth.render(sample.images[0].path) for sample in SAMPLES]
ASKED: dict[str, Any] = {"images": [data_url(IMAGES[0])], "text": SAMPLES[0].question}
CHAT = "/v1/chat/completions"
PARTS = [
    {"type": "image_url", "image_url": {"url": ASKED["images"][0]}},
    {"type": "text", "text": ASKED["text"]},
]
ASKED_CHAT = {"model": "tiny", "messages": [{"role": "user", "content": PARTS}]}


@contextmanager
def fronting(url: str, **how: Any) -> Iterator[httpx2.Client]:
    """A server of ours in front of the one at the address."""
    endpoint = Endpoint(url=url, model="tiny", retries=0)
    asked = {"family": "univg_r1", "protocol": "think", "prompt": "tiny"} | how
    grounder = RemoteGrounder(
        remote_model(Question(model="tiny", data="", endpoint=endpoint, **asked))
    )
    thread = RemoteThread(grounder, most_waiting=8)
    thread.check()
    with over([ServedModel("tiny", grounder, thread)], Limits()) as client:
        yield client


def test_answers_are_those_of_the_model_behind_it(tiny: Grounder, tmp_path: Path) -> None:
    """Boxes in pixels, without scores; chats and streams as well."""
    batch = [
        {"images": [data_url(image)], "text": sample.question}
        for image, sample in zip(IMAGES, SAMPLES, strict=True)
    ]
    with served(tiny, tiny) as behind, fronting(str(behind.base_url.join("/v1"))) as client:
        found = client.post("/v1/ground/batch", json={"requests": batch}).json()["results"]
        said, there = (each.post(CHAT, json=ASKED_CHAT).json() for each in (client, behind))
        stream = client.post("/v1/ground", json=ASKED | {"stream": True}).text
        chunks = client.post(CHAT, json=ASKED_CHAT | {"stream": True}).text
    for sent, image, sample in zip(found, IMAGES, SAMPLES, strict=True):
        own = tiny.ground([image], sample.question)
        assert (sent["text"], sent["status"]) == (own.text, own.answer.status)
        assert [tuple(each["box"]) for each in sent["boxes"]] == [b.xyxy for b in own.answer.boxes]
        assert {each["score"] for each in sent["boxes"]} <= {None}
    assert (said["choices"], said["usage"]) == (there["choices"], there["usage"])
    assert [each["box"] for each in said["grounding"]["boxes"]] == [
        each["box"] for each in there["grounding"]["boxes"]
    ]
    assert "event: text" in stream and "event: answer" in stream
    assert chunks.endswith("data: [DONE]\n\n") and '"finish_reason": "stop"' in chunks


# ---- streams -----------------------------------------------------------------------------------

AFTER = 6  # tokens of an answer, of some twenty


@dataclass(slots=True)
class Held:
    """The tiny model, which stops in the middle of an answer until it may go on, or fails there."""

    model: Grounder
    fails: bool = False
    may: threading.Event = field(default_factory=threading.Event)
    unheard: threading.Event = field(default_factory=threading.Event)

    def answers(self, starts: Any, *, heard: Any, **how: Any) -> Any:
        def listens(place: int, ids: Any) -> bool:
            while heard(place, ids) and len(ids) == AFTER and not self.may.wait(0.01):
                pass
            if not heard(place, ids):
                self.unheard.set()
                return False
            if self.fails and len(ids) == AFTER:
                raise MemoryError
            return True

        return self.model.answers(starts, heard=listens, **how)


def streamed(lines: Iterator[str], path: str) -> Iterator[str]:
    """The texts of a stream, then what is no text: the answer or an error."""
    for data in (line.removeprefix("data: ") for line in lines if line.startswith("data: {")):
        found = json.loads(data)
        if path == CHAT and "choices" in found:
            yield found["choices"][0]["delta"].get("content", "")
        else:
            yield found["text"] if list(found) == ["text"] else data


@pytest.mark.parametrize("path", ["/v1/ground", CHAT])
def test_a_stream_passes_through_as_it_comes(tiny: Grounder, path: str) -> None:
    """Pieces are here while the other server's model has not come to its end; so are failures."""
    asked = (ASKED if path != CHAT else ASKED_CHAT) | {"stream": True}
    whole, held = tiny.ground([IMAGES[0]], ASKED["text"]).text, Held(tiny)
    with served(tiny, held) as behind, fronting(str(behind.base_url.join("/v1"))) as client:
        with client.stream("POST", path, json=asked) as response:
            texts = streamed(response.iter_lines(), path)
            pieces = [next(text for text in texts if text)]  # several tokens may come as one
            assert whole.startswith("".join(pieces)) and len("".join(pieces)) < len(whole)
            held.may.set()
            pieces += texts
        if path != CHAT:
            assert json.loads(pieces.pop())["text"] == whole
        assert "".join(pieces) == whole and len(pieces) > 1
        held.may.clear()
        with client.stream("POST", path, json=asked) as response:
            assert next(response.iter_text())
        assert held.unheard.wait(20)  # who hangs up here has hung up there
        held.fails = True
        held.may.set()
        with client.stream("POST", path, json=asked) as response:
            *_, last = streamed(response.iter_lines(), path)
    error = json.loads(last)["error"]
    said = error if path != CHAT else error["message"]
    assert said.endswith("the server broke off: the model failed: MemoryError")


def chunks(*deltas: dict[str, Any], finish: str | None = "stop", end: str = "\n\n") -> Response:
    """A stream of OpenAI's chunks, in which each delta has one."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices += [{"index": 0, "delta": {}, "finish_reason": finish}] if finish else []
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
    rows = [*({"choices": [choice]} for choice in choices), usage]
    body = "".join(f"data: {json.dumps(row)}{end}" for row in rows)
    return Response(body, headers={"Content-Type": "text/event-stream"})


SAID = "<think>Left.</think><answer>(100,250),(500,750)</answer>"
HALVES = ({"content": SAID[:30]}, {"content": SAID[30:]})


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (chunks({"role": "assistant", "content": ""}, *HALVES), SAID),
        (chunks(*HALVES, end="\r\n: wait\r\n\r\n"), SAID),
        (chunks(*HALVES, {"content": "<|im_end|>"}), SAID),
        (
            chunks(
                {"reasoning_content": "Le"}, {"reasoning_content": "ft."}, {"content": SAID[20:]}
            ),
            SAID,
        ),
        (chunks({"content": [{"type": "text", "text": SAID[:9]}]}, {"content": SAID[9:]}), SAID),
        (says(SAID), SAID),  # at once
        (chunks(*HALVES, finish=None), "the reply broke off in the middle"),
        (Response('data: {"choices": [{"delta": {"content": "a"}}]}\n\n' + "data: {"), "no JSON"),
        (
            Response('data: {"error": {"message": "no\\u001b"}}\n\n'),
            r"the server broke off: no\x1b",
        ),
        (Response("event: nothing\n\n"), "the reply broke off in the middle"),
        (Response("data: {}\n\ndata: [DONE]\n\n"), "says nothing"),
        (Response("", endless=b"a" * 60_000), "larger than"),
    ],
    ids=range(12),
)
def test_streams_are_read_whatever_their_server_writes(reply: Response, text: str) -> None:
    """Either the whole text in the end, which began with all its pieces; or why there is none."""
    with (
        serving(lambda *_: reply, models=Response('{"data": [{"id": "tiny"}]}')) as (url, bodies),
        fronting(url) as client,
        client.stream("POST", "/v1/ground", json=ASKED | {"stream": True}) as response,
    ):
        found = json.loads(response.read().decode().strip().rpartition("data: ")[2])
        if response.status_code == 200 and "error" not in found:
            *pieces, _ = streamed(iter(response.text.splitlines()), "/v1/ground")
            assert "".join(pieces) == text
    assert bodies[0]["stream"] and text in (found.get("error") or found["text"])


def test_a_refiner_behind_it_streams_both_parts_of_its_turn() -> None:
    """And tells where its first thought pointed."""
    refiner, box = Grounder.from_pretrained("tiny_refiner"), (5, 5, 60, 60)
    how = {"protocol": "think_rethink", "prompt": "tiny_refiner"}
    asked = ASKED | {"tool_boxes": [box], "first": True, "stream": True}
    with (
        served(refiner, refiner) as behind,
        fronting(str(behind.base_url.join("/v1")), **how) as client,
    ):
        lines = client.post("/v1/ground", json=asked).text.splitlines()
    *pieces, last = streamed(iter(lines), "/v1/ground")
    own = refiner.ground([IMAGES[0]], ASKED["text"], tool=[box], first=True)
    answer = json.loads(last)
    assert answer["text"] == "".join(pieces) == own.text and len(pieces) > 10
    assert [tuple(each["box"]) for each in answer["first"]] == [
        each.box.xyxy for each in own.first or ()
    ]


def test_a_server_without_streams_is_asked_for_the_whole() -> None:
    def respond(body: dict[str, Any], _: int) -> Response:
        return Response('{"detail": "no streams"}', 422) if "stream" in body else says(SAID)

    with (
        serving(respond, models=Response('{"data": [{"id": "tiny"}]}')) as (url, bodies),
        fronting(url) as client,
    ):
        for _ in range(2):
            answer = client.post("/v1/ground", json=ASKED | {"stream": True}).text
            assert json.loads(answer.strip().rpartition("data: ")[2])["text"] == SAID
    assert ["stream" in body for body in bodies] == [True, False, False]


def test_its_faults_have_a_status_and_a_sentence() -> None:
    models = Response('{"data": [{"id": "tiny"}]}')
    broken = [Response("oops", 500), Response("{}"), says("(1,2),(3,4)")]
    with (
        serving(lambda _, before: broken[before], models=models) as (url, bodies),
        fronting(url) as client,
    ):
        answers = [client.post("/v1/ground", json=ASKED) for _ in broken]
    assert [each.status_code for each in answers] == [502, 502, 200]
    assert answers[0].json()["error"].startswith("the model's server gave no answer: status 500")
    assert server.question(bodies[0]) == ASKED["text"]
    with pytest.raises(EndpointError, match="see that the address is right"), fronting(url):
        pass


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({}, "--endpoint: say which model it serves, with --model NAME"),
        ({"model": ["m"]}, "an endpoint does not say how its model answers; give --family"),
        ({"model": ["m"], "family": "qwen3_vl", "device": "cpu"}, "--device, --dtype and --engine"),
        (
            {"model": ["m"], "family": "qwen3_vl", "engine": "vllm"},
            "--device, --dtype and --engine",
        ),
        ({"model": ["m"], "family": "qwen3_vl", "max_pixels": 9}, "--min-pixels and --max-pixels"),
        ({"model": ["m"], "family": "qwen2_5_vl"}, "family qwen2_5_vl answers in pixels"),
        ({"model": ["m"], "family": "qwen3_vl", "endpoint": "gpu"}, "'gpu': no address"),
        ({"endpoint": None, "processor": "tiny"}, "--processor is for --endpoint"),
    ],
    ids=str,
)
def test_what_makes_no_sense_of_a_server_is_refused(how: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        command(**{"endpoint": "http://127.0.0.1:9/v1", "host": "127.0.0.1", "port": 0} | how)
