"""Whatever a server sends: one sample has a named error or an answer, and all others go on."""

from __future__ import annotations

import copy
import json
import math
import threading
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
from driver import reground
from made import prompter_of
from odd_replies import ESC, RESPONSES, TOO_LARGE, VALUES, fine, odd_replies
from reground import patience
from reground.config import load
from reground.data.source import save_dataset
from reground.errors import ConfigError, EndpointError, EngineError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.local import LocalModel
from reground.evaluation.predicting.predict import predict_folder
from reground.evaluation.predicting.question import Question
from reground.evaluation.records import Prediction, read_predictions
from reground.evaluation.scoring.score import score_prediction
from reground.grounding.answers import score
from reground.grounding.boxes import Box
from reground.grounding.names import ProtocolName
from reground.grounding.sample import ImageRef, Sample, Target
from reground.model.prompting import Prompter
from reground.patience import LONGEST_WAIT_S, retry_after_s
from reground.rollout import http
from reground.rollout.completions import num_read, read_reply, read_served
from reground.rollout.endpoint import Endpoint, without_marks
from reground.rollout.engine.server import _Http
from reground.rollout.environment import PlannedEnvironment
from reground.rollout.http import Address, NoReply
from reground.rollout.policy import Sampling
from reground.rollout.tools.http import HttpDetector, _detections
from reground.rollout.tools.results import Filled, fill
from reground.rollout.tools.runner import ToolRunner
from reground.rollout.tools.tool import ToolError
from reground.teacher.ask import ask, open_store
from reground.teacher.judge import judge
from reground.teacher.settings import TeachConfig
from reground.teacher.store import Store
from reground.teacher.verify import verify
from reground.tinyworld import models as tiny
from reground.training.settings import TrainConfig
from scripted import ScriptedPolicy
from server import Response, says, serving

HIT = "(100,100),(500,500)"
CHAIN = f"<think>The cup stands at the left of it.</think><answer>{HIT}</answer>"
OTHER_CHAIN = f"<think>It is what is at the upper left.</think><answer>{HIT}</answer>"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


# ---- odd replies ---------------------------------------------------------------------------------

CHOICE = {
    "finish_reason": "stop",
    "stop_reason": None,
    "message": {"content": HIT, "reasoning": "Left.", "refusal": None},
}
COMPLETION = {"choices": [CHOICE], "usage": {"completion_tokens": 7, "prompt_tokens": 1}}
FINE = fine(json.loads(says(HIT).body)) | {
    "parts": says("", message={"content": [{"type": "text", "text": HIT}]})
}
BROKEN = RESPONSES | TOO_LARGE | {"broken off": says(HIT, finish="abort")}
ODD = odd_replies(COMPLETION) | BROKEN | FINE


@pytest.fixture
def photo(tmp_path: Path) -> ImageRef:
    Image.new("RGB", (100, 80), "navy").save(tmp_path / "photo.png")
    return ImageRef(str(tmp_path / "photo.png"), 100, 80)


def rows(photo: ImageRef, names: list[str]) -> list[Sample]:
    target = Target(0, Box(10, 8, 50, 40, photo.frame))
    return [Sample(name, (photo,), f"cup {n}.", (target,), "t") for n, name in enumerate(names)]


def interleaved(odd: dict[str, Response]) -> list[str]:
    """Names of odd replies, three followed by that of a good one."""
    names = [*odd]
    chunks = [names[first : first + 3] for first in range(0, len(names), 3)]
    return [name for each in chunks for name in (*each, f"good after {each[-1]}")]


def number_of(body: dict[str, Any]) -> int:
    return int(server.question(body).partition("cup ")[2].partition(".")[0])


def answering(names: list[str], good: str) -> Callable[[dict[str, Any], int], Response]:
    return lambda body, _: ODD.get(names[number_of(body)]) or says(good)


def asking(url: str, data: Path, **changes: Any) -> Question:
    fast = {"concurrency": 4, "timeout_s": 20.0, "retries": 0} | changes.pop("endpoint", {})
    fields = {"family": "univg_r1", "protocol": "direct", "prompt": "tiny"} | changes
    return Question(
        model="m", data=str(data), endpoint=Endpoint(url=url, model="m", **fast), **fields
    )


