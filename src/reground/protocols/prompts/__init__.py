"""Named, versioned prompts: plain text files with ``$question`` where the question goes.

The wording of a prompt alone can move accuracy from 15 % to 82 %, so a report names the profile
and the hash of its text. Parts of a file come after a line of their own, as ``[[tool]]``:

- ``[[call]]``: how a model asks for the detectors' result; ends with ``</function>``;
- ``[[tool]]``: how that result is shown, between ``<tool>`` and ``</tool>``, with ``$results`` (all
  tools' as JSON on one line) or ``$results_indented`` in it;
- ``[[phrase]]``, ``[[box]]``: what the question marks as a phrase to find or as a box
  (:class:`reground.grounding.sample.Span`), with ``$phrase`` or ``$box`` in it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from reground.errors import ConfigError, did_you_mean
from reground.grounding.sample import Span
from reground.protocols.calls import CALL, CALL_END, SHOWN, Call, Function, read_call
from reground.protocols.wording import Segment, Wording, text_of

PLACES = ("question", "num_images", "tool", "boxes", "image", "chains")
_PACKAGE = resources.files(__name__)
_HEADING = re.compile(r"^\[\[(\w+)\]\][ \t]*$", re.MULTILINE)
_PART_PLACES: Mapping[str, tuple[str, ...]] = {
    "call": (),
    "tool": ("results", "results_indented"),
    "phrase": ("phrase",),
    "box": ("box",),
}
_TOOL = re.compile(r"\s*<tool>[^<]*+</tool>\s*")


@dataclass(frozen=True, slots=True)
class _Given:
    """What a place holds that a sample may lack: who gives it, and a profile that shows it."""

    what: str
    giver: str
    example: str


_GIVEN = {
    "tool": _Given("a detector's result", "samples with tool results", "piter"),
    "boxes": _Given("the true boxes", "`reground teach ask`", "teach"),
    "chains": _Given("the chains to choose from", "`reground teach judge`", "judge"),
}


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """The user turn, with the places ``$question``, ``$num_images`` and ``$tool``, and its parts.

    A profile for teachers has ``$boxes``, the true ones, and may name the target image with
    ``$image``; one for judges also has ``$chains``. ``sha256`` is that of the file's bytes.
    """

    name: str
    user: Wording
    sha256: str
    parts: Mapping[str, Wording] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The user turn as it was written, without its last line end."""
        return self.user.source

    @property
    def places(self) -> frozenset[str]:
        """The names of the places in the user turn."""
        return frozenset(self.user.places)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Those of the user turn and of its parts."""
        wordings = (self.user, *self.parts.values())
        return tuple(dict.fromkeys(token for each in wordings for token in each.special_tokens))

    @property
    def shows_tool(self) -> bool:
        """Whether the turn holds a detector's result."""
        return "tool" in self.user.places

    @property
    def call(self) -> str:
        """How a model asks for the detectors' result."""
        return text_of(self.parts["call"].filled({})) if "call" in self.parts else CALL

    @property
    def tool(self) -> Wording:
        """How the detectors' result is shown, once it was asked for."""
        return self.parts.get("tool", SHOWN)

    def turn(
        self,
        *,
        question: str,
        num_images: int,
        spans: Sequence[Span] = (),
        tool: str | None = None,
        boxes: str | None = None,
        chains: str | None = None,
        image: int = 1,
    ) -> list[Segment]:
        """The user turn; what fills a place is inserted as it is, and holds no special token.

        ``spans`` of the question go into their parts. ``tool`` is a detector's result, ``boxes``
        the true ones, ``chains`` those to choose from, for profiles that show them; ``image``
        counts from 1. Raises ``ConfigError`` where the profile shows what there is not, or has no
        place for what is given.
        """
        given = {"tool": tool, "boxes": boxes, "chains": chains}
        for place, shown in _GIVEN.items():
            if place in self.places and given[place] is None:
                raise ConfigError(
                    f"prompt {self.name!r} shows {shown.what} and there is none; use "
                    f"{shown.giver}, or a prompt without ${place}"
                )
            if place not in self.places and given[place] is not None:
                raise ConfigError(
                    f"prompt {self.name!r} has no ${place} to put {shown.what} in; use one that "
                    f"has, such as {shown.example!r}"
                )
        values = {key: value for key, value in given.items() if value is not None}
        numbers = {"num_images": str(num_images), "image": str(image)}
        return self.user.filled({"question": self._asked(question, spans), **numbers, **values})

    def render(self, *, question: str, num_images: int, **given: str | int | None) -> str:
        """The same as text."""
        return text_of(self.turn(question=question, num_images=num_images, **given))  # type: ignore[arg-type]

    def _asked(self, question: str, spans: Sequence[Span]) -> list[Segment]:
        segments, end = [], 0
        for span in spans:
            inside = question[span.start : span.end]
            segments.append(Segment(question[end : span.start]))
            part = self.parts.get(span.kind)
            segments += part.filled({span.kind: inside}) if part else [Segment(inside)]
            end = span.end
        return [*segments, Segment(question[end:])]


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """A prompt that no package has, as a checkpoint keeps it: its name and all of its text."""

    name: str
    text: str


