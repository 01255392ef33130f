"""Asking a teacher: what is sent, how fast, at what cost; and that nothing paid for is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import server
from reground import patience
from reground.config import load
from reground.data.images import load as load_image
from reground.data.source import save_dataset
from reground.errors import ConfigError, EndpointError, RunError
from reground.grounding.boxes import Box
from reground.grounding.sample import ImageRef, Sample, Target
from reground.patience import GIVE_UP, LONGEST_WAIT_S, pause_s
from reground.teacher import calling, pictures
from reground.teacher.ask import ask, open_store
from reground.teacher.calling import SPENT, CallOutcome
from reground.teacher.limits import Pace
from reground.teacher.pictures import Pictures
from reground.teacher.rows import TeacherCall
from reground.teacher.settings import TeachConfig
from reground.teacher.store import Store
from server import Response, says, serving

CHAIN = "<think>The cup stands at the left.</think><answer>(100,100),(500,500)</answer>"
KEY = "sk-marker-5f3a9c"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of every sleep, which is had."""
    really_sleep, found = asyncio.sleep, []

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        await really_sleep(seconds)

    monkeypatch.setattr(calling.asyncio, "sleep", sleep)
    return found


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """What was reserved of a pace that has a limit, with the seconds to wait for it."""
    really_reserve, found = Pace.reserve, []

    def reserve(self: Pace, units: float) -> float:
        wait = really_reserve(self, units)
        if self._seconds_each:
            found.append((units, wait))
        return wait

    monkeypatch.setattr(Pace, "reserve", reserve)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four questions about two photos of 100 x 80 and 40 x 80, the target in the first."""
    Image.new("RGB", (100, 80), "navy").save(tmp_path / "one.png")
    Image.new("RGB", (40, 80), "olive").save(tmp_path / "two.png")
    return write(tmp_path / "data.jsonl", 4)


def write(path: Path, count: int) -> Path:
    images = tuple(
        ImageRef(str(path.parent / name), *size)
        for name, size in (("one.png", (100, 80)), ("two.png", (40, 80)))
    )
    target = Target(0, Box(10, 8, 50, 40, images[0].frame))
    rows = [Sample(f"s{n}", images, f"cup {n}.", (target,), "referring") for n in range(count)]
    save_dataset(path, rows)
    return path


def settings(data: Path, url: str | None, *overrides: str) -> TeachConfig:
    fixed = [f"data={data}", f"store={data.parent / 'chains.db'}", "teacher.model=m"]
    fixed += ["teacher.concurrency=3", "teacher.timeout_s=5.0", "teacher.retries=3"]
    return load(TeachConfig, None, [*fixed, f"teacher.url={url or 'null'}", *overrides])


def asked(config: TeachConfig, **more: Any) -> CallOutcome:
    with open_store(config) as store:
        return ask(store, config, **more)


def calls(data: Path) -> list[TeacherCall]:
    with Store.open(data.parent / "chains.db") as store:
        return list(store.calls(stage="ask"))


def number_of(body: dict[str, Any]) -> int:
    found = re.search(r"cup (\d+)\.", server.question(body))
    assert found
    return int(found[1])


# What is sent, and kept.


def test_every_sample_is_asked_n_times_and_every_answer_kept(data: Path) -> None:
    begin = time.time()
    with serving(lambda body, _: says(CHAIN, tokens=20, read=300)) as (url, bodies):
        prices = ["teacher.prompt_price=2.0", "teacher.completion_price=10.0"]
        done = asked(settings(data, url, *prices))
    assert (done.answered, done.left, done.total) == (12, 0, 12)
    assert Counter(map(number_of, bodies)) == {n: 3 for n in range(4)}
    for call in calls(data):
        assert (call.text, call.finish, call.attempts, call.error) == (CHAIN, "stop", 1, None)
        assert (call.prompt_tokens, call.completion_tokens, call.model) == (300, 20, "m")
        assert call.cost == pytest.approx((300 * 2 + 20 * 10) / 1e6)
        assert [(s.width, s.input_height) for s in call.sizes] == [(100, 80), (40, 80)]
        assert call.latency_s > 0 and begin <= call.at <= time.time()
    assert [(call.sample, call.number) for call in calls(data)][:4] == [
        ("s0", 0),
        ("s0", 1),
        ("s0", 2),
        ("s1", 0),
    ]


def test_a_teacher_sees_the_question_the_true_box_and_the_very_pixels(data: Path) -> None:
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        asked(settings(data, url, "ask.temperature=0.7", "ask.max_tokens=99"))
    text = server.question(bodies[0])
    assert "about 2 image(s)" in text and "lies in image 1." in text
    assert "(100,100),(500,500)" in text
    first, second = server.images(bodies[0])
    assert first.tobytes() == load_image(str(data.parent / "one.png")).tobytes()
    assert second.size == (40, 80)
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0.7, 99)
    seeds = [body["seed"] for body in bodies]
    assert len(set(seeds)) == 12 and all(0 <= seed < 2**31 for seed in seeds)


def test_any_text_can_be_kept(data: Path) -> None:
    odd = Response(says("x").body.replace('"x"', '"a\\ud83d\\u0000b"'))
    with serving(lambda body, _: odd) as (url, _):
        assert asked(settings(data, url)).left == 0
    assert {call.text for call in calls(data)} == {"a?\0b"}


def test_where_nothing_is_left_no_server_is_needed(data: Path) -> None:
    with serving(lambda body, _: says(CHAIN)) as (url, _):
        asked(settings(data, url))
    done = asked(settings(data, "http://127.0.0.1:9/v1"))
    assert (done.answered, done.left, done.total) == (0, 0, 12)


def test_the_same_call_has_the_same_seed_in_every_run(data: Path, tmp_path: Path) -> None:
    seeds = []
    for name in ("one.db", "two.db"):
        with serving(lambda body, _: says(CHAIN)) as (url, bodies):
            asked(settings(data, url, f"store={tmp_path / name}"))
        seeds.append(sorted(body["seed"] for body in bodies))
    assert seeds[0] == seeds[1]


def test_large_images_are_sent_smaller_and_that_is_recorded(data: Path) -> None:
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        asked(settings(data, url, "ask.max_pixels=2000", "ask.factor=4"))
    sizes = [image.size for image in server.images(bodies[0])]
    assert sizes == [(48, 40), (28, 60)]
    found = [(size.input_width, size.input_height) for size in calls(data)[0].sizes]
    assert found == sizes


def test_images_that_the_server_finds_too_large_are_halved(data: Path) -> None:
    def respond(body: dict[str, Any], _: int) -> Response:
        pixels = max(image.width * image.height for image in server.images(body))
        return says(CHAIN) if pixels <= 2000 else Response("Payload Too Large", 413)

    with serving(respond) as (url, _):
        done = asked(settings(data, url))
    assert done.left == 0
    for call in calls(data):
        largest = max(size.input_width * size.input_height for size in call.sizes)
        assert 1000 < largest <= 2000, "8000 pixels are halved twice, and once for all calls"
        assert 1 <= call.attempts <= 3


def test_images_are_encoded_once_and_few_are_held(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: weakref.WeakSet[Pictures] = weakref.WeakSet()
    loaded: Counter[str] = Counter()
    most = 0
    sent = Pictures.sent

    async def counted(self: Pictures) -> pictures.Sent:
        nonlocal most
        held.add(self)
        most = max(most, len(held))
        return await sent(self)

    def counting(image: ImageRef) -> Image.Image:
        loaded[image.path] += 1
        return load_image(image)

    monkeypatch.setattr(Pictures, "sent", counted)
    monkeypatch.setattr(pictures, "load", counting)
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        asked(settings(write(tmp_path / "many.jsonl", 40), url))
    assert len(bodies) == 120
    assert set(loaded.values()) == {40}
    assert most <= 3 + 1  # as many as run, and the one whose last call just ended


# Faults.

FAULTS: dict[str, tuple[Response, str]] = {
    "429": (Response("{}", 429, {"Retry-After": "0.02"}), "status 429"),
    "500": (Response("oops", 500), "status 500"),
    "half an answer": (Response('{"choices": [', claimed=4000), "RemoteProtocolError"),
    "invalid JSON": (Response('{"choices": [{"mess'), "is no JSON"),
    "HTML": (
        Response("<html>", headers={"Content-Type": "text/html"}),
        "no JSON; it begins: <html>",
    ),
    "400": (Response('{"error": {"message": "too long"}}', 400), "status 400: .*too long"),
    "aborted": (says("", finish="abort", read=50, tokens=5), "ended with 'abort'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_counted_and_tried_again_where_that_may_help(name: str, data: Path) -> None:
    fault, reason = FAULTS[name]

    def respond(body: dict[str, Any], before: int) -> Response:
        return fault if number_of(body) == 2 and before < 4 else says(CHAIN)

    one_chain = ["ask.n=1", "ask.temperature=0.5", "teacher.prompt_price=1.0"]
    with serving(respond) as (url, bodies):
        done = asked(settings(data, url, *one_chain))
        (failed,) = [call for call in calls(data) if call.state == "failed"]
        tries = 1 if name == "400" else 4
        assert (failed.sample, failed.attempts, failed.text) == ("s2", tries, "")
        assert re.search(reason, failed.error or ""), failed.error
        assert (done.answered, done.left) == (3, 1)
        assert len(bodies) == 3 + tries
        while done.left:  # the next runs ask for that call alone, until its answer comes
            done = asked(settings(data, url, *one_chain))
    assert len(bodies) == 3 + 5
    (call,) = [call for call in calls(data) if call.sample == "s2"]
    assert (call.state, call.error, call.attempts) == ("answered", None, 5)
    billed = 1 + (4 * 50 if name == "aborted" else 0)
    assert (call.prompt_tokens, call.cost) == (billed, pytest.approx(billed / 1e6))


def test_a_reply_that_drips_is_late(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                if client.recv(1 << 20).startswith(b"GET"):
                    client.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                    client.close()
                    continue
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
                with suppress(OSError):
                    for _ in range(200):
                        client.sendall(b" ")
                        time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        short = ["teacher.timeout_s=0.4", "teacher.retries=0", "ask.n=1", "limit=1"]
        done = asked(settings(data, url, *short))
        listening.shutdown(socket.SHUT_RDWR)
    assert done.errors == {"no reply within 0.4 s": 1}


def test_retry_after_is_waited_for(data: Path, waits: list[float]) -> None:
    def respond(body: dict[str, Any], before: int) -> Response:
        return says(CHAIN) if before else Response("{}", 429, {"Retry-After": "0.3"})

    with serving(respond) as (url, _):
        done = asked(settings(data, url, "ask.n=1"))
    assert done.left == 0
    assert [0.3 <= wait <= 0.33 for wait in waits] == [True] * 4, waits


def test_pauses_grow_and_differ_and_heed_the_server() -> None:
    draw = random.Random(0)
    first, fourth, late = ([pause_s(k, None, draw=draw) for _ in range(50)] for k in (0, 3, 2000))
    assert len(set(first)) == 50
    base = patience._FIRST_PAUSE_S
    assert base / 2 <= min(first) and max(first) <= base
    assert 4 * base <= min(fourth) and max(fourth) <= 8 * base
    assert max(late) <= 60
    assert 7 <= pause_s(0, 7.0, draw=draw) <= 7.7
    assert pause_s(0, 86_400.0, draw=draw) <= 1.1 * LONGEST_WAIT_S


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (Response('{"error": {"message": "bad key"}}', 401), "bad key.*OPENAI_API_KEY is the key"),
        (Response("{}", 403), "may use m"),
        (Response('{"error": {"message": "no model m"}}', 404), "no model m.*serves m"),
        (Response('{"error": {"message": "no balance"}}', 402), "no balance.*see to the account"),
    ],
)
def test_what_no_retry_would_change_stops_at_once_and_loses_nothing(
    response: Response, message: str, data: Path
) -> None:
    slow = threading.Event()

    def respond(body: dict[str, Any], _: int) -> Response:
        if number_of(body) == 0:
            slow.wait(5)
            time.sleep(0.2)
            return says(CHAIN)
        slow.set()
        return response

    with serving(respond) as (url, bodies):
        with pytest.raises(EndpointError, match=message):
            asked(settings(data, url, "ask.n=1", "teacher.concurrency=2"))
        assert len(bodies) == 2
    assert [call.sample for call in calls(data)] == ["s0"], "what was running is stored"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (Response('{"error": {"message": "bad key"}}', 401), "bad key.*OPENAI_API_KEY is its key"),
        (Response('{"object": "list", "data": [{"id": "other"}]}'), "serves other, not m"),
        (Response("<html>", headers={"Content-Type": "text/html"}), "not as OpenAI's API does"),
    ],
)
def test_an_unusable_server_is_said_before_anything_is_asked(
    models: Response, message: str, data: Path
) -> None:
    with (
        serving(lambda body, _: says(CHAIN), models=models) as (url, bodies),
        pytest.raises(EndpointError, match=message),
    ):
        asked(settings(data, url))
    assert not bodies and not calls(data)


def test_a_missing_name_is_asked_for_with_those_that_there_are(data: Path) -> None:
    models = Response('{"object": "list", "data": [{"id": "other"}]}')
    with serving(lambda body, _: says(CHAIN), models=models) as (url, _):
        config = load(TeachConfig, None, [f"data={data}", f"teacher.url={url}", "store=x.db"])
        config = replace(config, store=str(data.parent / "chains.db"))
        with pytest.raises(EndpointError, match=f"teacher.model is missing; {url}: serves other$"):
            asked(config)


def test_a_wrong_address_is_soon_known(data: Path, waits: list[float]) -> None:
    with pytest.raises(EndpointError, match="see that the address is right"):
        asked(settings(data, "http://127.0.0.1:9/v1", "teacher.retries=8"))
    assert len(waits) <= 1  # a second try, and no more
    with pytest.raises(EndpointError, match="expected an address such as http://127"):
        asked(settings(data, "127.0.0.1:8000/v1"))


def test_a_server_that_is_gone_stops_the_run(data: Path, tmp_path: Path) -> None:
    config = settings(write(tmp_path / "many.jsonl", 60), None, "teacher.retries=0")
    with serving(lambda body, _: Response("oops", 500)) as (url, bodies):
        teacher = replace(config.teacher, url=url)
        with pytest.raises(EndpointError, match=f"last {GIVE_UP} calls got no answer.*500"):
            asked(replace(config, teacher=teacher))
    assert GIVE_UP <= len(bodies) <= GIVE_UP + 3


def test_a_missing_image_fails_its_own_calls_alone(data: Path, tmp_path: Path) -> None:
    lost = write(tmp_path / "many.jsonl", 2 * GIVE_UP)
    lines = [line.replace("one.png", "gone.png") for line in lost.read_text().splitlines()[:-1]]
    lost.write_text("\n".join([*lines, lost.read_text().splitlines()[-1]]))
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        done = asked(settings(lost, url, "ask.n=1"))
    assert (done.answered, done.left, len(bodies)) == (1, 2 * GIVE_UP - 1, 1)
    (reason,) = done.errors
    assert "gone.png: no such image" in reason


def test_a_question_cannot_inject_special_tokens(data: Path) -> None:
    data.write_text(data.read_text().replace("cup 1.", "cup 1.<|im_end|>"))
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        done = asked(settings(data, url, "ask.n=1"))
    assert done.left == 0
    (text,) = [text for text in map(server.question, bodies) if "cup 1." in text]
    assert "cup 1.< |im_end|>" in text and "<|" not in text


def test_a_prompt_without_the_truth_is_refused(data: Path) -> None:
    (data.parent / "mine.txt").write_text("Why $question?")
    with pytest.raises(ConfigError, match=r"mine\.txt: no \$boxes in it"):
        asked(settings(data, "http://127.0.0.1:9/v1", f"ask.prompt={data.parent / 'mine.txt'}"))


def test_other_samples_do_not_get_into_a_database(data: Path, tmp_path: Path) -> None:
    config = settings(data, None)
    open_store(config).close()
    open_store(replace(config, data=None)).close()
    with pytest.raises(RunError, match=r"chains\.db: holds other samples than .*many\.jsonl"):
        open_store(replace(config, data=str(write(tmp_path / "many.jsonl", 5))))
    with pytest.raises(ConfigError, match="no such database yet; say with data="):
        open_store(replace(config, data=None, store="absent.db"))
    with pytest.raises(ConfigError, match="endless"):
        open_store(replace(config, data="synth:diff"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ask.temperature=0", "temperature must be above 0"),
        ("ask.n=0", r"ask\.n: found 0, expected at least 1"),
        ("ask.factor=64 ask.max_pixels=100", "max_pixels must be at least the square of factor"),
        ("ask.max_cost=0", r"ask\.max_cost: found 0, expected above 0"),
        ("ask.max_cost=1", "max_cost needs teacher.prompt_price"),
        ("teacher.requests_per_minute=0", "expected above 0"),
        ("teacher.concurrency=0", r"concurrency: found 0, expected at least 1"),
        ("teacher.promt_price=1", "did you mean 'teacher.prompt_price'"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str, data: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(data, None, *override.split())


def test_a_full_disk_keeps_what_was_stored(data: Path) -> None:
    config = settings(data, None, "teacher.concurrency=1")
    with open_store(config) as store, serving(lambda body, _: says("x" * 3000)) as (url, bodies):
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        full = replace(config, teacher=replace(config.teacher, url=url))
        with pytest.raises(RunError, match=r"chains\.db: database or disk is full"):
            ask(store, full)
    stored = calls(data)
    assert stored and len(bodies) == len(stored) + 1
    with serving(lambda body, _: says("x" * 3000)) as (url, bodies):
        assert asked(settings(data, url)).left == 0
    assert len(bodies) == 12 - len(stored)


# Limits.


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 300)), min_size=1, max_size=60),
    st.integers(1, 2000),
)
def test_no_minute_holds_more_than_its_units_and_one_request(
    arrivals: list[tuple[float, int]], per_minute: int
) -> None:
    now = 1000.0
    pace = Pace(per_minute, clock=lambda: now)
    begins: list[tuple[float, int]] = []
    for passed, units in arrivals:
        now += passed
        begins.append((now + pace.reserve(units), units))
    assert begins == sorted(begins, key=lambda each: each[0])
    for begin, own in begins:
        within = sum(units for at, units in begins if begin <= at < begin + 60 - 1e-6)
        last = max(units for at, units in begins if begin <= at < begin + 60)
        assert within <= per_minute + max(own, last) + 1e-6


def test_a_pace_is_even_and_unused_time_is_not_saved_up() -> None:
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    assert [pace.reserve(1) for _ in range(3)] == [0, 1, 2]
    now = 100.0
    assert [pace.reserve(1) for _ in range(3)] == [0, 1, 2]
    assert Pace(None).reserve(1e9) == 0


def test_reserved_tokens_are_corrected_by_those_used() -> None:
    now = 0.0
    pace = Pace(600, clock=lambda: now)
    assert pace.reserve(100) == 0
    pace.correct(-90)
    assert pace.reserve(100) == pytest.approx(1.0)
    pace.correct(50)
    assert pace.reserve(1) == pytest.approx(16.0)


def test_requests_keep_their_pace(
    data: Path, waits: list[float], reserved: list[tuple[float, float]]
) -> None:
    with serving(lambda *_: says(CHAIN)) as (url, _):
        asked(settings(data, url, "teacher.requests_per_minute=1200"))
    assert [units for units, _ in reserved] == [1] * 12
    assert waits == [wait for _, wait in reserved if wait]


def test_tokens_keep_their_pace(
    data: Path, waits: list[float], reserved: list[tuple[float, float]]
) -> None:
    with serving(lambda *_: says(CHAIN, read=100, tokens=100)) as (url, _):
        limit = ["teacher.tokens_per_minute=120000", "ask.max_tokens=100", "teacher.concurrency=1"]
        asked(settings(data, url, *limit))
    assert len(reserved) == 12 and all(units > 100 for units, _ in reserved)
    assert waits == [wait for _, wait in reserved if wait]


def test_never_more_than_concurrency_requests_run(data: Path) -> None:
    running: Counter[str] = Counter()
    lock, three = threading.Lock(), threading.Barrier(3, timeout=60)

    def respond(body: dict[str, Any], _: int) -> Response:
        with lock:
            running["now"] += 1
            running["most"] = max(running["most"], running["now"])
        three.wait()  # each waits for two others, of twelve
        time.sleep(0.03)
        with lock:
            running["now"] -= 1
        return says(CHAIN)

    with serving(respond) as (url, _):
        asked(settings(data, url))
    assert running["most"] == 3


def test_a_budget_of_calls_is_never_exceeded_and_can_be_raised(data: Path) -> None:
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        done = asked(settings(data, url, "ask.max_calls=5"))
        assert (done.answered, done.left, done.stopped) == (5, 7, SPENT)
        again = asked(settings(data, url, "ask.max_calls=5"))
        assert (again.answered, len(bodies)) == (0, 5)
        assert asked(settings(data, url, "ask.max_calls=12")).left == 0
    assert len(bodies) == 12


def test_a_budget_of_money_is_used_up_and_never_exceeded(data: Path) -> None:
    dear = ["teacher.completion_price=10000.0", "ask.max_tokens=100"]  # 0.01 a token, at most 1.00
    with serving(lambda body, _: says(CHAIN, tokens=50)) as (url, _):
        done = asked(settings(data, url, *dear, "ask.max_cost=2.6"))
        # Each costs 0.50 but may cost 1.00: a fourth call leaves 0.60, too little for a fifth.
        assert (done.answered, done.stopped) == (4, SPENT)
        done = asked(settings(data, url, *dear, "ask.max_cost=3.0"))
        assert (done.answered, done.left) == (1, 7)
    assert sum(call.cost for call in calls(data)) == pytest.approx(2.5)


def test_where_no_usage_is_sent_it_is_estimated(data: Path) -> None:
    silent = json.loads(says(CHAIN).body)
    del silent["usage"]
    with serving(lambda body, _: Response(json.dumps(silent))) as (url, _):
        asked(settings(data, url, "teacher.completion_price=1.0"))
    for call in calls(data):
        assert call.prompt_tokens > 100 and 10 < call.completion_tokens < 100 and call.cost > 0


def test_calls_that_fail_do_not_use_up_the_budget(data: Path) -> None:
    def respond(body: dict[str, Any], _: int) -> Response:
        return Response("{}", 400) if number_of(body) == 0 else says(CHAIN)

    with serving(respond) as (url, _):
        done = asked(settings(data, url, "ask.max_calls=9"))
    assert (done.answered, sum(done.errors.values()), done.left) == (9, 3, 3)


# Stops.


def test_ctrl_c_waits_for_what_is_running(data: Path) -> None:
    pressed = threading.Lock()

    def respond(body: dict[str, Any], _: int) -> Response:
        if number_of(body) == 1 and pressed.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        return says(CHAIN)

    with serving(respond) as (url, bodies):
        done = asked(settings(data, url))
    assert done.stopped == "interrupted"
    assert 3 <= len(bodies) == done.answered == len(calls(data)) < 12


def test_only_one_process_asks_a_database(data: Path) -> None:
    config = settings(data, "http://127.0.0.1:9/v1")
    busy = pytest.raises(RunError, match="another process is asking")
    with open_store(config) as store, store.exclusively(), busy:
        asked(config)


def reground(data: Path, url: str, **env: str) -> subprocess.Popen[str]:
    fixed = [f"data={data}", f"store={data.parent / 'chains.db'}", "teacher.model=m"]
    fixed += [f"teacher.url={url}", "teacher.concurrency=4", "teacher.retries=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "reground", "teach", "ask", *fixed],
        env=os.environ | env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


@pytest.mark.slow
def test_a_kill_loses_no_answer_and_nothing_is_asked_twice(data: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "many.jsonl", 40)

    def respond(body: dict[str, Any], _: int) -> Response:
        time.sleep(0.02)
        return says(CHAIN)

    done: set[int] = set()  # the seeds of stored calls, by which the server knows them
    with serving(respond) as (url, bodies):
        for kill in (20, 70, None):
            before = len(bodies)
            process = reground(rows, url)
            if kill is not None:
                wait_until(lambda kill=kill: len(bodies) >= kill)  # type: ignore[misc]
                process.kill()
            process.communicate(timeout=120)
            assert not done & {body["seed"] for body in bodies[before:]}
            now = {seed_of(call) for call in calls(rows)}
            assert done <= now and len(bodies[before:]) - len(now - done) <= 4  # what was running
            done = now
        assert (process.returncode, len(done)) == (0, 120)
        before = len(bodies)
        assert reground(rows, url).wait(60) == 0
        assert len(bodies) == before


def seed_of(call: TeacherCall) -> int:
    return zlib.crc32(f"0/{call.sample}/{call.number}".encode()) >> 1


@pytest.mark.slow
def test_the_key_appears_nowhere(data: Path) -> None:
    seen: list[dict[str, str]] = []

    def respond(body: dict[str, Any], _: int) -> Response:
        if number_of(body) == 1:
            return Response(json.dumps({"error": {"message": f"the key {KEY} is odd"}}), 400)
        return says(CHAIN) if number_of(body) else Response(f"<html>{KEY}</html>")

    with serving(respond, headers=seen) as (url, _):
        output, errors = reground(data, url, OPENAI_API_KEY=KEY).communicate(timeout=120)
    assert f"Bearer {KEY}" in seen[0].values()
    assert "status 400: " in output and "(the key) is odd" in output
    refusal = Response(json.dumps({"error": {"message": f"{KEY} is no key"}}), 401)
    for refused in ({"models": refusal}, {"respond": lambda body, _: refusal}):
        with serving(**{"respond": lambda body, _: says(CHAIN)} | refused) as (url, _):  # type: ignore[arg-type]
            more = reground(data, url, OPENAI_API_KEY=KEY).communicate(timeout=120)
        assert "error: " in more[1] and "(the key) is no key" in more[1]
        output, errors = output + more[0], errors + more[1]
    assert KEY not in output + errors
    assert {path.name for path in data.parent.glob("chains.db*")} >= {"chains.db"}
    assert all(KEY.encode() not in path.read_bytes() for path in data.parent.rglob("chains.db*"))


@pytest.mark.slow
def test_the_command_says_what_it_did(data: Path) -> None:
    with serving(lambda body, _: says(CHAIN)) as (url, _):
        output, errors = reground(data, url).communicate(timeout=120)
    assert (output, errors) == (
        f"{data.parent / 'chains.db'}: 12 of 12 chains, 12 of them now\n",
        "",
    )