def predictions(out: Path) -> dict[str, Prediction]:
    return {row.sample.id: row for row in read_predictions(out)}


def test_odd_replies_are_errors_or_answers_of_their_samples_alone(
    photo: ImageRef, tmp_path: Path
) -> None:
    names = interleaved(ODD)
    save_dataset(tmp_path / "data.jsonl", rows(photo, names))
    with serving(answering(names, HIT)) as (url, _):
        predict_folder(tmp_path / "out", asking(url, tmp_path / "data.jsonl"))
    found = predictions(tmp_path / "out")
    for name, row in found.items():
        if name.startswith("good") or name in FINE:
            assert row.text == HIT, name
        elif name in BROKEN:
            assert row.error, name
        assert row.error is None or (row.error.isprintable() and len(row.error) < 400), name
    assert "status 418: \\x1b[31mred\\x07" in (found["teapot"].error or "")
    assert "larger than 4 MB" in (found["a bomb"].error or "")
    assert "larger than 4 MB" in (found["endless"].error or "")
    assert "redirects to http://127.0.0.1:9/" in (found["elsewhere"].error or "")
    for field in ("choices", "choices.0", "choices.0.message"):
        assert all(found[f"{field} is {kind}"].error for kind in VALUES)
    for kind in ("a number", "a truth", "an object", "a list of numbers", "NaN"):
        assert found[f"choices.0.message.content is {kind}"].error
    assert found["choices.0.message.content is null"].error is None
    assert found["choices.0.message.content is half a character"].text.endswith("? a")
    for kind in VALUES:  # what they count or why they ended is no reason to lose an answer
        assert found[f"usage.completion_tokens is {kind}"].text.endswith(HIT)
        assert found[f"choices.0.finish_reason is {kind}"].text.endswith(HIT)
    failed = {name for name, row in found.items() if row.error}
    with serving(lambda body, _: says(HIT)) as (url, bodies):
        report = evaluate(tmp_path / "out", asking(url, tmp_path / "data.jsonl"))
    assert {names[number_of(body)] for body in bodies} == failed
    assert (len(bodies), report["n"], report["errors"]) == (len(failed), len(names), 0)


def teaching(tmp_path: Path, *overrides: str) -> TeachConfig:
    fixed = [f"data={tmp_path / 'data.jsonl'}", f"store={tmp_path / 'chains.db'}", "ask.n=1"]
    for teacher in ("teacher", "judge.teacher"):
        fixed += [f"{teacher}.{setting}" for setting in ("model=m", "retries=0", "timeout_s=20.0")]
    return load(TeachConfig, None, [*fixed, *overrides])


def test_odd_replies_to_a_teacher_are_kept_or_asked_again(photo: ImageRef, tmp_path: Path) -> None:
    names = interleaved(ODD)
    save_dataset(tmp_path / "data.jsonl", rows(photo, names))
    with serving(answering(names, CHAIN)) as (url, _):
        config = teaching(tmp_path, f"teacher.url={url}")
        with open_store(config) as store:
            done = ask(store, config)
            calls = {call.sample: call for call in store.calls(stage="ask")}
    assert done.answered + sum(done.errors.values()) == len(names) == len(calls)
    assert all(call.text == CHAIN for name, call in calls.items() if name.startswith("good"))
    assert all((call.error or "").isprintable() for call in calls.values())
    assert calls["broken off"].error and calls["choices.0.message is null"].prompt_tokens == 1
    with serving(lambda body, _: says(CHAIN)) as (url, bodies):
        config = teaching(tmp_path, f"teacher.url={url}")
        with open_store(config) as store:
            assert ask(store, config).left == 0
            verify(store, config.verify)
    assert len(bodies) == sum(call.state == "failed" for call in calls.values())


