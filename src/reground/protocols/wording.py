"""A prompt's text: places that are filled, special tokens that are marked, and plain words.

``$question`` is a place, ``$<|box_start|>`` the special token ``<|box_start|>``, ``$$`` a dollar
sign. Without the dollar, ``<|box_start|>`` is plain text, and so is whatever fills a place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reground.errors import ConfigError

_MARK = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<token><[^<>\s]++>)|(?P<name>[A-Za-z_]\w*+)|\{(?P<braced>\w++)\})?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a turn: one special token, or text in which no special token is read."""

    text: str
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class Wording:
    """A text with places and special tokens, as it was written; check it with :meth:`of`."""

    source: str

    @classmethod
    def of(cls, source: str, *, where: str) -> Wording:
        """A checked text; raises ``ConfigError`` about ``where`` for a lone dollar sign."""
        if any(found.lastgroup is None for found in _MARK.finditer(source)):
            raise ConfigError(f"{where}: a lone dollar sign; write $$ for a literal one")
        return cls(source)

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the places, each once, in their order."""
        found = (match["name"] or match["braced"] for match in _MARK.finditer(self.source))
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens, each once, in their order."""
        found = (match["token"] for match in _MARK.finditer(self.source))
        return tuple(dict.fromkeys(token for token in found if token))

    @property
    def sha256(self) -> str:
        """The digest by which a published text is known again.

        It is that of the text in UTF-8, with places written as ``${question}``, line ends as one
        line feed, and without white space at the ends of lines and of the whole.
        """
        text = _MARK.sub(_braced, self.source)
        lines = [line.rstrip() for line in text.splitlines()]
        return hashlib.sha256("\n".join(lines).strip().encode()).hexdigest()

    def filled(self, values: Mapping[str, str | Sequence[Segment]]) -> list[Segment]:
        """The text with ``values`` in its places, each as it is; plain neighbours are one segment.

        >>> Wording("Find $what: $<|box_start|>").filled({"what": "a <|box_start|>"})
        [Segment(text='Find a <|box_start|>: ', is_special=False), \
Segment(text='<|box_start|>', is_special=True)]
        """
        return joined(self._segments(values))

    def _segments(self, values: Mapping[str, str | Sequence[Segment]]) -> Iterator[Segment]:
        end = 0
        for match in _MARK.finditer(self.source):
            yield Segment(self.source[end : match.start()])
            end = match.end()
            if match["token"]:
                yield Segment(match["token"], is_special=True)
            elif match["dollar"]:
                yield Segment("$")
            else:
                value = values[match["name"] or match["braced"]]
                yield from [Segment(value)] if isinstance(value, str) else value
        yield Segment(self.source[end:])


def joined(segments: Iterable[Segment]) -> list[Segment]:
    """The same turn, in which no two plain segments are neighbours and none is empty."""
    whole: list[Segment] = []
    for segment in segments:
        if whole and not (whole[-1].is_special or segment.is_special):
            whole[-1] = Segment(whole[-1].text + segment.text)
        elif segment.text:
            whole.append(segment)
    return whole


def text_of(turn: Iterable[Segment]) -> str:
    """A turn as text, in which special tokens cannot be told from words like them."""
    return "".join(segment.text for segment in turn)


def _braced(match: re.Match[str]) -> str:
    name = match["name"] or match["braced"]
    return f"${{{name}}}" if name else match[0]
