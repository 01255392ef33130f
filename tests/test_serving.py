"""The HTTP API: its answers are the grounder's, and whatever is asked gets one sentence."""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
import yaml

from asking import Slow, served, until
from reground.api import Grounder, GroundingRequest, Way, question_of
from reground.cli.serve import command
from reground.data.images import base64_png, data_url
from reground.errors import ConfigError, RunError
from reground.grounding.boxes import place
from reground.grounding.sample import Sample
from reground.model.load import answering_of
from reground.protocols.choice import Protocols
from reground.rollout.environment import Start
from reground.rollout.tools.http import HttpDetector
from reground.rollout.tools.tool import Request, ToolError
from reground.serving.batching import LARGEST, ModelThread, QueueFullError
from reground.serving.guard import Refused, Rules
from reground.serving.run import listening, tool_of
from reground.serving.service import Asking, Limits, ServedModel, Service
from reground.teacher.store import Store
from reground.tinyworld import scenes as synth
from reviewing import make_chains, scenes

SAMPLES = [synth.sample("referring", seed=7, index=index) for index in range(8)]
IMAGES = [synth.render(sample.images[0].path) for sample in SAMPLES]
URL = data_url(IMAGES[0])
ASKED = {"images": [URL], "text": "the ring"}
PARTS = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "the ring"}]
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": PARTS}]}


# ---- answers -----------------------------------------------------------------------------------


def test_answers_are_those_of_the_grounder(client: httpx2.Client, tiny: Grounder) -> None:
    """Alone, and in a batch; boxes in pixels of the image, with the grounder's own scores."""
    asked = [
        {"images": [data_url(image)], "text": sample.question}
        for image, sample in zip(IMAGES, SAMPLES, strict=True)
    ]
    alone = client.post("/v1/ground", json=asked[0]).json()
    together = client.post("/v1/ground/batch", json={"requests": asked}).json()["results"]
    assert alone["text"] == together[0]["text"]
    for sent, image, sample in zip(together, IMAGES, SAMPLES, strict=True):
        found = tiny.ground([image], sample.question)
        assert (sent["text"], sent["status"]) == (found.text, found.answer.status)
        assert (sent["width"], sent["height"], sent["protocol"]) == (*image.size, "think")
        assert [tuple(each["box"]) for each in sent["boxes"]] == [
            box.xyxy for box in found.answer.boxes
        ]
        scores = [each["score"] for each in sent["boxes"]]
        assert scores == pytest.approx(found.scores, rel=1e-3)


def test_answers_are_the_same_in_batches(client: httpx2.Client, tiny: Grounder) -> None:
    """Texts of answers alone and with 1 to 31 others, of one image and of several."""
    tasks = ("referring", "refer_grounding", "diff", "multi_view")
    samples = [synth.sample(tasks[n % 4], seed=7, index=n) for n in range(LARGEST)]
    images = [[synth.render(image.path) for image in each.images] for each in samples]
    asked = [
        {
            "images": [data_url(i) for i in shown],
            "text": each.question,
            "target_image": target(each),
        }
        for shown, each in zip(images, samples, strict=True)
    ]
    alone = [
        tiny.ground(shown, each.question, target_image=target(each)).text
        for shown, each in zip(images, samples, strict=True)
    ]
    differ = {}
    with ThreadPoolExecutor(LARGEST) as askers:
        for size in (1, 2, 3, 5, 8, 13, 21, LARGEST):
            sent = list(
                askers.map(lambda one: client.post("/v1/ground", json=one).json(), asked[:size])
            )
            assert max(each["timings"]["batch"] for each in sent) >= min(size, 2)
            differ |= {
                (size, n): (text, each["text"])
                for n, (text, each) in enumerate(zip(alone, sent, strict=False))
                if each["text"] != text
            }
    assert differ == {}


def target(sample: Sample) -> int:
    return sample.targets[0].image


def test_a_box_at_hand_reaches_the_model(client: httpx2.Client, tiny: Grounder) -> None:
    sent = client.post("/v1/ground", json=ASKED | {"tool_boxes": [[1, 2, 30, 40]]}).json()
    found = tiny.under("piter").ground([IMAGES[0]], "the ring", tool=[(1, 2, 30, 40)])
    assert (sent["protocol"], sent["text"]) == ("piter", found.text)
    assert sent["tool"] == [{"box": [1, 2, 30, 40], "score": None, "label": None}]


