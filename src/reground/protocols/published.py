"""The prompts of published models, known by their digests (published.yaml); none is stored here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from reground.grounding.names import ProtocolName
from reground.io import parse_yaml
from reground.protocols.prompts import PromptProfile

OURS = "our wording"


@dataclass(frozen=True, slots=True)
class PublishedPrompt:
    """Whose prompt, for what, where its text is, and its digests; published.yaml says more."""

    name: str
    model: str
    use: str
    protocol: ProtocolName
    where: str
    sha256: str
    tool_sha256: str | None = None
    note: str | None = None

    def is_told_by(self, profile: PromptProfile) -> bool:
        """Whether a profile is this very text, its part for a tool included."""
        same_tool = self.tool_sha256 in (None, profile.tool.sha256)
        return profile.user.sha256 == self.sha256 and same_tool


@cache
def published_prompts() -> tuple[PublishedPrompt, ...]:
    """All of them, in the order of the file."""
    file = resources.files("reground.protocols").joinpath("published.yaml")
    return tuple(PublishedPrompt(**row) for row in parse_yaml(file.read_text("utf-8"), str(file)))


def wording_of(profile: PromptProfile) -> str:
    """Whose wording a prompt has: "as published (UniVG-R1)" or "our wording".

    Where the user turn is as published and the tool's text is not, it says so.

    >>> from reground.protocols.prompts import load_profile
    >>> wording_of(load_profile("univg_r1")), wording_of(load_profile("refiner"))
    ('as published (UniVG-R1)', 'our wording')
    """
    own = profile.user.sha256
    found = next((each for each in published_prompts() if each.sha256 == own), None)
    if found is None:
        return OURS
    said = f"as published ({found.model})"
    return said if found.is_told_by(profile) else f"{said}, the tool's text: {OURS}"