def test_odd_replies_of_a_judge_are_no_votes_or_asked_again(
    photo: ImageRef, tmp_path: Path
) -> None:
    names = interleaved(ODD)
    save_dataset(tmp_path / "data.jsonl", rows(photo, names))
    chains = iter([CHAIN, OTHER_CHAIN] * len(names))
    lock = threading.Lock()

    def both(body: dict[str, Any], _: int) -> Response:
        with lock:
            return says(next(chains))

    how = ["ask.n=2", "judge.rotations=1", "verify.min_iou=0"]
    with serving(both) as (url, _), open_store(teaching(tmp_path, *how)) as store:
        ask(store, teaching(tmp_path, f"teacher.url={url}", *how))
        verify(store, teaching(tmp_path, *how).verify)
        assert all(len(entry.verified) == 2 for entry in store.entries())
    with serving(answering(names, "A")) as (url, _), Store.open(tmp_path / "chains.db") as store:
        done = judge(store, teaching(tmp_path, f"judge.teacher.url={url}", *how))
        votes = {call.sample: call for call in store.calls(stage="judge")}
    failed = sum(done.outcome.errors.values())
    assert done.picked + failed == len(names) == len(votes) and failed > 100
    assert all(vote.text == "A" for name, vote in votes.items() if name.startswith("good"))
    assert all((vote.error or "").isprintable() for vote in votes.values())
    assert all(votes[name].error for name in BROKEN)
    with (
        serving(lambda *_: says("B")) as (url, bodies),
        Store.open(tmp_path / "chains.db") as store,
    ):
        done = judge(store, teaching(tmp_path, f"judge.teacher.url={url}", *how))
    assert (done.picked, done.waiting, len(bodies)) == (failed, 0, failed)


DETECTED = {"boxes": [{"box": [1, 2, 30, 40], "label": "cup", "score": 0.5}]}


def test_odd_replies_of_a_detector_are_problems_of_their_questions_alone(
    photo: ImageRef, tmp_path: Path
) -> None:
    odd, good = odd_replies(DETECTED), Response(json.dumps(DETECTED))
    names, is_mended = interleaved(odd), threading.Event()
    samples = [replace(own, question=own.id) for own in rows(photo, names)]

    def respond(body: dict[str, Any], _: int) -> Response:
        return good if is_mended.is_set() else odd.get(body["expression"], good)

    with serving(respond, question=lambda body: body["expression"]) as (url, bodies):
        tool = HttpDetector(url=url, retries=0, timeout_s=20.0)
        runner = ToolRunner(tool, timeout_s=120, batch_size=64)

        def filled() -> dict[str, Filled]:
            found = fill(samples, runner, path=tmp_path / "results.jsonl")
            return {each.sample.id: each for each in found}

        first, num_asked = filled(), len(bodies)
        is_mended.set()
        second = filled()
    failed = {name for name, each in first.items() if each.problem is not None}
    assert {*RESPONSES, *TOO_LARGE} <= failed < {*odd} - {*fine(DETECTED)}
    assert all((each.problem or "").isprintable() for each in first.values())
    for kind in ("missing", "there twice", *({*VALUES} - {"a list", "a list of numbers"})):
        assert f"boxes is {kind}" in failed
    assert sorted(body["expression"] for body in bodies[num_asked:]) == sorted(failed)
    for name in failed | {*names} - {*odd} | {*fine(DETECTED)}:
        assert len(second[name].sample.tool_results or ()) == 1, name


# ---- time ----------------------------------------------------------------------------------------


def test_replies_that_drip_end_and_others_are_answered(photo: ImageRef, tmp_path: Path) -> None:
    names = ["a", "drips", "b", "drips its head"]
    save_dataset(tmp_path / "data.jsonl", rows(photo, names))
    drips = {
        "drips": Response("{", endless=b" ", pause_s=0.02),
        "drips its head": Response("HTTP/1.1 200 OK\r\n", 0, endless=b"A", pause_s=0.02),
    }

    def respond(body: dict[str, Any], _: int) -> Response:
        return drips.get(names[number_of(body)]) or says(HIT)

    with serving(respond) as (url, _):
        endpoint = {"timeout_s": 0.5, "retries": 1}
        asked = asking(url, tmp_path / "data.jsonl", endpoint=endpoint)
        predict_folder(tmp_path / "out", asked)
        with open_store(teaching(tmp_path)) as store:
            ask(store, teaching(tmp_path, f"teacher.url={url}", "teacher.timeout_s=0.5"))
            calls = {call.sample: call.error for call in store.calls(stage="ask")}
        engine = _Http(url, 0.5)
        with pytest.raises(EngineError, match=r"no reply within 0\.5 s"):
            engine.ask("POST", "/start", messages=[{"content": [{"text": "cup 1."}]}])
    found = predictions(tmp_path / "out")
    assert [row.error for row in found.values()] == [None, "no reply within 0.5 s"] * 2
    assert [calls[name] for name in names] == [None, "no reply within 0.5 s"] * 2


