"""Named, versioned prompts: plain text files with ``$question`` where the question goes.

The wording of a prompt alone can move accuracy from 15 % to 82 %, so a report names the profile
and the hash of its text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from reground.errors import ConfigError, did_you_mean

PLACES = ("question", "num_images", "tool", "boxes", "image", "chains")
_PACKAGE = resources.files(__name__)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a place holds that a sample may lack: who gives it, and a profile that shows it."""

    what: str
    giver: str
    example: str


_SHOWN = {
    "tool": _Shown("a detector's result", "samples with tool results", "piter"),
    "boxes": _Shown("the true boxes", "`reground teach ask`", "teach"),
    "chains": _Shown("the chains to choose from", "`reground teach judge`", "judge"),
}


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """The text of a user turn, with the places ``$question``, ``$num_images`` and ``$tool``.

    A profile for teachers has ``$boxes``, the true ones, and may name the target image with
    ``$image``; one for judges also has ``$chains``. ``text`` comes without white space around it;
    ``sha256`` is that of the file's bytes.
    """

    name: str
    text: str
    sha256: str

    @property
    def places(self) -> frozenset[str]:
        """The names of the places in the text."""
        return frozenset(Template(self.text).get_identifiers())

    @property
    def shows_tool(self) -> bool:
        """Whether the turn holds a detector's result."""
        return "tool" in self.places

    def render(
        self,
        *,
        question: str,
        num_images: int,
        tool: str | None = None,
        boxes: str | None = None,
        chains: str | None = None,
        image: int = 1,
    ) -> str:
        """The user turn; question, tool text, boxes and chains are inserted as they are.

        ``tool`` is a detector's result, ``boxes`` the true ones, ``chains`` those to choose from,
        for profiles that show them; ``image`` counts from 1. Raises ``ConfigError`` where the
        profile shows what there is not, or has no place for what is given.
        """
        given = {"tool": tool, "boxes": boxes, "chains": chains}
        for place, shown in _SHOWN.items():
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
        places = {"question": question, "num_images": num_images, "image": image}
        return Template(self.text).substitute(places, **given)


def load_profile(name_or_path: str | Path, *, needs: Sequence[str] = ()) -> PromptProfile:
    """A profile of this package by its name, or a user's own by the path of its ``.txt`` file.

    A literal dollar sign is written ``$$``. Raises ``ConfigError`` for an unknown name, a missing
    file, a file that is no text, a text without ``$question`` or another place that the caller
    ``needs``, and any place that nothing fills.
    """
    source = str(name_or_path)
    is_own = source.endswith(".txt")
    file = Path(source) if is_own else _PACKAGE / f"{source}.txt"
    if is_own and not file.is_file():
        raise ConfigError(f"{source}: no such prompt file; expected a text with $question")
    if not is_own and source not in profile_names():
        raise ConfigError(
            f"unknown prompt {source!r}, and no path of a .txt file; "
            f"{did_you_mean(source, profile_names())}"
        )
    data = file.read_bytes()
    text = _checked(data, source=source, needs=needs)
    return PromptProfile(Path(source).stem, text, hashlib.sha256(data).hexdigest())


def profile_names() -> list[str]:
    """The names of the profiles in this package."""
    names = [entry.name for entry in _PACKAGE.iterdir()]
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def _checked(data: bytes, *, source: str, needs: Sequence[str]) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt {source}: not a text in UTF-8 ({error.reason})") from None
    template = Template(text)
    if not template.is_valid():
        raise ConfigError(f"prompt {source}: a lone dollar sign; write $$ for a literal one")
    places = template.get_identifiers()
    if unknown := [place for place in places if place not in PLACES]:
        raise ConfigError(
            f"prompt {source}: nothing fills ${unknown[0]}; "
            f"use {', '.join('$' + place for place in PLACES)}"
        )
    if "question" not in places:
        raise ConfigError(f"prompt {source}: no $question in it; say where the question stands")
    for place in needs:
        if place not in places:
            shown = _SHOWN[place]
            raise ConfigError(
                f"prompt {source}: no ${place} in it; say where {shown.what} stand, or use one "
                f"that has it, such as {shown.example!r}"
            )
    return text.strip()
