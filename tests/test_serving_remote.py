"""A model behind another server, served as our own: the other server is a real one of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
ASKED = {"images": [data_url(IMAGES[0])], "text": SAMPLES[0].question}


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
    chat = {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": ASKED["images"][0]}},
                    {"type": "text", "text": ASKED["text"]},
                ],
            }
        ],
    }
    with served(tiny, tiny) as behind, fronting(str(behind.base_url.join("/v1"))) as client:
        found = client.post("/v1/ground/batch", json={"requests": batch}).json()["results"]
        said, there = (
            each.post("/v1/chat/completions", json=chat).json() for each in (client, behind)
        )
        stream = client.post("/v1/ground", json=ASKED | {"stream": True}).text
        chunks = client.post("/v1/chat/completions", json=chat | {"stream": True}).text
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