def test_the_first_thought_has_boxes_of_its_own() -> None:
    """Where the thought says it is, whatever the detector says afterwards; only where asked for."""
    refiner, asked = Grounder.from_pretrained("tiny_refiner"), {"images": [URL], "first": True}
    question = {"text": SAMPLES[0].question}
    requests = [
        asked | question | {"tool_boxes": [box]} for box in ((5, 5, 60, 60), (70, 70, 100, 105))
    ]
    with served(refiner, refiner) as client:
        batch = client.post("/v1/ground/batch", json={"requests": requests}).json()["results"]
        plain = client.post("/v1/ground", json=requests[0] | {"first": False}).json()
        piter = client.post("/v1/ground", json=requests[0] | {"protocol": "piter"}).json()
        stream = client.post("/v1/ground", json=requests[0] | {"stream": True}).text
    found = refiner.ground([IMAGES[0]], SAMPLES[0].question, tool=[(5, 5, 60, 60)], first=True)
    (box,) = found.first or ()
    assert place(box.box) in (found.answer.think or "") and 0 < (box.score or 0) < 1
    for each in batch:
        assert each["first"][0]["box"] == pytest.approx(box.box.xyxy)
        assert each["first"][0]["score"] == pytest.approx(box.score, rel=1e-3)
    assert batch[0]["boxes"] != batch[1]["boxes"]
    assert (plain["first"], plain["text"]) == (None, batch[0]["text"]) and piter["first"] is None
    events = [each.partition("data: ") for each in stream.strip().split("\n\n")]
    texts = [json.loads(data)["text"] for name, _, data in events if "event: text" in name]
    assert "".join(texts) == batch[0]["text"]
    (last,) = json.loads(events[-1][2])["first"]
    assert last["box"] == pytest.approx(box.box.xyxy)
    assert last["score"] == pytest.approx(box.score, rel=1e-3)  # in a batch sums change


def test_an_unsure_answer_abstains(client: httpx2.Client) -> None:
    sent = client.post("/v1/ground", json=ASKED).json()
    unsure = client.post("/v1/ground", json=ASKED | {"min_score": 1}).json()
    assert sent["boxes"] and sent["status"] == "ok"
    assert (unsure["status"], unsure["boxes"], unsure["text"]) == ("abstained", [], sent["text"])


TOOL = """
import threading
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection

class Mine:
    name, settings, by_image = "mine", "1", True
    opened, busy, most = 0, 0, 0

    def __init__(self):
        Mine.opened += 1

    def detect(self, requests):
        Mine.busy += 1
        Mine.most = max(Mine.most, Mine.busy)
        threading.Event().wait(0.05)
        Mine.busy -= 1
        frame = requests[0].sample.images[0].frame
        self.settings = f"{Mine.opened} opened, {Mine.most} at a time"
        return [(Detection(0, Box(5, 5, 60, 60, frame), self.settings),) for _ in requests]
"""


def test_a_tool_is_opened_once_and_asked_one_by_one(tmp_path: Path) -> None:
    """However many questions are decoded at a time."""
    (tmp_path / "mine.py").write_text(TOOL)
    tool, protocols = tool_of(f"{tmp_path / 'mine.py'}:Mine"), Protocols.of(answering_of("tiny"))

    def asked(number: int) -> Any:
        images = [IMAGES[number]]
        request = GroundingRequest(images=images, text="a", tool=tool, protocol="piter")
        sample, _ = question_of(request, id=str(number), protocols=protocols)
        (found,) = sample.tool_results or ()
        return found.label

    with ThreadPoolExecutor(4) as askers:
        assert set(askers.map(asked, range(8))) == {"1 opened, 1 at a time"}


def test_one_bad_question_of_a_batch_leaves_the_others(client: httpx2.Client) -> None:
    batch = {"requests": [ASKED, ASKED | {"target_image": 5}, ASKED]}
    first, second, third = client.post("/v1/ground/batch", json=batch).json()["results"]
    assert second == {"error": "found image 5 of 1 images, expected 0 to 0"}
    assert first["text"] == third["text"]


def test_the_models_are_named(client: httpx2.Client) -> None:
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/health").json() == {"status": "UP", "model_class": "ReGround"}
    assert client.get("/ready").json() == {"ready": True}