@pytest.mark.parametrize(
    "header", ["999999999", "1e999", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "-5", "nan", ""]
)
def test_a_wait_is_bounded_and_the_request_tried_again(
    header: str, photo: ImageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a"]))
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(http.asyncio, "sleep", sleep)

    def respond(_: dict[str, Any], before: int) -> Response:
        return says(HIT) if before else Response("", 429, {"Retry-After": header})

    with serving(respond) as (url, bodies):
        asked = asking(url, tmp_path / "data.jsonl", endpoint={"retries": 1, "timeout_s": 60.0})
        assert predict_folder(tmp_path / "out", asked) == 1
    assert len(bodies) == 2 and len(waits) == 1 and 0 <= waits[0] <= 60


@given(st.text() | st.floats().map(str) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ \w+"))
def test_any_retry_after_is_a_time_or_nothing(header: str) -> None:
    found = retry_after_s(header)
    assert found is None or (not math.isnan(found) and found >= 0)
    assert patience.pause_s(0, found) <= 1.1 * LONGEST_WAIT_S


# ---- reading by type -----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [*["choices", "message", "content", "reasoning", "refusal", "usage", "data", "id"]]
            )
            | st.sampled_from(["finish_reason", "completion_tokens", "text", "thinking", "boxes"])
            | st.sampled_from(["box", "label", "score", "stop_reason"]),
            inner,
        )
    ),
)


@given(JSON, st.booleans())
def test_any_json_is_read_or_no_reply(value: Any, thinks: bool) -> None:
    message = {"choices": [{"message": value, "finish_reason": "stop"}], "usage": value}
    for each in (value, message, {"choices": value}, {"choices": [value]}):
        assert num_read(each) >= 0
        try:
            reply = read_reply(each, stop="x", thinks=thinks)
            reply.text.encode()
            assert reply.num_tokens is None or reply.num_tokens >= 0
        except NoReply as error:
            assert str(error).isprintable()
    for each in (value, {"data": value}, {"data": [value]}):
        with suppress(NoReply):
            read_served(each)
    sample = rows(ImageRef("a.png", 100, 80), ["s"])[0]
    for each in (value, {"boxes": value}, {"boxes": [{"box": value}]}):
        with suppress(ToolError):
            _detections(each, sample)


# ---- an answer is an answer ----------------------------------------------------------------------

WRITTEN = {  # in process: what the model wrote
    "right": CHAIN,
    "wrong": CHAIN.replace("(100,100)", "(400,400)"),
    "no thought": f"<think></think><answer>{HIT}</answer>",
    "no form": f"<think>Left.</think>It is {HIT}.",
    "bare": HIT,
    "it thinks twice": f"<think>Left.</think><think>Or right.</think><answer>{HIT}</answer>",
    "its thought holds boxes": f"<think>Not (1,1),(9,9).</think><answer>{HIT}</answer>",
    "it thinks for too long, of boxes": "<think>Not (1,1),(9,9). " + "left of right of " * 100,
    "it thinks for too long": "<think>" + "left of right of " * 100,
    "cut off in the answer": f"<think>Left.</think><answer>{HIT}," + "(5,5)," * 90,
    "it refuses": "I am sorry, I cannot help with that.",
    "it refuses after thought": "<think>A face.</think>I cannot help with that.",
    "nothing": "",
    "nothing after thought": "<think>Left.</think>",
}
LIMIT = 100


def apart(name: str, text: str, style: str) -> Response:
    """The reply of a server that takes thoughts out, and has a field for refusals."""
    thoughts, closing, rest = text.removeprefix("<think>").partition("</think>")
    content: str | None = rest if closing else text
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if text.startswith("<think>"):
        message = {"content": rest or None, style: thoughts}
    if "refuses" in name:
        message |= {"content": None, "refusal": content if closing == "" else rest}
    if style == "parts" and message.pop("parts", None) is not None:
        parts: list[Any] = [{"type": "thinking", "thinking": [{"type": "text", "text": thoughts}]}]
        message["content"] = [*parts, *([{"type": "text", "text": rest}] if rest else [])]
    finish = "content_filter" if name == "it refuses" else "stop"
    return says("", message=message, finish=finish)


