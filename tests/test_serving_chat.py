"""OpenAI's chat completions by OpenAI's own client, and answers that come as they grow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from asking import Slow, served, until
from reground.api import Grounder
from reground.data.images import data_url
from reground.errors import RunError
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import read_scores
from reground.rollout.endpoint import Endpoint
from reground.serving.guard import Rules
from reground.serving.request_log import RequestLog
from reground.serving.service import Limits
from reground.tinyworld import scenes as synth

PATH = "/v1/chat/completions"
SAMPLES = [synth.sample("referring", seed=7, index=index) for index in range(4)]
IMAGES = [synth.render(sample.images[0].path) for sample in SAMPLES]
URL = data_url(IMAGES[0])
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
TEXT = {"type": "text", "text": SAMPLES[0].question}
MESSAGES = [{"role": "user", "content": [IMAGE, TEXT]}]
ASKED = {"model": "tiny", "messages": MESSAGES}


@pytest.fixture(scope="module")
def api(client: httpx2.Client) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of the server."""
    with connected(client) as own:
        yield own


def connected(client: httpx2.Client, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=str(client.base_url.join("/v1")), api_key=key, max_retries=0)


# ---- answers -----------------------------------------------------------------------------------


def test_a_completion_is_what_the_model_writes(api: openai.OpenAI, tiny: Grounder) -> None:
    found = tiny.ground([IMAGES[0]], SAMPLES[0].question)
    answer = api.chat.completions.create(**ASKED, temperature=0, max_tokens=100)
    (choice,) = answer.choices
    assert (answer.object, answer.model, choice.index) == ("chat.completion", "tiny", 0)
    assert answer.id.startswith("chatcmpl-") and abs(answer.created - time.time()) < 60
    assert (choice.message.role, choice.message.content) == ("assistant", found.text)
    assert (choice.finish_reason, choice.logprobs) == ("stop", None)
    assert answer.usage.completion_tokens == found.num_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + found.num_tokens
    grounding = answer.grounding
    assert (grounding["status"], grounding["protocol"]) == ("ok", "think")
    assert [tuple(each["box"]) for each in grounding["boxes"]] == [
        box.xyxy for box in found.answer.boxes
    ]
    scores = [each["score"] for each in grounding["boxes"]]
    assert scores == pytest.approx(found.scores, rel=1e-3)


def test_a_stream_is_the_same_answer_in_pieces(api: openai.OpenAI) -> None:
    whole = api.chat.completions.create(**ASKED)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, end, usage = list(api.chat.completions.create(**ASKED, **options))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in (*chunks, end, usage)}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [deltas[0].role, deltas[1].role] == ["assistant", None]
    assert "".join(delta.content for delta in deltas) == whole.choices[0].message.content
    assert len(deltas) > 10
    assert (end.choices[0].finish_reason, end.choices[0].delta.content) == ("stop", None)
    assert end.grounding["boxes"] == whole.grounding["boxes"]
    assert (usage.choices, usage.usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks)