def test_a_request_names_one_of_several_models(tiny: Grounder) -> None:
    other = Slow()
    other.may.set()
    with served(tiny, tiny, others={"runs/other": other}) as client:
        known = [each["id"] for each in client.get("/v1/models").json()["data"]]
        first, second = (
            client.post("/v1/ground", json=ASKED | named).json()
            for named in ({}, {"model": "runs/other"})
        )
        unknown = client.post("/v1/ground", json=ASKED | {"model": "gpt"})
        batch = {"requests": [ASKED | {"model": name} for name in ("runs/other", "gpt", "tiny")]}
        together = client.post("/v1/ground/batch", json=batch).json()["results"]
    assert known == ["tiny", "runs/other"]
    assert (first["model"], second["model"]) == ("tiny", "runs/other")
    assert second["text"] == ASKED["text"] != first["text"]  # the other says what it is asked
    problem = {"error": "found the model 'gpt', expected one of: tiny, runs/other"}
    assert (unknown.status_code, unknown.json()) == (404, problem)
    assert [each.get("model", each.get("error")) for each in together] == [
        "runs/other",
        problem["error"],
        "tiny",
    ]


def test_what_happened_is_counted(client: httpx2.Client) -> None:
    client.post("/v1/ground", json=ASKED)
    client.get("/health", headers={"Host": "elsewhere"})
    text = client.get("/metrics").text
    assert 'reground_responses_total{status="200"}' in text
    assert 'reground_responses_total{status="421"}' in text
    assert "reground_batch_questions_count" in text


def test_it_is_a_detector_for_others(client: httpx2.Client, tiny: Grounder) -> None:
    """For our own tools by their protocol, and for CVAT by its."""
    detector = HttpDetector(url=str(client.base_url.join("/detect")))
    (boxes,) = detector.detect([Request(SAMPLES[0], SAMPLES[0].question)])
    found = tiny.ground([IMAGES[0]], SAMPLES[0].question)
    assert not isinstance(boxes, ToolError)
    assert [each and each.box.xyxy for each in boxes] == [each.xyxy for each in found.answer.boxes]
    labels = {"labels": [SAMPLES[0].question, "the blue cross"]}
    asked = {"image": base64_png(IMAGES[0]), "threshold": 0.0}
    shapes = client.post("/cvat", params=labels, json=asked).json()
    assert shapes[0]["points"] == list(found.answer.boxes[0].xyxy)
    assert (shapes[0]["label"], shapes[0]["type"]) == (SAMPLES[0].question, "rectangle")
    assert float(shapes[0]["confidence"]) == pytest.approx(found.scores[0], abs=1e-3)
    surer = client.post("/cvat", params=labels, json=asked | {"threshold": 1.0}).json()
    assert surer == []


