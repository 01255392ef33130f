"""Named, versioned prompts: plain text files with ``$question`` where the question stands.

The wording of a prompt alone can move accuracy from 15 % to 82 %, so a report names the profile
and the hash of its text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from reground.errors import ConfigError, did_you_mean

PLACES = ("question", "num_images", "tool")
_PACKAGE = resources.files(__name__)


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """The text of a user turn, with the places ``$question``, ``$num_images`` and ``$tool``.

    ``text`` comes without white space around it; ``sha256`` is that of the file's bytes.
    """

    name: str
    text: str
    sha256: str

    @property
    def shows_tool(self) -> bool:
        """Whether the turn holds a detector's result."""
        return "tool" in Template(self.text).get_identifiers()

    def render(self, *, question: str, num_images: int, tool: str | None = None) -> str:
        """The user turn; question and tool text are inserted as they are.

        ``tool`` is a detector's result, for profiles that show it. Raises ``ConfigError`` where
        the profile shows one and there is none, or has no place for the one given.
        """
        if self.shows_tool and tool is None:
            raise ConfigError(
                f"prompt {self.name!r} shows a detector's result and there is none; use samples "
                "with tool results, or a prompt without $tool"
            )
        if tool is not None and not self.shows_tool:
            raise ConfigError(
                f"prompt {self.name!r} has no $tool to put the detector's result in; use one that "
                "has, such as 'piter'"
            )
        places = {"question": question, "num_images": num_images, "tool": tool}
        return Template(self.text).substitute(places)


def load_profile(name_or_path: str | Path) -> PromptProfile:
    """A profile of this package by its name, or a user's own by the path of its ``.txt`` file.

    A literal dollar sign is written ``$$``. Raises ``ConfigError`` for an unknown name, a missing
    file, a file that is no text, a text without ``$question``, and any place that nothing fills.
    """
    name = str(name_or_path)
    if name.endswith(".txt"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{name}: no such prompt file; expected a text with $question")
        return _checked(path.stem, path.read_bytes(), source=name)
    if name not in profile_names():
        raise ConfigError(
            f"unknown prompt {name!r}, and no path of a .txt file; "
            f"{did_you_mean(name, profile_names())}"
        )
    return _checked(name, (_PACKAGE / f"{name}.txt").read_bytes(), source=name)


def profile_names() -> list[str]:
    """The names of the profiles in this package."""
    names = [entry.name for entry in _PACKAGE.iterdir()]
    return sorted(name.removesuffix(".txt") for name in names if name.endswith(".txt"))


def _checked(name: str, data: bytes, *, source: str) -> PromptProfile:
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
    return PromptProfile(name, text.strip(), hashlib.sha256(data).hexdigest())