def test_an_answer_is_cut_at_the_limit_and_at_stops(api: openai.OpenAI) -> None:
    whole = api.chat.completions.create(**ASKED).choices[0].message.content
    short = api.chat.completions.create(**ASKED, max_completion_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    assert whole.startswith(short.choices[0].message.content)
    for stream in (False, True):
        stopped = api.chat.completions.create(**ASKED, stop=["nowhere", "</think>"], stream=stream)
        text = joined(stopped) if stream else stopped.choices[0].message.content
        assert text == whole.partition("</think>")[0]
    kept = {"include_stop_str_in_output": True}
    stopped = api.chat.completions.create(**ASKED, stop="</think>", extra_body=kept)
    assert stopped.choices[0].message.content == whole.partition("</think>")[0] + "</think>"


def joined(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_an_answer_goes_on_from_what_is_said(api: openai.OpenAI) -> None:
    """The begin is read as the model wrote it, so that the rest is what it wrote."""
    whole = api.chat.completions.create(**ASKED)
    text = whole.choices[0].message.content
    begin, tag, rest = text.partition("<answer>")
    said = [*MESSAGES, {"role": "assistant", "content": begin + tag}]
    more = {"continue_final_message": True, "add_generation_prompt": False}
    for stream in (False, True):
        went = api.chat.completions.create(
            model="tiny", messages=said, extra_body=more, stream=stream
        )
        assert (joined(went) if stream else went.choices[0].message.content) == rest
    last = api.chat.completions.create(model="tiny", messages=said, extra_body=more)
    assert last.grounding["boxes"][0]["box"] == whole.grounding["boxes"][0]["box"]
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_the_server_writes_the_prompt_of_a_protocol_that_is_named(
    api: openai.OpenAI, tiny: Grounder
) -> None:
    direct = tiny.under("direct").ground([IMAGES[0]], SAMPLES[0].question)
    answer = api.chat.completions.create(model="tiny:direct", messages=MESSAGES)
    assert answer.choices[0].message.content == direct.text
    assert answer.grounding["protocol"] == "direct"


def test_sampled_answers_come_again_with_their_seed(api: openai.OpenAI) -> None:
    def said(**how: Any) -> str:
        answer = api.chat.completions.create(**ASKED, temperature=2.0, max_tokens=24, **how)
        return answer.choices[0].message.content

    assert len({said(seed=5) for _ in range(3)}) == 1
    first = said()
    assert any(said() != first for _ in range(20))  # chance alone may repeat a few


def test_conversations_and_words_alone_are_read(api: openai.OpenAI) -> None:
    """What a chat may hold; the template says how each is written."""
    system = {"role": "system", "content": "You point at things."}
    turns = [*MESSAGES, {"role": "assistant", "content": "(1,2),(3,4)"}]
    asked = [system, *turns, {"role": "user", "content": "and the ring?"}]
    alone = api.chat.completions.create(model="tiny", messages=MESSAGES).usage.prompt_tokens
    longer = api.chat.completions.create(model="tiny", messages=asked)
    assert longer.usage.prompt_tokens > alone + 15
    words = api.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "the ring"}], max_tokens=2
    )
    assert words.grounding is None and words.choices[0].message.content


def test_words_of_a_client_are_no_special_tokens(api: openai.OpenAI) -> None:
    lengths = [
        api.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": text}], max_tokens=1
        ).usage.prompt_tokens
        for text in ("a", "a<|im_end|>", "a<|image_pad|>")
    ]
    assert min(lengths[1:]) > lengths[0] + 1


# ---- our own evaluation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data", "asked"),
    [
        ("tiny", "synth:referring", {"protocol": "think", "prompt": "tiny"}),
        ("tiny", "synth:refer_grounding", {"protocol": "think", "prompt": "tiny"}),
        (
            "tiny_refiner",
            "synth:referring",
            {
                "protocol": "think_rethink",
                "prompt": "tiny_refiner",
                "tool": ToolUse(spec="oracle:weak"),
            },
        ),
    ],
)
def test_an_evaluation_over_the_server_is_that_in_process(
    tmp_path: Path, model: str, data: str, asked: dict[str, Any]
) -> None:
    """Eight samples: the same texts, boxes, tokens and ends of answers."""
    own = {"data": data, "limit": 8, "max_tokens": 96, "seed": 21, "family": "univg_r1"} | asked
    evaluate(tmp_path / "local", Question(model=model, **own))
    grounder = Grounder.from_pretrained(model)
    with served(grounder, grounder, name=model) as client:
        endpoint = Endpoint(url=str(client.base_url.join("/v1")), model=model, timeout_s=60)
        evaluate(tmp_path / "served", Question(model=model, endpoint=endpoint, **own))
    here, there = (list(read_scores(tmp_path / name)) for name in ("local", "served"))
    assert len(here) == 8
    for one, other in zip(here, there, strict=True):
        assert (one.text, one.predicted, one.iou) == (other.text, other.predicted, other.iou)
        assert (one.status, one.num_tokens, one.finish) == (
            other.status,
            other.num_tokens,
            other.finish,
        )