def test_the_function_of_cvat_asks_the_server(
    tiny: Grounder, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nuclio calls it; where the server refuses or is gone, CVAT is told the sentence."""
    folder = Path(__file__).parents[1] / "examples/cvat"
    function = yaml.safe_load((folder / "function.yaml").read_text())
    for each in function["spec"]["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    labels = json.loads(function["metadata"]["annotations"]["spec"])
    assert [each["name"] for each in labels] == json.loads(os.environ["REGROUND_LABELS"])
    assert function["spec"]["handler"] == "main:handler"
    main = runpy.run_path(str(folder / "main.py"))

    def call(image: str, threshold: float | None = None) -> Any:
        context = SimpleNamespace(user_data=SimpleNamespace(), Response=SimpleNamespace)
        main["init_context"](context)
        body = {"image": image} | ({} if threshold is None else {"threshold": threshold})
        return main["handler"](context, SimpleNamespace(body=body))

    monkeypatch.setenv("REGROUND_URL", str(client.base_url))
    monkeypatch.setenv("REGROUND_LABELS", json.dumps([SAMPLES[0].question]))
    found, sent = tiny.ground([IMAGES[0]], SAMPLES[0].question), call(base64_png(IMAGES[0]))
    (shape,) = json.loads(sent.body)
    assert (sent.status_code, sent.content_type) == (200, "application/json")
    assert shape["points"] == list(found.answer.boxes[0].xyxy)
    assert (shape["label"], shape["type"]) == (SAMPLES[0].question, "rectangle")
    assert json.loads(call(base64_png(IMAGES[0]), threshold=1.0).body) == []
    bad = call("?")
    assert bad.status_code == 422 and "image: not base64" in json.loads(bad.body)["error"]
    with served(tiny, tiny, rules=Rules(api_key="secret")) as other:
        monkeypatch.setenv("REGROUND_URL", str(other.base_url))
        assert call(base64_png(IMAGES[0])).status_code == 401
        monkeypatch.setenv("REGROUND_API_KEY", "secret")
        assert call(base64_png(IMAGES[0])).status_code == 200
    gone = call(base64_png(IMAGES[0]))
    assert gone.status_code == 502 and "does not answer" in json.loads(gone.body)["error"]


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        ("/detect", {"image": "?", "expression": "a"}, "image: not base64"),
        ("/detect", {"image": "AAAA", "expression": "a"}, "image: not an image in"),
        ("/detect", {"image": "AAAA"}, "expression: field required"),
        ("/cvat", {"image": "AAAA"}, "labels: field required"),
        ("/cvat?labels=", {"image": "AAAA"}, "labels.0: string should have at least 1 character"),
        ("/cvat?labels=a", {"image": "AAAA", "threshold": 2}, "threshold: input should be less"),
    ],
)
def test_a_bad_question_to_a_detector_gets_a_sentence(
    client: httpx2.Client, path: str, body: Any, problem: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"].startswith(problem)


# ---- bad questions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "images: field required"),
        ({"images": [URL]}, "text: field required"),
        (ASKED | {"images": []}, "images: list should have at least 1 item"),
        (ASKED | {"images": [URL] * 17}, "images: list should have at most 16 items"),
        (ASKED | {"images": "a"}, "images: input should be a valid list"),
        (ASKED | {"images": ["http://127.0.0.1/a.png"]}, "http://127.0.0.1/a.png: expected an"),
        (ASKED | {"images": ["/etc/passwd"]}, "image 0: expected a data URL"),
        (ASKED | {"images": ["file:///etc/passwd"]}, "image 0: expected a data URL"),
        (ASKED | {"images": ["synth:referring"]}, "image 0: expected a data URL"),
        (ASKED | {"images": [URL, "data:image/png;base64,AAAA"]}, "image 1: not an image in"),
        (ASKED | {"images": ["data:image/png;base64,?"]}, "image 0: not base64"),
        (ASKED | {"images": ["data:image/png;base64,"]}, "image 0: not an image in"),
        (ASKED | {"images": [URL[:200]]}, "image 0: "),
        (ASKED | {"text": "  "}, "found an empty text"),
        (ASKED | {"text": "a" * 5_000}, "text: string should have at most 4000 characters"),
        (ASKED | {"text": 5}, "text: input should be a valid string"),
        (ASKED | {"target_image": 1}, "found image 1 of 1 images"),
        (ASKED | {"target_image": -1}, "target_image: input should be greater than or equal"),
        (ASKED | {"protocol": "zoom"}, "protocol: input should be 'direct'"),
        (ASKED | {"protocol": "direct", "tool_boxes": [[0, 0, 9, 9]]}, "protocol direct does not"),
        (ASKED | {"tool_boxes": [[0, 0, 9]]}, "tool_boxes.0.3: field required"),
        (ASKED | {"tool_boxes": [[0, 0, 9, 1e30]]}, "tool_boxes.0.3: input should be less than"),
        (ASKED | {"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        (ASKED | {"more": 1}, "more: extra inputs are not permitted"),
        ([ASKED], "the body: input should be a valid dictionary"),
    ],
    ids=str,
)
def test_a_bad_question_gets_a_sentence(client: httpx2.Client, body: Any, problem: str) -> None:
    response = client.post("/v1/ground", json=body)
    assert response.status_code == 422
    assert response.json()["error"].startswith(problem)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"images": ["\\ud800"]}'])
def test_what_is_no_json_gets_a_sentence(client: httpx2.Client, body: bytes) -> None:
    kind = {"Content-Type": "application/json"}
    response = client.post("/v1/ground", content=body, headers=kind)
    assert response.status_code in (400, 422) and response.json()["error"]


def test_a_longer_answer_than_the_servers_limit_is_cut(tiny: Grounder) -> None:
    with served(tiny, tiny, Limits(max_tokens=5)) as client:
        sent = client.post("/v1/ground", json=ASKED | {"max_tokens": 100}).json()
        shorter = client.post("/v1/ground", json=ASKED | {"max_tokens": 2}).json()
    assert sent["status"] == "no_answer"
    assert sent["text"].startswith(shorter["text"]) and len(shorter["text"]) < len(sent["text"])


# ---- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "LOCALHOST:9"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "127.0.0.1@evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "https://localhost"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=str,
)
def test_other_names_and_other_pages_are_refused(
    client: httpx2.Client, headers: dict[str, str], status: int
) -> None:
    response = client.get("/v1/models", headers=headers)
    assert response.status_code == status
    assert "access-control-allow-origin" not in response.headers


def test_a_named_origin_may_ask(tiny: Grounder) -> None:
    rules = Rules(origins=("https://app.example",))
    own = {"Origin": "https://app.example"}
    with served(tiny, Slow(), rules=rules) as client:
        preflight = client.options("/v1/ground", headers=own)
        asked = client.get("/v1/models", headers=own)
        other = client.get("/v1/models", headers={"Origin": "https://other.example"})
    assert (preflight.status_code, asked.status_code, other.status_code) == (204, 200, 403)
    for response in (preflight, asked):
        assert response.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer other"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer käse"}, 401),
        ({"Authorization": "Bearer key"}, 200),
        ({"X-API-Key": "key"}, 200),
        ({"Authorization": "Basic dXNlcjprZXk="}, 200),  # user:key, as Label Studio sends it
        ({"Authorization": "Basic a2V5"}, 401),
    ],
    ids=str,
)
def test_the_key_opens_all_but_what_watches_the_server(
    tiny: Grounder, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    with served(tiny, Slow(), rules=Rules(api_key="key")) as client:
        assert client.get("/v1/models", headers=sent).status_code == status
        assert client.get("/metrics", headers=sent).status_code == status
        assert client.get("/health").status_code == 200


def test_large_and_slow_bodies_are_refused(tiny: Grounder) -> None:
    def drip() -> Iterator[bytes]:
        yield b"{"
        time.sleep(1)
        yield b"}"

    def flood() -> Iterator[bytes]:
        yield from [b" " * 1000] * 20

    with served(tiny, Slow(), rules=Rules(max_body=10_000, body_s=0.5)) as client:
        stated = client.post("/v1/ground", content=b" " * 20_000)
        unstated = client.post("/v1/ground", content=flood())
        slow = client.post("/v1/ground", content=drip())
    assert [each.status_code for each in (stated, unstated, slow)] == [413, 413, 408]


# ---- the queue ---------------------------------------------------------------------------------


def start(tiny: Grounder, text: str) -> Start:
    return tiny.start(GroundingRequest(images=[IMAGES[0]], text=text), id=text)


def test_what_waits_is_answered_together_in_its_order(tiny: Grounder) -> None:
    model = Slow()
    thread = ModelThread(model, batch_tokens=10**9, most_waiting=100)
    asked = [thread.submit(start(tiny, "0"), Way(max_tokens=8))]
    until(lambda: bool(model.batches))
    for number in range(1, LARGEST + 3):
        asked.append(thread.submit(start(tiny, str(number)), Way(max_tokens=8)))
    asked.append(thread.submit(start(tiny, "short"), Way(max_tokens=4)))
    model.may.set()
    texts = [each.result(30).grounding.text for each in asked]
    thread.close()
    assert texts == [*map(str, range(LARGEST + 3)), "short"]
    assert [len(batch) for batch in model.batches] == [1, LARGEST, 2, 1]


def test_a_batch_waits_for_what_is_on_its_way(tiny: Grounder) -> None:
    model = Slow()
    thread = ModelThread(model, batch_tokens=10**9, most_waiting=100)
    first = thread.submit(start(tiny, "first"), Way(max_tokens=8))
    until(lambda: bool(model.batches))
    time.sleep(2)  # a batch waits at most as long as the last one took
    model.may.set()
    assert first.result(30)
    with thread.expecting():
        asked = [thread.submit(start(tiny, "a"), Way(max_tokens=8))]
        time.sleep(0.1)
        asked.append(thread.submit(start(tiny, "b"), Way(max_tokens=8)))
    assert all(each.result(30) for each in asked)
    with thread.expecting():  # it may take longer than a batch: none waits for it for ever
        assert thread.submit(start(tiny, "c"), Way(max_tokens=8)).result(30)
    thread.close()
    assert model.batches == [["first"], ["a", "b"], ["c"]]


def test_a_batch_keeps_to_the_budget_of_tokens(tiny: Grounder) -> None:
    model, one = Slow(), start(tiny, "a")
    thread = ModelThread(model, batch_tokens=2 * (len(one.prompt.ids) + 8), most_waiting=100)
    asked = [thread.submit(one, Way(max_tokens=8))]
    until(lambda: bool(model.batches))
    asked += [thread.submit(one, Way(max_tokens=8)) for _ in range(5)]
    model.may.set()
    assert all(each.result(30) for each in asked)
    thread.close()
    assert [len(batch) for batch in model.batches] == [1, 2, 2, 1]


def test_one_question_that_fails_spoils_no_other(tiny: Grounder) -> None:
    model = Slow(spoilt="bad")
    thread = ModelThread(model, batch_tokens=10**9, most_waiting=100)
    first = thread.submit(start(tiny, "first"), Way(max_tokens=8))
    until(lambda: bool(model.batches))
    asked = [thread.submit(start(tiny, text), Way(max_tokens=8)) for text in ("a", "bad", "b")]
    model.may.set()
    assert first.result(30) and asked[0].result(30) and asked[2].result(30)
    assert isinstance(asked[1].exception(30), MemoryError)
    thread.close()


def test_a_full_queue_says_when_to_come_again(tiny: Grounder) -> None:
    model = Slow()
    thread = ModelThread(model, batch_tokens=10**9, most_waiting=2)
    first = thread.submit(start(tiny, "first"), Way(max_tokens=8))
    until(lambda: bool(model.batches))
    waiting = [thread.submit(start(tiny, "more"), Way(max_tokens=8)) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 questions wait already; ask again in 2 s"):
        thread.submit(start(tiny, "too many"), Way(max_tokens=8))
    waiting[0].cancel()
    model.may.set()
    assert first.result(30) and waiting[1].result(30)
    thread.close()
    assert model.batches == [["first"], ["more"]]


def test_a_full_queue_a_late_answer_and_a_failure_have_their_status(tiny: Grounder) -> None:
    model = Slow(spoilt="bad")
    limits = Limits(most_waiting=1, timeout_s=0.5)
    with served(tiny, model, limits) as client, ThreadPoolExecutor(2) as askers:
        first = askers.submit(client.post, "/v1/ground", json=ASKED)
        until(lambda: bool(model.batches))
        second = askers.submit(client.post, "/v1/ground", json=ASKED)
        until(lambda: "reground_waiting_questions 1.0" in client.get("/metrics").text)
        full = client.post("/v1/ground", json=ASKED)
        late = [each.result().status_code for each in (first, second)]
        model.may.set()
        failed = client.post("/v1/ground", json=ASKED | {"text": "bad"})
    assert (full.status_code, late, failed.status_code) == (429, [504, 504], 503)
    assert int(full.headers["Retry-After"]) >= 1
    assert failed.json() == {"error": "the model failed: MemoryError"}


def test_an_answer_that_grows_too_long_is_late_all_the_same(tiny: Grounder) -> None:
    """News of an answer, again and again, do not move its deadline."""

    async def heard() -> list[str]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asking = Asking(ServedModel("tiny", tiny, cast(Any, None)), start(tiny, "a"))
        asking.future = future
        asking.hear((5,))
        silent = asyncio.Event()
        http = SimpleNamespace(receive=silent.wait)
        service = Service([], Limits(timeout_s=0.3))
        texts = []
        async for text in service.heard(asking, cast(Any, http)):
            texts.append(text)
            await asyncio.sleep(0.02)
            asking.hear((*asking.so_far, 5))
        return texts

    async def within() -> None:
        task = asyncio.create_task(heard())
        await asyncio.wait_for(task, 10)

    with pytest.raises(Refused, match="no answer within"):
        asyncio.run(within())


def test_a_client_that_hangs_up_frees_its_place(tiny: Grounder) -> None:
    model = Slow()
    with served(tiny, model, Limits(most_waiting=1)) as client, ThreadPoolExecutor(1) as asker:
        first = asker.submit(client.post, "/v1/ground", json=ASKED)
        until(lambda: bool(model.batches))
        with pytest.raises(httpx2.ReadTimeout):
            client.post("/v1/ground", json=ASKED | {"text": "gone"}, timeout=0.5)
        until(lambda: 'responses_total{status="499"}' in client.get("/metrics").text)
        model.may.set()
        assert first.result().status_code == 200
        assert client.post("/v1/ground", json=ASKED).status_code == 200
    assert [text for batch in model.batches for text in batch] == ["the ring", "the ring"]


# ---- the command -------------------------------------------------------------------------------


def test_replies_are_sent_at_once() -> None:
    """Nagle's algorithm holds the second of two writes until the first one's ACK, 40 ms later."""
    at_once: list[int] = []

    async def asked() -> None:
        listener = listening("127.0.0.1", 0)

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            own = writer.get_extra_info("socket")
            at_once.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(answer, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    asyncio.run(asked())
    assert at_once == [1]


def test_a_taken_port_is_named() -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"127.0.0.1:{port} cannot be used"):
            listening("127.0.0.1", port)


def test_other_machines_take_a_key() -> None:
    command = [sys.executable, "-m", "reground", "serve", "--host", "0.0.0.0"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "host 0.0.0.0 can be reached by others; give --api-key" in ended.stderr


def test_a_model_is_named_once() -> None:
    with pytest.raises(ConfigError, match="found --model tiny more than once"):
        command(model=["tiny", "tiny"])


def test_what_is_asked_when_it_is_told_to_stop_is_answered(tmp_path: Path) -> None:
    """SIGTERM in the midst of questions: each is answered, or cannot connect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "reground", "serve", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stderr=log)
    try:
        until(lambda: is_ready(port))
        statuses = asyncio.run(asked_while_stopping(f"http://127.0.0.1:{port}", server))
        assert server.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        server.kill()
    assert statuses.count(200) >= 100 and set(statuses) <= {200, None}