def in_process(prompter: Prompter, sample: Sample, text: str) -> Prediction:
    """The prediction of a model that writes this text."""
    policy = ScriptedPolicy(prompter.checkpoint.chat, lambda *_: text)
    sampling, made = Sampling(max_tokens=LIMIT), list[Prediction]()
    LocalModel(prompter, policy, PlannedEnvironment(prompter), None, sampling).answer(
        [sample], add=made.append
    )
    return made[0]


@pytest.mark.parametrize("protocol", ["think", "direct"])
def test_a_thought_that_the_chat_template_opens_is_read_as_one(
    protocol: ProtocolName, photo: ImageRef, tokenizer: Any
) -> None:
    begins = copy.deepcopy(tokenizer)
    begins.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    plain, opened = (
        prompter_of(tiny.make(tokenizer=each), "univg_r1", protocol, prompt="tiny")
        for each in (tokenizer, begins)
    )
    for sample in rows(photo, [name for name, text in WRITTEN.items() if "<think>" in text]):
        text, own = WRITTEN[sample.id], plain.protocol(sample)
        one = score_prediction(in_process(plain, sample, text), own)
        for written in (text.removeprefix("<think>"), text):  # it may write the tag once more
            other = score_prediction(in_process(opened, sample, written), own)
            assert (one.status, one.iou, one.well_formed, one.finish) == (
                other.status,
                other.iou,
                other.well_formed,
                other.finish,
            ), sample.id
    sample = replace(sample, think="Left of it.")
    prompt, (gold,) = opened.prompt(sample), opened.gold(sample, opened.prompt(sample))
    ids = opened.checkpoint.chat.encode_answer(gold.text)
    assert opened.checkpoint.chat.decode([*prompt.ids, *ids]).count("<think>") == 1
    answer = opened.read(ids, prompt, sample=sample)
    assert answer.well_formed and answer.think == ("Left of it." if protocol == "think" else "")
    assert score(answer, sample) > 0.99


@pytest.mark.parametrize("style", ["reasoning", "reasoning_content", "parts"])
@pytest.mark.parametrize("protocol", ["think", "direct"])
def test_the_same_answers_score_the_same_behind_a_server_that_takes_thoughts_out(
    protocol: ProtocolName, style: str, photo: ImageRef, tmp_path: Path, tokenizer: Any
) -> None:
    checkpoint = tiny.make("qwen3_vl", tokenizer=tokenizer)
    prompter = prompter_of(checkpoint, "univg_r1", protocol, prompt="tiny")
    chat, samples = checkpoint.chat, rows(photo, [*WRITTEN])
    save_dataset(tmp_path / "data.jsonl", samples)
    local = {each.id: in_process(prompter, each, WRITTEN[each.id]) for each in samples}

    def respond(body: dict[str, Any], _: int) -> Response:
        name = [*WRITTEN][number_of(body)]
        ids = [*chat.encode_answer(WRITTEN[name]), chat.end_id][:LIMIT]
        is_cut = len(ids) == LIMIT
        found = apart(name, chat.decode(ids).removesuffix("<|im_end|>"), style)
        reply = json.loads(found.body)
        reply["usage"]["completion_tokens"] = len(ids)
        if is_cut:
            reply["choices"][0]["finish_reason"] = "length"
        return Response(json.dumps(reply))

    with serving(respond) as (url, bodies):
        asked = asking(
            url, tmp_path / "data.jsonl", protocol=protocol, max_tokens=LIMIT, processor=None
        )
        report = evaluate(tmp_path / "out", asked)
        evaluate(tmp_path / "out", asked)
    assert len(bodies) == len(WRITTEN) == report["n"], "nothing is left out, or asked again"
    remote = predictions(tmp_path / "out")
    for name, row in local.items():
        protocol_of_it = prompter.protocols.of_sample(row.sample)
        one, other = (score_prediction(each, protocol_of_it) for each in (row, remote[name]))
        assert (one.status, one.iou, one.well_formed, one.num_tokens, one.finish) == (
            other.status,
            other.iou,
            other.well_formed,
            other.num_tokens,
            other.finish,
        ), name
    assert {row.finish for row in local.values()} == {"stop", "length"}


