"""Tools by what a user writes: stored boxes, an oracle, a server, or a detector's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reground.errors import ConfigError, did_you_mean
from reground.grounding.sample import Sample
from reground.rollout.tools.tool import Tool

FORMS = (
    "precomputed",
    "oracle:weak",
    "oracle:strong",
    "oracle:right=0.6,wrong=0.2",
    "http://HOST/PATH",
    "https://HOST/PATH",
)
_EXPECTED = (
    f"expected {', '.join(FORMS)}, or a zero-shot detector as a folder or hub id (owner/name)"
)


def open_tool(spec: str, *, samples: Sequence[Sample] = ()) -> Tool:
    """The tool that ``spec`` names, for questions about ``samples``.

    ``precomputed`` reads their ``tool_results`` and raises ``DataError`` where one has none;
    ``oracle:...`` knows their truth; an address is a server that speaks the protocol of http.py;
    anything else is a folder or hub id of a zero-shot detector (zero_shot.py). Raises
    ``ConfigError`` where it is none of these, ``ModelError`` where there are no such weights.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "precomputed":
        from reground.rollout.tools.precomputed import Precomputed, check

        check(samples)
        return Precomputed()
    if kind == "oracle":
        from reground.rollout.tools.oracle import Oracle

        return Oracle.of(rest, samples)
    if kind in ("http", "https"):
        from reground.rollout.tools.http import HttpDetector

        return HttpDetector(url=spec)
    is_hub_id = spec.count("/") == 1 and not colon and not spec.startswith((".", "/"))
    if not spec or not (Path(spec).is_dir() or is_hub_id):
        raise ConfigError(f"no tool {spec!r}; {_nearest(spec)}")
    from reground.rollout.tools.zero_shot import ZeroShotDetector  # torch

    return ZeroShotDetector.load(spec)


def _nearest(spec: str) -> str:
    """The nearest of the forms, where only its first word is misspelt; else all of them."""
    kind, colon, rest = spec.partition(":")
    known = ["precomputed"] if not colon else ["oracle", "http", "https"]
    if not spec or "/" in kind:
        return _EXPECTED
    guess = did_you_mean(kind, known, otherwise=_EXPECTED)
    return guess.removesuffix("'?") + f"{colon}{rest}'?" if guess.endswith("'?") else guess