def test_a_review_is_served_beside_the_model(tmp_path: Path) -> None:
    """Behind a secret of its own; decisions are kept, and none of another page or name."""
    store = make_chains(tmp_path / "chains.sqlite", scenes(2))
    line = [sys.executable, "-m", "reground", "serve", "--port", "0", "--api-key", "key"]
    server = subprocess.Popen([*line, "--review", str(store)], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr
        said = next(text for text in server.stderr if " is reviewed at " in text)
        address = httpx2.URL(said.rpartition(" at ")[2].strip())
        with httpx2.Client(base_url=address, timeout=60) as reviewer:
            until(lambda: is_ready(address.port or 0))
            page = reviewer.get("")
            call = reviewer.get("samples/0").json()["call"]
            image = reviewer.get("images/0/0")
            other = reviewer.get(str(address.copy_with(path="/review/other/samples/0")))
            asked = [reviewer.get(address.copy_with(path=path)) for path in ("/", "/v1/models")]
            decision = {"call": call, "decision": "accept"}
            refused = [
                reviewer.post("samples/0", json=decision, headers=headers)
                for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"})
            ]
            assert kept(store) == []
            own = {"Origin": f"http://127.0.0.1:{address.port}"}
            accepted = reviewer.post("samples/0", json=decision, headers=own)
    finally:
        server.terminate()
        assert server.wait(60) == 0
    assert "review.js" in page.text and image.headers["content-type"].startswith("image/")
    assert [each.status_code for each in (page, image, other, accepted)] == [200, 200, 403, 200]
    assert [each.status_code for each in asked] == [200, 401]
    assert [each.status_code for each in refused] == [403, 421]
    assert kept(store) == ["accept"]


def kept(path: Path) -> list[str]:
    with Store.open(path) as store:
        return [each.decision for each in store.latest_reviews()]


def is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/ready", timeout=10).status_code == 200
    except httpx2.TransportError:
        return False


async def asked_while_stopping(address: str, server: Any) -> list[int | None]:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=60, limits=limits) as client:

        async def ask(number: int) -> int | None:
            try:
                asked = ASKED if number % 2 else CHAT
                path = "/v1/ground" if number % 2 else "/v1/chat/completions"
                return (await client.post(path, json=asked | {"max_tokens": 8})).status_code
            except (httpx2.ConnectError, httpx2.ReadError):  # or it waits to be let in
                return None

        asked = [asyncio.create_task(ask(number)) for number in range(100)]
        await asyncio.sleep(1)
        server.send_signal(signal.SIGTERM)
        later = [asyncio.create_task(ask(number)) for number in range(20)]
        return [*await asyncio.gather(*asked), *await asyncio.gather(*later)]