def test_a_filter_before_the_model_is_a_refusal(photo: ImageRef, tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a"]))
    refused = Response('{"error": {"message": "no", "code": "content_filter"}}', 400)
    with serving(lambda *_: refused) as (url, _):
        report = evaluate(tmp_path / "out", asking(url, tmp_path / "data.jsonl"))
    assert (report["n"], report["errors"], report["acc@0.5"]) == (1, 0, 0.0)


# ---- addresses, keys, marks ----------------------------------------------------------------------


@pytest.mark.parametrize("has_list", [True, False])
@pytest.mark.parametrize("path", ["", "/", "/v1/chat/completions", "/v1/models/", "/v2"])
def test_an_address_beside_the_api_is_named_with_the_right_one(
    path: str, has_list: bool, photo: ImageRef, tmp_path: Path
) -> None:
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a", "b"]))
    with serving(lambda *_: says(HIT), models=models("m") if has_list else None, only="/v1") as (
        url,
        bodies,
    ):
        wrong = url.removesuffix("/v1") + path
        right = None if path == "/v2" else f"give {url}, where it is"
        config = teaching(tmp_path, f"teacher.url={wrong}", "ask.n=2")
        if right is None:
            assert predict_folder(tmp_path / "out", asking(wrong, tmp_path / "data.jsonl")) == 0
            return
        with pytest.raises(EndpointError, match=right):
            predict_folder(tmp_path / "out", asking(wrong, tmp_path / "data.jsonl"))
        with open_store(config) as store, pytest.raises(EndpointError, match=right):
            ask(store, config)
        assert not (has_list and bodies), "it is known before anything is asked"
        predict_folder(tmp_path / "out", asking(url, tmp_path / "data.jsonl"))


def models(name: str) -> Response:
    return Response(json.dumps({"data": [{"id": name, "owned_by": "vllm"}]}))


@pytest.mark.parametrize(
    "url",
    [
        *("http://h:99999/v1", "http://h:0/v1", "http://h:-1/", "http://[::1/v1", "http:///v1"),
        *(
            "h:8000/v1",
            "ftp://h/v1",
            "http://a\nb/v1",
            "http://...:80/",
            "http://me:k3y@h:x/v1",
            "",
        ),
    ],
)
def test_a_malformed_address_is_one_sentence(url: str, tmp_path: Path) -> None:
    for make in (
        lambda: Endpoint(url=url, model="m"),
        lambda: HttpDetector(url=url),
        lambda: _Http(url, 1.0),
    ):
        with pytest.raises((EndpointError, ConfigError, EngineError), match="no address of a") as e:
            make()
        assert "k3y" not in str(e.value) and str(e.value).isprintable()


def test_a_redirect_takes_nothing_to_another_server(photo: ImageRef, tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a"]))
    with serving(lambda *_: says(HIT)) as (other, stolen):
        for status in (301, 302, 303, 307, 308):
            away = Response("", status, {"Location": f"{other}/chat/completions?key=5ecret"})
            with serving(lambda *_, away=away: away) as (url, _):
                asked = asking(url, tmp_path / "data.jsonl")
                predict_folder(tmp_path / str(status), asked)
            (row,) = read_predictions(tmp_path / str(status))
            assert f"redirects to {other}" in str(row.error) and "5ecret" not in str(row.error)
    assert not stolen


def test_a_redirect_within_the_server_is_followed(photo: ImageRef, tmp_path: Path) -> None:
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a"]))
    moved = Response("", 307, {"Location": "/v1/chat/completions/"})
    with serving(lambda _, before: says(HIT) if before else moved) as (url, bodies):
        assert predict_folder(tmp_path / "out", asking(url, tmp_path / "data.jsonl")) == 1
    assert bodies[0] == bodies[1]


KEYS = ("pa55-word", "qu3ry-key", "3nv-key-0f-openai", "t00l-query", "bWU6cGE1NS13b3Jk")


@pytest.mark.slow
def test_keys_are_sent_and_appear_nowhere(
    photo: ImageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEYS[2])
    save_dataset(tmp_path / "data.jsonl", rows(photo, ["a", "b", "c"]))
    echo, tool_echo = (
        Response(json.dumps({"error": {"message": f"{' '.join(keys)} {ESC}"}}), 400)
        for keys in (KEYS[:3] + KEYS[4:], KEYS[3:4])
    )
    seen: list[dict[str, str]] = []

    def respond(body: dict[str, Any], _: int) -> Response:
        if "expression" in body:
            return tool_echo if "cup 2" in body["expression"] else Response(json.dumps(DETECTED))
        return echo if number_of(body) == 1 else says(HIT)

    with serving(respond, headers=seen, question=str) as (url, _):
        host = url.removeprefix("http://")
        words = ["--family", "univg_r1", "--protocol", "direct", "--prompt", "tiny"]
        done = reground(
            *(
                "eval",
                "--endpoint",
                f"http://me:{KEYS[0]}@{host}?api-key={KEYS[1]}",
                "--model",
                "m",
            ),
            *(*words, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "out"),
            *("--tool", f"http://{host}/detect?key={KEYS[3]}"),
        )
        wrong = reground(
            *(
                "eval",
                "--endpoint",
                f"http://me:{KEYS[0]}@127.0.0.1:9/v1?{KEYS[1]}",
                "--model",
                "m",
            ),
            *(*words, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "none"),
            code=2,
        )
    assert any(headers.get("Authorization") == f"Basic {KEYS[4]}" for headers in seen)
    written = [path.read_text() for path in (tmp_path / "out").iterdir()]
    everything = [done.stdout, done.stderr, wrong.stdout, wrong.stderr, *written]
    assert not [key for key in KEYS for text in everything if key in text]
    assert not [text for text in everything if "\x1b" in text or "\x07" in text]
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["endpoint"] == f"http://(the key)@{host}?(the key)"
    assert run["tool"] == f"http://{host}/detect?(the key)"


@pytest.mark.parametrize(
    "setting",
    ["tools.specs=['http://h/x?key=5ecret']", "engine.server.url='http://a:5ecret@h:8000'"],
)
def test_a_run_that_would_write_a_key_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="holds what may be a key") as caught:
        load(TrainConfig, None, ["method=rl", "model=tiny", setting])
    assert "5ecret" not in str(caught.value)


MARKS = [
    *("<|im_end|>", "<|x_y|>", "<|turn>", "<turn|>", "<|/ref|>", "<|reserved_token_0|>"),
    *("<image>", "<img>", "</img>", "<IMG_CONTEXT>", "<s>", "</s>", "<start_of_turn>", "<pad>"),
    *(
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<loc0001>",
        "<unused12>",
        "<global-img>",
        "<0x0A>",
    ),
    *("[INST]", "[/INST]", "[gMASK]", "[IMG_END]", "[TOOL_CALLS]", "<think>", "</tool_call>"),
]


@pytest.mark.parametrize("mark", MARKS)
def test_no_mark_is_left_in_a_question(mark: str) -> None:
    text = without_marks(f"cup{mark}{mark} left")
    assert mark not in text and text.replace(" ", "") == f"cup{mark}{mark}left"


@pytest.mark.parametrize(
    "text",
    ["a < b > c", "width<5, height>6", "[1, 2, 3, 4]", "the [left] cup", "x <- y", "<3 a [A] |b|"],
)
def test_ordinary_signs_are_left_alone(text: str) -> None:
    assert without_marks(text) == text


@given(st.text(st.sampled_from("<>|[]/a1_ AIN\uff5c.-")))
def test_marks_are_broken_once_and_for_all(text: str) -> None:
    once = without_marks(text)
    assert without_marks(once) == once


@given(st.text())
def test_any_address_is_one_or_an_error(text: str) -> None:
    for start in ("", "http://", "http://me:k3y@"):
        try:
            address = Address.of(start + text, whose="a server", example="x")
        except ConfigError:
            continue
        assert str(address).isprintable() and address.at("/models").url.scheme
