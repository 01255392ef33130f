"""What a chat completion says, whatever its server left out or put in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reground.rollout.http import NoReply

_CUT = ("length", "max_tokens", "model_length")  # as OpenAI, Anthropic and Mistral name it
_BROKEN = ("abort", "error")  # of vLLM and SGLang: the server's fault and not the model's
_END = re.compile(r"(?:<\|(?:im_end|endoftext|end_of_text|eot_id|end)\|>|<end_of_turn>|</s>)\s*\Z")
_MOST_TOKENS = 10**9
_LEAST = -1e6  # log-prob that is believed
REFUSED = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
CONTENT = ("content", "refusal")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
STOPS = ("finish_reason", "stop_reason", "matched_stop")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote, its thoughts included.

    ``at_stop`` is whether it ended at the stop string; None where the server does not say.
    ``is_apart`` is whether the server gave the thoughts apart: what stood around them is then a
    guess. ``pieces`` are the texts of its tokens and ``logprobs`` their log-probs, none of either
    where the server does not give them.
    """

    text: str
    num_tokens: int | None
    finish: Literal["stop", "length"]
    at_stop: bool | None = None
    num_prompt_tokens: int | None = None
    is_apart: bool = False
    pieces: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


def read_reply(value: object, *, stop: str | None = None, thinks: bool = False) -> Reply:
    """The reply in a completion as JSON holds it; raises ``NoReply`` where there is none.

    What a model wrote is a reply, and be it nothing: cut off at the limit, refused or filtered.
    Thoughts that the server took out are put back between the tags, of which the closing one is
    missing where nothing followed; ``thinks`` is whether the protocol asks for them, so that empty
    ones count. The token that ended the answer, which some servers leave in, is no part of it.

    >>> message = {"content": "(1,2),(3,4)", "reasoning": "Left."}
    >>> read_reply({"choices": [{"message": message, "finish_reason": "stop"}]}).text
    '<think>Left.</think>(1,2),(3,4)'
    """
    usage = _object(_object(value).get("usage"))
    num_read, num_tokens = map(_count, map(usage.get, ("prompt_tokens", "completion_tokens")))
    try:
        choice = _first_choice(value)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish.lower() in _BROKEN:
            raise NoReply(f"the reply ended with {finish.lower()!r}: the server broke it off")
        text, is_apart = written(choice.get("message"), finish, thinks)
    except NoReply as error:
        error.num_prompt_tokens, error.num_tokens = num_read or 0, num_tokens or 0
        raise
    is_cut = isinstance(finish, str) and finish.lower() in _CUT
    ended: Literal["stop", "length"] = "length" if is_cut else "stop"
    if not is_cut:
        text = _END.sub("", text)
    pieces, logprobs = _tokens(choice)
    at_stop = _at_stop(choice, stop)
    return Reply(text, num_tokens, ended, at_stop, num_read, is_apart, pieces, logprobs)


def read_served(value: object) -> dict[str, object]:
    """The models of a server's list by name, each with its owner; raises ``NoReply``."""
    found = _object(value).get("data")
    models = [_object(each) for each in found] if isinstance(found, list) else [{}]
    if all(isinstance(each.get("id"), str) for each in models):
        return {each["id"]: each.get("owned_by") for each in models}
    raise NoReply("the reply holds no list of models")


def num_read(value: object) -> int:
    """How many tokens a completion says that its prompt has; 0 where it does not."""
    return _count(_object(_object(value).get("usage")).get("prompt_tokens")) or 0


def _first_choice(value: object) -> Mapping[str, Any]:
    choices = _object(value).get("choices")
    if not isinstance(choices, list) or not choices:
        raise NoReply("the reply holds no choices")
    if not isinstance(choices[0], dict):
        raise NoReply(f"the reply's choice is {_kind(choices[0])}, expected an object")
    return choices[0]


def written(message: object, finish: object, thinks: bool) -> tuple[str, bool]:
    """All that the model wrote, and whether its thoughts were apart; raises ``NoReply``."""
    if not isinstance(message, dict):
        raise NoReply(f"the reply's message is {_kind(message)}, expected an object")
    content, refusal = (_text(message.get(name), name) for name in CONTENT)
    found = [_text(message.get(name), name) for name in THOUGHTS]
    thoughts = next((each for each in found if each is not None), None)
    if thoughts is None and isinstance(message.get("content"), list):
        thoughts = _thoughts_among(message["content"])
    is_message = "role" in message or "content" in message
    if content is refusal is thoughts is None and not (is_message and isinstance(finish, str)):
        raise NoReply("the reply's message says nothing")
    text = (content or "") + (refusal or "")
    thought = (thoughts or "").strip()
    is_apart = thoughts is not None and (thinks or bool(thought))
    is_apart = is_apart and not ("think>" in text and thought in text)  # it holds them, too
    if is_apart:
        text = f"<think>{thoughts}" + (f"</think>{text}" if text.strip() else "")
    # Half a surrogate pair, which JSON can spell and no file can hold.
    return text.encode(errors="replace").decode(), is_apart


def _text(value: object, name: str) -> str | None:
    """A text, also in parts, as some servers write it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts = [part.get("text", "") for part in value]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    raise NoReply(f"the reply's {name} is {_kind(value)}, expected a text")


def _thoughts_among(parts: list[Any]) -> str | None:
    """The thoughts among the parts of a content, as Anthropic and Mistral write them."""
    found = [part["thinking"] for part in parts if "thinking" in part]
    return "".join(_text(each, "thinking") or "" for each in found) if found else None


def _tokens(choice: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The texts of the tokens and their log-probs; none where one of them is no such thing."""
    rows = _object(choice.get("logprobs")).get("content")
    if not isinstance(rows, list):
        return (), ()
    pieces, logprobs = [], []
    for row in map(_object, rows):
        piece, value = row.get("token"), row.get("logprob")
        if not (isinstance(piece, str) and isinstance(value, int | float) and _LEAST <= value <= 0):
            return (), ()
        pieces.append(piece)
        logprobs.append(float(value))
    return tuple(pieces), tuple(logprobs)


def _at_stop(choice: Mapping[str, Any], stop: str | None) -> bool | None:
    """By what vLLM and SGLang name as the reason: a string, an end token's id, or nothing."""
    for name in STOPS[1:]:
        if name in choice:
            return stop is not None and bool(choice[name] == stop)
    return None


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS:
        return value
    return None


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "a truth"}
    return kinds.get(type(value), "a number")
