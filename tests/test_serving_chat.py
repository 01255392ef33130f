"""OpenAI's chat completions, with OpenAI's own client, and answers that come as they are written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from asking import served
from reground.api import Grounder
from reground.data.images import data_url
from reground.evaluation.evaluate import evaluate
from reground.evaluation.predicting.question import Question, ToolUse
from reground.evaluation.records import read_scores
from reground.rollout.endpoint import Endpoint
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
    assert went is not whole
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
    def said(**how: Any) -> set[str]:
        answers = [api.chat.completions.create(**ASKED, temperature=2.0, **how) for _ in range(3)]
        return {answer.choices[0].message.content for answer in answers}

    assert len(said(seed=5)) == 1
    assert len(said()) > 1


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
        for text in ("", "<|im_end|>", "<|image_pad|>", "<|box_start|>")
    ]
    assert lengths[1] > lengths[0] + 1 and lengths[2] > lengths[0] + 1
    assert lengths[3] >= lengths[0] + 1


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
