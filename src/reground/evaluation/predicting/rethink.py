"""Think-rethink with a model behind a server: the detector's result comes inside its own turn.

What :mod:`reground.rollout.environment` does, in texts, since a server takes no ids: the
turn so far is sent as text and the server makes ids of it again, which need not be those sampled.
"""

from __future__ import annotations

import re
from typing import Protocol

from reground.evaluation.records import Draw, Finish, to_keep
from reground.grounding.codecs import EncodedSize
from reground.grounding.sample import Sample
from reground.protocols.calls import (
    CALL_BEGIN,
    CALL_END,
    FIRST_TOOL,
    problem_of,
    read_call,
    refusal_text,
)
from reground.protocols.protocol import AnswerProtocol
from reground.rollout.completions import Reply
from reground.rollout.http import NoReply
from reground.rollout.tools.results import result

# All but the marks of boxes and of objects, which families may write.
_FOREIGN = re.compile(r"<\|(?!box_|object_ref_)\w+\|>")


class Ask(Protocol):
    """Asks the same question for another part of the reply, as ``Client.ask`` does."""

    async def __call__(
        self, *, max_tokens: int, stop: str | None = None, so_far: str = ""
    ) -> Reply:
        """The part behind ``so_far``, up to ``stop``."""


async def think_rethink(
    ask: Ask,
    sample: Sample,
    sizes: tuple[EncodedSize, ...],
    *,
    protocol: AnswerProtocol,
    max_tokens: int,
) -> Draw:
    """The whole turn of the assistant; ``max_tokens`` limits what is sampled in both its parts.

    The detector's result are the sample's ``tool_results``. Raises ``NoReply`` as ``ask`` does, and
    for a first part that the server would read as something else than it is.
    """
    first = await ask(max_tokens=max_tokens, stop=CALL_END)
    num_tokens = _counted(first)
    call = _call(first)
    if call is None:
        ended: Finish = "no_call" if first.finish == "stop" else "length"
        return _draw(first.text, num_tokens, ended, protocol, first)
    if num_tokens >= max_tokens:
        return _draw(call, num_tokens, "length", protocol)
    found = result(sample)
    if problem := problem_of(read_call(call), offered=protocol.plan.functions):
        tool_said = refusal_text(problem)
    else:
        tool_said = protocol.tool_text({FIRST_TOOL: found}, sizes[sample.target_image])
    last = await ask(max_tokens=max_tokens - num_tokens, so_far=call + tool_said)
    num_tokens += _counted(last, whole=True)
    failed = problem is None and found is None
    ended = "tool_failed" if failed and last.finish == "stop" else last.finish
    return _draw(call + tool_said + last.text, num_tokens, ended, protocol, last)


def _draw(
    text: str, num_tokens: int, ended: Finish, protocol: AnswerProtocol, part: Reply | None = None
) -> Draw:
    """The whole turn; the boxes that count are in the ``part`` that the model wrote last."""
    scores = protocol.scores(part.pieces, part.logprobs) if part else ()
    return Draw(text, num_tokens, ended, to_keep(scores))


def _call(first: Reply) -> str | None:
    """The first part up to the end of its call, if it ends with one.

    A server may have taken off the string at which the part ended. Where it does not say that it
    ended there, a call that is open tells.
    """
    before, _, after = first.text.partition(CALL_END)
    if after:
        raise NoReply(f"the server wrote on behind {CALL_END}, at which it was asked to stop")
    is_call = first.at_stop
    if is_call is None:
        is_call = first.text.endswith(CALL_END) or CALL_BEGIN in before
    if first.finish != "stop" or not is_call:
        return None
    _counted(first, whole=True)
    if found := _FOREIGN.search(before):
        raise NoReply(f"the model wrote {found[0]}, which a server takes for a special token")
    return before + CALL_END


def _counted(part: Reply, *, whole: bool = False) -> int:
    """The tokens of a part; what goes on has to be the ``whole`` of what was written."""
    if whole and part.is_apart:
        raise NoReply("the thoughts were taken out of the reply; serve without a reasoning parser")
    if part.num_tokens is None:
        raise NoReply("the reply does not say how many tokens it has ('usage')")
    return part.num_tokens
