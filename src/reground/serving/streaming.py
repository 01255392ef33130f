"""Answers as they come: pieces of a text that grows, sent as server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from reground.errors import UserError
from reground.serving.guard import Refused

_UNFINISHED = "\ufffd"  # what a token that holds a part of a letter is decoded to
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Pieces:
    """A text that grows, as pieces of which none changes any more.

    ``ends`` are strings before which the text may be cut: what may be the begin of one is kept back
    until it is known to be none. So is half a letter.

    >>> pieces = Pieces(ends=("</a>",))
    >>> [pieces.more(text) for text in ("x <", "x </b", "x </b> ok</")]
    ['x ', '</b', '> ok']
    >>> pieces.more("x </b> ok", is_whole=True)
    ''
    """

    def __init__(self, ends: Sequence[str] = ()) -> None:
        self._ends, self._sent = ends, ""

    def more(self, text: str, is_whole: bool = False) -> str:
        """What of the text so far, or of the ``is_whole``, is new; raises ``Refused``."""
        sure = text if is_whole else self._sure(text)
        if sure.startswith(self._sent):
            piece, self._sent = sure[len(self._sent) :], sure
            return piece
        if self._sent.startswith(sure) and not is_whole:
            return ""  # it is heard again
        raise Refused(503, "the model had to begin again, and went on with other words")

    def _sure(self, text: str) -> str:
        text = text.rstrip(_UNFINISHED)
        for length in range(min(len(text), max(map(len, self._ends), default=0)), 0, -1):
            if any(each.startswith(text[len(text) - length :]) for each in self._ends):
                return text[: len(text) - length]
        return text


def event(data: Any, name: str | None = None) -> str:
    """A server-sent event.

    >>> event({"text": "a"}, "text")
    'event: text\\ndata: {"text": "a"}\\n\\n'
    """
    line = json.dumps(data, ensure_ascii=False) if not isinstance(data, str) else data
    return (f"event: {name}\n" if name else "") + f"data: {line}\n\n"


async def event_stream(
    events: AsyncGenerator[str, None], *, failed: Callable[[Exception], str]
) -> StreamingResponse:
    """A response of events; what fails before the first one is raised, later it is an event."""
    first = await anext(events)

    async def all_events() -> AsyncGenerator[str, None]:
        async with aclosing(events):
            yield first
            try:
                async for each in events:
                    yield each
            except (UserError, Refused) as error:
                yield failed(error)

    return StreamingResponse(all_events(), media_type="text/event-stream", headers=_HEADERS)