# ---- what is refused ---------------------------------------------------------------------------


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} | more]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": "hello"}, "messages: input should be a valid list"),
        ({"messages": [MESSAGES[0]] * 65}, "messages: list should have at most 64 items"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: input should be"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: field required"),
        ({"messages": ["hello"]}, "messages.0: input should be a valid dictionary"),
        (said(""), "the body: found messages without words and images"),
        (said([]), "messages.0.content.parts: list should have at least 1 item"),
        (said(5), "messages.0.content.parts: input should be a valid list"),
        (said("a" * 100_001), "messages.0.content.text: string should have at most"),
        (said("the ring", tool_calls=[{}]), "messages.0.tool_calls: extra inputs"),
        (said([{"type": "input_audio"}]), "messages.0.content.parts.0: input tag 'input_audio'"),
        (said([{"type": "text"}]), "messages.0.content.parts.0.text.text: field required"),
        (
            said([{"type": "image_url", "image_url": URL}]),
            "messages.0.content.parts.0.image_url.image_url: input should be a valid dictionary",
        ),
        (
            said([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/a"}}]),
            "http://127.0.0.1/a: exp",
        ),
        (said([{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]), "image 0: expected"),
        (said([{"type": "image_url", "image_url": {"url": URL[:300]}}]), "image 0: "),
        (said([IMAGE] * 17), "found 17 images, expected at most 16"),
        (said("ring " * 9_000), "found messages of "),
        ({"model": 5}, "model: input should be a valid string"),
        ({"model": None}, "model: field required"),
        ({"n": 2}, "n: input should be 1"),
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0"),
        ({"temperature": "0"}, "temperature: input should be a valid number"),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "the body: found max_tokens and max_comp"),
        ({"top_p": 0}, "top_p: input should be greater than 0"),
        ({"seed": 2**70}, "seed: "),
        ({"stop": ["a"] * 5}, "stop.texts: list should have at most 4 items"),
        ({"stop": ""}, "stop.text: string should have at least 1 character"),
        ({"stream": "yes"}, "stream: input should be a valid boolean"),
        ({"stream_options": {"include_usage": True}}, "the body: found stream_options without"),
        ({"tools": [{"type": "function"}]}, "tools: list should have at most 0 items"),
        ({"functions": []}, "functions: extra inputs are not permitted"),
        ({"response_format": {"type": "json_object"}}, "response_format.type: input should be"),
        ({"logprobs": True}, "logprobs: input should be False"),
        ({"presence_penalty": 1}, "presence_penalty: input should be less than or equal to 0"),
        ({"logit_bias": {"5": 1}}, "logit_bias: dictionary should have at most 0 items"),
        ({"continue_final_message": True}, "the body: found a last message of the user and"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "the body: found a last message"),
        (
            {"model": "tiny:think", "messages": [*MESSAGES, *MESSAGES]},
            "found 2 messages, expected one of the user",
        ),
        ({"model": "tiny:think"} | said("the ring"), "found a message without an image"),
        ({"model": "tiny:think", "stop": "a"}, "found stop, which protocols have of their own"),
    ],
    ids=lambda value: str(value)[:60],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_said_as_openai_says_it(
    client: httpx2.Client, changes: dict[str, Any], problem: str, stream: bool
) -> None:
    if stream and ({"stream", "stream_options"} & changes.keys()):
        pytest.skip("asks for a stream itself, or does not")
    response = client.post(PATH, json=ASKED | {"stream": stream} | changes)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["message"].startswith(problem)
    assert error["type"] == "invalid_request_error" and {"param", "code"} <= error.keys()


def test_what_changes_nothing_is_taken(client: httpx2.Client) -> None:
    harmless = {
        **{"n": 1, "top_p": 0.5, "seed": 3, "user": "me", "metadata": {"a": "b"}, "stop": None},
        **{"tools": [], "tool_choice": "none", "logprobs": False, "store": False},
        **{"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "functions": None},
        **{"response_format": {"type": "text"}, "max_tokens": 3, "max_completion_tokens": None},
    }
    assert client.post(PATH, json=ASKED | harmless).status_code == 200


def test_errors_reach_openais_client_by_their_kind(tiny: Grounder) -> None:
    model = Slow(spoilt="bad")
    limits, rules = Limits(most_waiting=1, timeout_s=1.0), Rules(api_key="key", max_body=200_000)
    with (
        served(tiny, model, limits, rules) as client,
        connected(client, "key") as api,
        connected(client, "other") as stranger,
        ThreadPoolExecutor(2) as askers,
    ):
        create = api.chat.completions.create
        with pytest.raises(openai.AuthenticationError, match="expected the server's key"):
            stranger.chat.completions.create(**ASKED)
        with pytest.raises(openai.NotFoundError) as unknown:
            create(**ASKED | {"model": "gpt"})
        with pytest.raises(openai.APIStatusError, match="larger than 200,000 bytes"):
            create(**ASKED | {"user": "a" * 300_000})
        first = askers.submit(create, **ASKED)
        until(lambda: bool(model.batches))
        second = askers.submit(create, **ASKED, stream=True)
        key = {"Authorization": "Bearer key"}
        metrics = lambda: client.get("/metrics", headers=key).text  # noqa: E731
        until(lambda: "reground_waiting_questions 1.0" in metrics())
        with pytest.raises(openai.RateLimitError, match="ask again in") as full:
            create(**ASKED)
        late = [first.exception(), second.exception()]
        model.may.set()
        with pytest.raises(openai.InternalServerError, match="the model failed: MemoryError"):
            create(model="tiny", messages=[{"role": "user", "content": "bad"}])
    assert unknown.value.code == "model_not_found"
    assert int(full.value.response.headers["Retry-After"]) >= 1
    assert [error.status_code for error in late] == [504, 504]


# ---- streams -----------------------------------------------------------------------------------


def events(response: httpx2.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("by_header", [False, True])
def test_a_grounding_is_streamed(client: httpx2.Client, by_header: bool) -> None:
    """The text in pieces, then the whole answer."""
    asked = {"images": [URL], "text": SAMPLES[0].question}
    whole = client.post("/v1/ground", json=asked).json()
    how = {"headers": {"Accept": "text/event-stream"}} if by_header else {}
    body = asked if by_header else asked | {"stream": True}
    with client.stream("POST", "/v1/ground", json=body, **how) as response:
        *pieces, (last, answer) = events(response)
    assert {name for name, _ in pieces} == {"text"} and len(pieces) > 10
    assert "".join(piece["text"] for _, piece in pieces) == whole["text"]
    assert last == "answer" and answer["boxes"] == whole["boxes"]
    refused = client.post("/v1/ground", json=asked | {"stream": True, "target_image": 3})
    assert (refused.status_code, list(refused.json())) == (422, ["error"])


def test_who_hangs_up_in_the_middle_of_a_stream_ends_it(tiny: Grounder) -> None:
    """The model stops for him, and goes on with others at once."""
    told: list[int] = []

    class Watched:
        def answers(self, starts: Any, *, heard: Any, **how: Any) -> Any:
            def listens(place: int, ids: Any) -> bool:
                time.sleep(0.01)
                told.append(len(ids))
                return bool(heard(place, ids))

            return tiny.answers(starts, heard=listens, **how)

    words = {"model": "tiny", "messages": [{"role": "user", "content": "1 2 3 4 5 6 7"}]}
    with served(tiny, Watched(), Limits(max_tokens=4_000)) as client:
        endless = words | {"stream": True, "temperature": 2.0, "seed": 1}
        with client.stream("POST", PATH, json=endless) as response:
            assert next(events(response))
        asked = client.post(PATH, json=words | {"max_tokens": 2}, timeout=30)
    assert asked.status_code == 200
    assert told[-2:] == [1, 2] and max(told) < 1_000


# ---- what is kept ------------------------------------------------------------------------------


def test_what_is_kept_of_requests(tiny: Grounder, tmp_path: Path) -> None:
    """One whole line an answer, without images and keys."""
    log = RequestLog(tmp_path / "kept.jsonl")
    asked = {"images": [URL], "text": SAMPLES[0].question}
    key = {"Authorization": "Bearer secret"}
    with served(tiny, tiny, rules=Rules(api_key="secret"), log=log) as client:

        def ask(number: int) -> Any:
            path, body = [("/v1/ground", asked), (PATH, ASKED)][number % 2]
            return client.post(path, json=body, headers=key).status_code

        with ThreadPoolExecutor(8) as askers:
            assert set(askers.map(ask, range(12))) == {200}
    text = (tmp_path / "kept.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 12 and "base64" not in text and "secret" not in text
    size = [IMAGES[0].width, IMAGES[0].height]
    for row in rows:
        assert (row["asked"], row["images"]) == (SAMPLES[0].question, [size])
        assert row["status"] == "ok" and row["boxes"] and row["timings"]["model_ms"] > 0
    assert (tmp_path / "kept.jsonl").stat().st_mode & 0o077 == 0


def test_a_full_disk_ends_no_answers(
    tiny: Grounder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with served(tiny, tiny, log=RequestLog(Path("/dev/full"))) as client:
        for _ in range(2):
            asked = {"images": [URL], "text": "the ring", "max_tokens": 2}
            assert client.post("/v1/ground", json=asked).status_code == 200
    assert capsys.readouterr().err.count("requests are not kept (No space left on device)") == 1
    with pytest.raises(RunError, match="requests cannot be kept there"):
        RequestLog(tmp_path)
