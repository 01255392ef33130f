"""Tools by what a user writes: stored boxes, a server, a detector's weights, or their own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reground.errors import ConfigError, UserError, did_you_mean
from reground.grounding.sample import Sample
from reground.plugins import from_path, installed
from reground.rollout.http import shown
from reground.rollout.tools.results import Precomputed, Recorded, check
from reground.rollout.tools.tool import Tool

_PARTS: dict[str, Any] = {"name": str, "settings": str, "by_image": bool, "detect": Callable}


def open_tool(spec: str, *, samples: Sequence[Sample]) -> Tool:
    """The tool that ``spec`` names, for questions about ``samples``.

    ``samples`` are all that it may be asked about: those of training and of validation, say.

    - ``precomputed`` reads their ``tool_results``; raises ``DataError`` where one has none.
    - A file that ends in ``.jsonl`` holds results of another tool (``Recorded``, results.py).
    - An http or https address is a server that speaks the protocol of http.py.
    - ``FILE.py:NAME`` is a :class:`Tool` of the user's: an object, or what makes one when it is
      called without arguments, as a class does.
    - ``NAME`` or ``NAME:OPTIONS`` is a tool of an installed package: its entry point NAME in the
      group ``reground.tools`` is called as ``make(options, samples)``.
    - Anything else is a folder or hub id of a zero-shot detector (zero_shot.py).

    Raises ``ConfigError`` where it is none of these, ``ModelError`` where there are no weights.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "precomputed":
        check(samples)
        return Precomputed()
    if spec.rpartition(":")[0].endswith(".py"):
        return _checked(spec, lambda: _own(from_path(spec)))
    if kind in ("http", "https") and colon:
        from reground.rollout.tools.http import HttpDetector

        return HttpDetector(url=spec)
    if spec.endswith(".jsonl"):
        return Recorded.of(Path(spec), samples)
    if entry := installed("tools").get(kind):
        return _checked(spec, lambda: entry.load()(rest, samples))
    is_hub_id = spec.count("/") == 1 and not colon and not spec.startswith((".", "/"))
    if not spec or not (Path(spec).is_dir() or is_hub_id):
        raise ConfigError(f"no tool {shown(spec)!r}; {_nearest(shown(spec))}", help="unknown-tool")
    from reground.rollout.tools.zero_shot import ZeroShotDetector  # torch

    return ZeroShotDetector.load(spec)


def _own(found: Any) -> Any:
    is_tool = hasattr(found, "detect") and not isinstance(found, type)
    return found() if callable(found) and not is_tool else found


def _checked(spec: str, make: Callable[[], Any]) -> Tool:
    """What other people's code makes, if it is a tool; raises ``ConfigError``."""
    try:
        tool = make()
        wrong = [
            name for name, kind in _PARTS.items() if not isinstance(getattr(tool, name, None), kind)
        ]
    except UserError:
        raise
    except Exception as error:
        raise ConfigError(
            f"tool {spec}: cannot be opened ({type(error).__name__}: {error}); mend its code"
        ) from error
    if wrong:
        raise ConfigError(
            f"tool {spec}: is no tool, for want of {', '.join(wrong)}; expected name and settings "
            "(texts), by_image (true or false) and the method detect"
        )
    return tool  # type: ignore[no-any-return]


def _nearest(spec: str) -> str:
    """The nearest of the forms, where only its first word is misspelt; else all of them."""
    kind, colon, rest = spec.partition(":")
    added = sorted(installed("tools"))
    forms = ["precomputed", *added, "http://HOST/PATH", "FILE.py:NAME", "FILE.jsonl"]
    expected = f"expected {', '.join(forms)}, or a zero-shot detector as a folder or hub id"
    if not spec or "/" in kind:
        return expected
    known = [*added, "http", "https"] if colon else ["precomputed", *added]
    guess = did_you_mean(kind, known, otherwise=expected)
    return guess.removesuffix("'?") + f"{colon}{rest}'?" if guess.endswith("'?") else guess
