"""A chat completion that comes in chunks, as server-sent events."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from reground.rollout.completions import CONTENT, STOPS, THOUGHTS, written
from reground.rollout.http import MAX_REPLY, NoReply

STREAM = {"stream": True, "stream_options": {"include_usage": True}}
"""The options that ask for one."""

HeardText = Callable[[str], None]
"""Is told a text so far, again and again as it grows."""

# What may be the token that ends an answer, or the begin of it: some servers leave it in.
_MAYBE_END = re.compile(r"<[|/]?\w*+\|?>?\s*\Z")


class Chunks:
    """Puts a completion together from the bytes of a stream, and tells ``heard`` its text so far.

    A server that answers at once, whatever it was asked, is read as well. ``thinks`` is
    :func:`read_reply`'s; ``quoted`` makes a server's words fit to be shown.
    """

    def __init__(self, heard: HeardText, *, thinks: bool, quoted: Callable[[object], str]) -> None:
        self._heard, self._thinks, self._quoted = heard, thinks, quoted
        self._rest = bytearray()  # of a line whose end has not come
        self._seen = 0  # of these, in which there is no line's end
        self._message: dict[str, Any] = {}
        self._choice: dict[str, Any] = {}
        self._usage: object = None
        self._told = ""
        self._has_end = False

    def take(self, part: bytes) -> None:
        """The next bytes; raises ``NoReply`` for what is no completion."""
        self._rest += part
        while (end := self._rest.find(b"\n", self._seen)) >= 0 and not self._is_at_once:
            line = bytes(self._rest[:end]).strip()
            del self._rest[: end + 1]
            self._seen = 0
            self._read(line)
        self._seen = len(self._rest)
        if self._seen > MAX_REPLY:
            raise NoReply(f"a chunk is larger than {MAX_REPLY // 1_000_000} MB", may_pass=False)

    def whole(self) -> Any:
        """The completion, as it comes at once; raises ``NoReply`` for one that was broken off."""
        if self._is_at_once:
            return self._parsed(bytes(self._rest))
        self._read(bytes(self._rest).strip())
        if not self._has_end:
            raise NoReply("the reply broke off in the middle")
        return {"choices": [self._choice | {"message": self._message}], "usage": self._usage}

    @property
    def _is_at_once(self) -> bool:
        return self._rest[:1] == b"{"

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return  # the name of an event, a comment that keeps the line open
        data = line[len(b"data:") :].strip()
        if data == b"[DONE]":
            self._has_end = True
            return
        chunk = self._parsed(data)
        if error := chunk.get("error"):
            said = error.get("message", error) if isinstance(error, dict) else error
            raise NoReply(f"the server broke off: {self._quoted(said)}", may_pass=False)
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._add(choice)

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            start = self._quoted(data[:60].decode(errors="replace")) or "nothing"
            raise NoReply(f"the reply is no JSON object; it begins: {start}", may_pass=False)
        return found

    def _add(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        for name, value in (delta if isinstance(delta, dict) else {}).items():
            if name in (*CONTENT, *THOUGHTS) and value is not None:
                self._message[name] = _joined(self._message.get(name), value)
        if isinstance(choice.get("finish_reason"), str):
            self._has_end = True
            self._message.setdefault("content", "")  # it may have written nothing
            self._choice |= {name: choice[name] for name in STOPS if name in choice}
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
            known = self._choice.setdefault("logprobs", {"content": []})
            known["content"] += logprobs["content"]
        self._tell()

    def _tell(self) -> None:
        if not self._message:
            return
        text, _ = written(self._message, self._choice.get("finish_reason"), self._thinks)
        text = _MAYBE_END.sub("", text)
        if len(text) > len(self._told):
            self._told = text
            self._heard(text)


def _joined(before: Any, more: Any) -> Any:
    """Texts, or texts and parts; what is neither is left for :func:`written` to refuse."""
    if before is None or not isinstance(more, str | list):
        return more
    if isinstance(before, str) and isinstance(more, str):
        return before + more
    return _parts(before) + _parts(more)


def _parts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [{"type": "text", "text": value}]