def kept(name_or_path: str) -> str | OwnPrompt:
    """What a checkpoint keeps of a prompt: the name of a packaged one, all of another.

    Raises ``ConfigError`` as :func:`load_profile`.
    """
    profile = load_profile(name_or_path)
    if name_or_path in profile_names():
        return name_or_path
    return OwnPrompt(profile.name, Path(name_or_path).read_bytes().decode())


def load_profile(prompt: str | Path | OwnPrompt, *, needs: Sequence[str] = ()) -> PromptProfile:
    """A profile of this package by its name, or a user's own: the path of its file, or its text.

    Raises ``ConfigError`` for an unknown name, a missing file, a file that is no text, a text
    without ``$question`` or another place that the caller ``needs``, a place that nothing fills,
    and an unknown part or one that says too little.
    """
    if isinstance(prompt, OwnPrompt):
        return _profile(
            prompt.name, prompt.text.encode(), where=f"prompt {prompt.name}", needs=needs
        )
    source = str(prompt)
    is_own = source not in profile_names()
    file = Path(source) if is_own else _PACKAGE / f"{source}.txt"
    if is_own and not file.is_file():
        if source.endswith(".txt"):
            raise ConfigError(f"{source}: no such prompt file; expected a text with $question")
        raise ConfigError(
            f"unknown prompt {source!r}, and no path of a file; "
            f"{did_you_mean(source, profile_names())}"
        )
    return _profile(Path(source).stem, file.read_bytes(), where=f"prompt {source}", needs=needs)


def _profile(name: str, data: bytes, *, where: str, needs: Sequence[str]) -> PromptProfile:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not a text in UTF-8 ({error.reason})") from None
    user, *parts = _HEADING.split(text.replace("\r\n", "\n"))
    return PromptProfile(
        name,
        _user(user.removesuffix("\n"), where=where, needs=needs),
        hashlib.sha256(data).hexdigest(),
        _parts(parts, where=where),
    )


def profile_names() -> list[str]:
    """The names of the profiles in this package."""
    names = [entry.name for entry in _PACKAGE.iterdir()]
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def _user(text: str, *, where: str, needs: Sequence[str]) -> Wording:
    wording = Wording.of(text, where=where)
    _check_places(wording, PLACES, where=where)
    if "question" not in wording.places:
        raise ConfigError(f"{where}: no $question in it; say where the question stands")
    for place in needs:
        if place not in wording.places:
            shown = _GIVEN[place]
            raise ConfigError(
                f"{where}: no ${place} in it; say where {shown.what} stand, or use one "
                f"that has it, such as {shown.example!r}"
            )
    return wording


def _parts(pieces: Sequence[str], *, where: str) -> dict[str, Wording]:
    """The parts of a file from their names and texts by turns."""
    parts: dict[str, Wording] = {}
    for name, text in zip(pieces[::2], pieces[1::2], strict=True):
        if name not in _PART_PLACES or name in parts:
            problem = "is there twice" if name in parts else did_you_mean(name, _PART_PLACES)
            raise ConfigError(f"{where}: part [[{name}]] is unknown or repeated; {problem}")
        own = f"{where}: part [[{name}]]"
        wording = Wording.of(text.removeprefix("\n").removesuffix("\n"), where=own)
        places = _PART_PLACES[name]
        _check_places(wording, places, where=own)
        if places and not wording.places:
            needed = " or ".join(f"${place}" for place in places)
            raise ConfigError(f"{own}: no {needed} in it; say where it stands")
        parts[name] = wording
    if "tool" in parts and not _TOOL.fullmatch(parts["tool"].source):
        raise ConfigError(
            f"{where}: part [[tool]] has text outside <tool> ... </tool>, or another tag inside; "
            "expected one such block, as answers are read"
        )
    if "call" in parts and not _is_call(parts["call"]):
        raise ConfigError(
            f"{where}: part [[call]] is no call for the detectors' result; expected text that ends "
            f"as {CALL!r}"
        )
    return parts


def _is_call(part: Wording) -> bool:
    text = text_of(part.filled({}))
    is_one = text.endswith(CALL_END) and read_call(text) == Call(Function.RESULT)
    return is_one and not part.special_tokens


def _check_places(wording: Wording, known: Sequence[str], *, where: str) -> None:
    if unknown := [place for place in wording.places if place not in known]:
        use = ", ".join(f"${place}" for place in known) or "none"
        raise ConfigError(f"{where}: nothing fills ${unknown[0]}; use {use}")
