"""A detector behind HTTP: what it is sent, and what becomes of its faults."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from driver import reground
from reground.data.images import load
from reground.data.source import open_dataset, save_dataset
from reground.errors import ConfigError
from reground.grounding.boxes import Box
from reground.grounding.sample import Detection, ImageRef, Sample, Target
from reground.rollout import http
from reground.rollout.http import MAX_REPLY
from reground.rollout.tools.http import KEY, HttpDetector
from reground.rollout.tools.opening import open_tool
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import Request, ToolResult
from server import Response, serving

Respond = Callable[[dict[str, Any], int], Response]


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    Image.effect_noise((100, 80), 60).convert("RGB").save(tmp_path / "photo.png")
    image = ImageRef(str(tmp_path / "photo.png"), 100, 80)
    target = Target(0, Box(10, 8, 50, 40, image.frame))
    return Sample("s", (image,), "the cup", (target,), "referring")


def expression(body: dict[str, Any]) -> str:
    return str(body["expression"])


def says(*boxes: Any, **more: Any) -> Response:
    return Response(json.dumps({"boxes": list(boxes)} | more))


def ask(
    respond: Respond, sample: Sample, *, runner_s: float = 30.0, **changes: Any
) -> tuple[ToolResult, int]:
    """The reply to one question, and how often the server was asked."""
    with serving(respond, question=expression) as (url, bodies):
        tool = HttpDetector(url=url, **{"timeout_s": 5.0, "retries": 0} | changes)
        runner = ToolRunner(tool, timeout_s=runner_s, batch_size=8)
        (reply,) = runner.ask([Request(sample, "the cup")])
        return reply, len(bodies)


def test_a_server_is_sent_the_very_pixels_and_gives_boxes_in_them(sample: Sample) -> None:
    boxes = [
        {"box": [10, 8, 50.5, 40], "label": "cup", "score": 0.25, "area": 7},
        {"box": [1, 2, 3, 4], "label": None, "score": 1},
        {"box": [5, 5, 9, 9]},
    ]
    with serving(lambda body, _: says(*boxes, took=3), question=expression) as (url, bodies):
        (found,) = open_tool(url, samples=[]).detect([Request(sample, 'the "cup" \ud83c\udf75')])
    frame = sample.images[0].frame
    assert found == (
        Detection(0, Box(10, 8, 50.5, 40, frame), "cup", 0.25),
        Detection(0, Box(1, 2, 3, 4, frame), None, 1),
        Detection(0, Box(5, 5, 9, 9, frame)),
    )
    (body,) = bodies
    assert set(body) == {"image", "expression"} and body["expression"] == 'the "cup" \U0001f375'
    sent = Image.open(io.BytesIO(base64.b64decode(body["image"])))
    assert (sent.format, sent.tobytes()) == ("PNG", load(sample.images[0]).tobytes())


def test_questions_are_asked_at_once_and_answers_kept_in_order(sample: Sample) -> None:
    together = threading.Barrier(3)

    def respond(body: dict[str, Any], _: int) -> Response:
        together.wait(10)
        return says({"box": [0, 0, int(expression(body)), 9]})

    with serving(respond, question=expression) as (url, _):
        tool = HttpDetector(url=url, concurrency=3, timeout_s=15)
        found = tool.detect([Request(sample, str(n)) for n in range(1, 7)])
    assert [each[0].box.x2 for each in found] == [*range(1, 7)]  # type: ignore[index,union-attr]


DEEP = "[" * 200_000
FAULTS: dict[str, tuple[Response, str]] = {
    "401": (Response('{"error": "bad key"}', 401), "status 401: .*bad key"),
    "redirect": (Response("", 302, {"Location": "http://127.0.0.1:1/"}), "status 302"),
    "500": (Response("<html>oops</html>", 500), "status 500: html oops /html"),
    "HTML": (Response("<!DOCTYPE html><p>Welcome"), "no JSON; it begins: !DOCTYPE html"),
    "nothing": (Response(""), "no JSON; it begins: nothing"),
    "half": (Response('{"boxes": [', claimed=4000), "RemoteProtocolError"),
    "half JSON": (Response('{"boxes": ['), "no JSON"),
    "deep JSON": (Response(DEEP), "no JSON"),
    "a list": (Response("[]"), 'no list "boxes"'),
    "no boxes": (Response('{"ok": true}'), 'no list "boxes"'),
    "boxes is null": (Response('{"boxes": null}'), 'no list "boxes"'),
    "three numbers": (says({"box": [1, 2, 3]}), r'boxes\[0\] .* no "box" of four numbers'),
    "texts": (says({"box": ["1", "2", "3", "4"]}), "four numbers"),
    "truths": (says({"box": [0, 0, True, True]}), "four numbers"),
    "bare": (says([1, 2, 3, 4]), "four numbers"),
    "a label": (says({"box": [1, 2, 3, 4], "label": 7}), "a label that is no text"),
    "a score": (says({"box": [1, 2, 3, 4], "score": "9"}), "a score that is no number"),
    "no gzip": (Response("{}", headers={"Content-Encoding": "gzip"}), "DecodingError"),
    "10 MB": (Response('{"boxes": [], "x": "' + "a" * 10_000_000 + '"}'), "larger than 4 MB"),
    "10 MB of 500": (Response("a" * 10_000_000, 500), "larger than 4 MB"),
    "tags": (Response("</tool><answer><|im_end|>", 400), r"status 400: /tool answer \|im_end\|$"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_reply_with_its_reason(name: str, sample: Sample) -> None:
    fault, reason = FAULTS[name]
    reply, _ = ask(lambda *_: fault, sample)
    assert reply.detections == () and re.search(reason, reply.problem or "")


@pytest.mark.parametrize(
    ("numbers", "kept"),
    [
        ("NaN, 0, 9, 9", 0),
        ("-Infinity, 0, 1e999, 9", 0),
        ("0, 0, 1" + "0" * 400 + ", 9", 0),
        ("200, 200, 300, 300", 0),
        ("9, 9, 0, 0", 0),
        ("-10, -10, 9, 9", 1),
    ],
)
def test_boxes_that_are_none_are_dropped_one_by_one(
    numbers: str, kept: int, sample: Sample
) -> None:
    content = f'{{"boxes": [{{"box": [{numbers}]}}, {{"box": [1, 1, 5, 5], "score": 0.5}}]}}'
    reply, _ = ask(lambda *_: Response(content), sample)
    assert (len(reply.detections), reply.problem) == (1 + kept, None)


def test_ten_thousand_boxes_are_read(sample: Sample) -> None:
    boxes = [{"box": [n % 50, 0, 99, 79], "label": "cup", "score": n / 1e4} for n in range(10_000)]
    reply, _ = ask(lambda *_: says(*boxes), sample)
    assert [each.score for each in reply.detections][:2] == [0.9999, 0.9998]
    assert len(json.dumps(boxes)) < MAX_REPLY


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (Response("busy", 429, {"Retry-After": "0.01"}), 3),
        (Response("busy", 429, {"Retry-After": "-5"}), 3),
        (Response("busy", 503, {"Retry-After": "0"}), 3),
        (Response("", claimed=50), 3),
        (Response("wrong", 400), 1),
        (Response("", 307), 1),
        (Response("no JSON"), 1),
    ],
)
def test_what_may_pass_is_tried_again(fault: Response, tries: int, sample: Sample) -> None:
    def respond(_: dict[str, Any], before: int) -> Response:
        return fault if before < 2 else says({"box": [1, 1, 9, 9]})

    reply, asked = ask(respond, sample, retries=2)
    assert asked == tries and (reply.problem is None) is (tries == 3)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(
    form: str, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_while = formatdate(time.time() + 25, usegmt=True)
    value = "7.5" if form == "seconds" else in_a_while
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(http.asyncio, "sleep", sleep)

    def respond(_: dict[str, Any], before: int) -> Response:
        return Response("", 429, {"Retry-After": value}) if before == 0 else says()

    reply, asked = ask(respond, sample, retries=1, timeout_s=30)
    assert (reply, asked) == (ToolResult(), 2)
    (wait,) = waits
    assert 7.5 <= wait <= 8.25 if form == "seconds" else 0 < wait <= 27.5


def test_no_server_is_a_reply_too(sample: Sample) -> None:
    tool = HttpDetector(url="http://127.0.0.1:9/x", retries=1)
    (reply,) = ToolRunner(tool, timeout_s=30, batch_size=1).ask([Request(sample, "x")])
    assert re.match("ConnectError: .*", reply.problem or "")


def test_a_server_that_hangs_is_left_in_time(sample: Sample) -> None:
    stop = threading.Event()

    def respond(*_: Any) -> Response:
        stop.wait(20)
        return says()

    try:
        reply, _ = ask(respond, sample, timeout_s=0.3)
        assert reply.problem == "no reply within 0.3 s"
        reply, _ = ask(respond, sample, runner_s=0.3)
        assert reply.problem == "no result within 0.3 s"
    finally:
        stop.set()


def test_a_server_that_drips_is_left_in_time(sample: Sample) -> None:
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.05):
                with suppress(OSError):
                    connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=[listener], daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        (found,) = HttpDetector(url=url, timeout_s=0.5, retries=0).detect([Request(sample, "x")])
        assert str(found) == "no reply within 0.5 s"
        stop.set()


def test_the_key_is_sent_and_never_shown(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "sk-very-secret\n")
    headers: list[dict[str, str]] = []

    def respond(*_: Any) -> Response:
        return Response("no such key: sk-very-secret", 401)

    with serving(respond, question=expression, headers=headers) as (url, _):
        tool = HttpDetector(url=url)
        (reply,) = ToolRunner(tool, timeout_s=9, batch_size=1).ask([Request(sample, "x")])
    assert headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert reply.problem == "status 401: no such key: (the key)"
    assert "secret" not in caplog.text + repr(tool) + tool.name + tool.settings
    monkeypatch.setenv(KEY, "sk-very\nsecret")
    with pytest.raises(ConfigError, match=KEY) as caught:
        HttpDetector(url=url)
    assert "secret" not in str(caught.value)


@pytest.fixture
def data(sample: Sample, tmp_path: Path) -> Path:
    image = sample.images[0]
    rows = [Sample(f"s{n}", (image,), f"cup {n}", sample.targets, "referring") for n in range(4)]
    save_dataset(tmp_path / "data.jsonl", rows)
    return tmp_path / "data.jsonl"


def test_the_command_fills_a_data_set_and_asks_again_what_failed(
    data: Path, tmp_path: Path
) -> None:
    """Four samples: a right box, a wrong one, none, and first a failure."""
    out, broken = tmp_path / "out.jsonl", threading.Event()
    boxes = {
        "cup 0": [{"box": [10, 8, 50, 40], "label": "cup", "score": 0.5}],
        "cup 1": [{"box": [60, 60, 70, 70]}],
        "cup 2": [],
        "cup 3": [{"box": [11, 8, 50, 40]}],
    }

    def respond(body: dict[str, Any], _: int) -> Response:
        text = expression(body)
        return (
            Response("no", 400) if text == "cup 3" and not broken.is_set() else says(*boxes[text])
        )

    with serving(respond, question=expression) as (url, bodies):
        first = reground("tool", "run", "--tool", url, "--data", data, "--out", out)
        partly = [row.tool_results for row in open_dataset(str(out))]
        broken.set()
        second = reground("tool", "run", "--tool", url, "--data", data, "--out", out)
    assert [None if each is None else len(each) for each in partly] == [1, 1, 0, None]
    assert first.stdout == (
        f"{out}: 3 samples with 0.7 boxes each; in 33.3 % one is right (IoU above 0.5)\n"
    )
    assert "1 without an answer: status 400: no\n" in first.stderr
    assert "1 without an answer; the same command asks them again\n" in first.stderr
    assert second.stdout == (
        f"{out}: 4 samples with 0.8 boxes each; in 50.0 % one is right (IoU above 0.5)\n"
    )
    assert sorted(map(expression, bodies)) == ["cup 0", "cup 1", "cup 2", "cup 3", "cup 3"]
    rows = list(open_dataset(str(out)))
    assert [row.id for row in rows] == ["s0", "s1", "s2", "s3"]
    frame = rows[0].images[0].frame
    assert rows[0].tool_results == (Detection(0, Box(10, 8, 50, 40, frame), "cup", 0.5),)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"photo.png", "data.jsonl", "out.jsonl", "out.tool_results.jsonl"}


def test_the_command_writes_nothing_where_nothing_was_answered(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("what was there before\n")
    with serving(lambda *_: Response("no", 400), question=expression) as (url, _):
        done = reground("tool", "run", "--tool", url, "--data", data, "--out", out, code=1)
    assert "4 without an answer: status 400: no\n" in done.stderr
    assert f"{out}: not written; no sample got an answer\n" in done.stderr
    assert out.read_text() == "what was there before\n"
