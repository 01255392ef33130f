"""What can be wrong with the reasoning of a chain, whatever its answer.

Every check takes time linear in the text's length: each expression below is bounded in length, or
possessive. A check returns what it found, in a few words, or None.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from reground.data.convert.mentions import mentions, names_beyond
from reground.grounding.boxes import Box, FrameKind
from reground.grounding.codecs import EncodedSize

_TIMES, _SENTENCE_WORDS = 3, 4  # a sentence of four words said three times is a loop
_LOOP_WORDS, _LONGEST_LOOP = 12, 20  # words said again in a row, in loops of up to 20 words
_RUN = 8  # words: people seldom write as many in the same order twice

_WORD = re.compile(r"[^\W_]++(?:['’-][^\W_]++)*+")  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?;\n]++")


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("It's the dog's left-hand side.")
    ["it's", 'the', "dog's", 'left-hand', 'side']
    """
    return _WORD.findall(text.lower())


def repetition(text: str, *, most: float) -> str | None:
    """A sentence said three times, a loop, or more than ``most`` of the words said before.

    In a loop the same words come three times in a row, and 12 words or more are said again. A word
    is said before where it belongs to eight words that come in the same order further up.
    Listings repeat shorter runs ("one at the top left, one at the ..."), and two images may well
    be described alike.
    """
    counts = Counter(" ".join(words(sentence)) for sentence in _sentences(text))
    for sentence, count in counts.items():
        if count >= _TIMES and sentence.count(" ") >= _SENTENCE_WORDS - 1:
            return f"{count} times {_short(sentence)!r}"
    said = words(text)
    if loop := _loop(said):
        return f"a loop of {_short(' '.join(loop))!r}"
    share = _share_said_before(said)
    return f"{share:.0%} of the words were said before" if share > most else None


# The texts are in lower case, with one space between words.
_TOLD = (
    r"(?:given|provided|supplied|annotated|labell?ed|known|reference|pre-?defined|"
    r"pre-?determined|true|gold)"
)
_NOUN = r"(?P<noun>bounding box(?:es)?|bbox(?:es)?|coordinates?|annotations?|answer)"
_BOX = r"(?P<noun>bounding box(?:es)?|box(?:es)?|bbox(?:es)?|coordinates?|answers?|solution)"
_SEEN = (
    r"(?:question|query|description|instruction|expression|phrase|caption|text|task|"
    r"images?|pictures?|photos?|frames?)"
)
_LEAKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\bground[ -]?truths?\b",
        r"\banswer key\b|\bthe (?:hint|(?:correct|actual|exact) coordinates|true location)\b",
        r"(?P<noun>\bannotat(?:ions?|ors?)\b)",
        rf"\b{_TOLD} (?:(?!the |a |an |that )\w++ )?{_BOX}\b",
        r"\b(?:answer|box|boxes|bbox|coordinates|location|position) (?:that )?"
        r"(?:is|are|was|were|has been|have been) (?:already )?(?:given|provided|supplied)\b",
        r"\b(?:answer|coordinates) (?:is|are) (?:already )?(?:known|specified)\b",
        r"\bas (?:already )?(?:given|provided|supplied|annotated)\b"
        rf"(?! (?:in|by|from) (?:\w++ )?(?:\w++ )?{_SEEN}\b)",
        r"\b(?:according to|based on|given|as per|using|consistent with|match(?:es|ing)?|"
        r"corresponds? to|align(?:s|ed)? with|confirmed by|indicated by|from) "
        rf"(?:the|these|those|this) (?:target |final |correct |expected )?{_NOUN}\b",
        r"\b(?:i|we)(?: am| are| was| were| have been|'ve been) (?:already )?"
        rf"(?:given|told|shown|provided with) the (?:\w++ )?{_BOX}\b",
        r"\b(?:user|prompt|system|task|question|instructions?) (?:has |have )?(?:already )?"
        r"(?:gives?|gave|given|provides?|provided|tells?|told) (?:me |us )?(?:with )?"
        rf"the (?:\w++ )?{_BOX}\b",
        r"\b(?:i|we) (?:already )?know the (?:answer|coordinates|bounding box)\b",
    )
)


def leak(text: str, *, question: str) -> str | None:
    """Words that betray that the answer was given.

    What the question itself says, or has ("the bounding box in image-1"), may be spoken of.
    """
    text, question = _plain(text), _plain(question)
    for pattern in _LEAKS:
        for found in pattern.finditer(text):
            noun = found.groupdict().get("noun") or found[0]
            if noun not in question and found[0] not in question:
                return found[0]
    return None


_NUMBER = r"[0-9]{1,5}(?:\.[0-9]{1,6})?"
_COMMA = r" ?[,;] ?"
_COORDINATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"[(\[{{<] ?-?{_NUMBER}{_COMMA}-?{_NUMBER}",
        rf"(?<![0-9.]){_NUMBER}(?:(?:{_COMMA}| ){_NUMBER}){{3}}",
        rf"\b[xy](?:_?(?:min|max)|_?[1-4])? ?(?:=|:|≈|is) ?{_NUMBER}",
        rf"(?<![0-9.]){_NUMBER} ?(?:px|pixels?)\b",
    )
)
_MARKS = re.compile(r"\bbbox_2d\b|<\|?box(?:_start|_end)?\|?>")  # what models write around boxes
_NUMBERS = re.compile(_NUMBER)
_LEAST = 10  # smaller numbers are counts and ordinals
_EDGES = 2  # of one box: two numbers that are its edges are no chance


def coordinates(text: str, *, question: str, truth: Sequence[Box], size: EncodedSize) -> str | None:
    """Numbers that are places: pairs in brackets, four in a row, "x = 12", edges of a true box.

    The edges count in original pixels, in pixels of the encoded image and in 0-1000. Counts and
    ordinals (below 10), and numbers of the question, are none.
    """
    text, asked = _plain(text), {*_NUMBERS.findall(_plain(question))}
    if mark := _MARKS.search(text):
        return mark[0]
    for pattern in _COORDINATES:
        for found in pattern.finditer(text):
            numbers = _NUMBERS.findall(found[0])
            if not {*numbers} <= asked and any(map(_is_place, numbers)):
                return found[0]
    said = {round(float(number)) for number in {*_NUMBERS.findall(text)} - asked}
    near = {n + step for n in said if n >= _LEAST for step in (-1, 0, 1)}
    for edges in _edges(truth, size):
        if len(shared := edges & near) >= _EDGES:
            return "edges of the true box: " + ", ".join(map(str, sorted(shared)))
    return None


_PLACE = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|cent(?:re|er)|middle|corner|edge|side|foreground|"
    r"background|front|above|below|beneath|behind|beside|between|near|next to|leftmost|rightmost|"
    r"located|situated|positioned|found)\b"
    r"|\b(?:is|are|lies?|appears?) (?:\w++ )?(?:in|within) (?:the )?(?:\w++ )?"
    r"(?:image|frame|picture|photo)\b"
)


def wrong_image(text: str, *, target: int, num_images: int) -> str | None:
    """Another image named as the one that holds the target; ``target`` counts from 0.

    A chain may speak of all images. It is wrong where it names images and never the target's, or
    one that is not there; also where the last image it names is another, and so is every image
    in the last sentence that names one and says a place ("at the left", "is in the third image").
    """
    if num_images == 1:
        return None
    named: list[int] = []
    placed: list[int] = []
    for sentence in _sentences(text.lower()):
        found = [mention.image for mention in mentions(sentence, num_images)]
        if names_beyond(sentence, num_images):
            return f"names an image beyond the {num_images}: {_short(sentence)!r}"
        named += found
        if found and _PLACE.search(sentence):
            placed = found
    if not named or named[-1] == target or (target in named and (target in placed or not placed)):
        return None
    other = placed[-1] if placed and target not in placed else named[-1]
    return f"names image {other + 1}, the target is in image {target + 1}"


def _sentences(text: str) -> Iterator[str]:
    return (sentence for sentence in _SENTENCE_END.split(text) if sentence.strip())


def _loop(said: Sequence[str]) -> Sequence[str]:
    """The first words that are said over and over; none where there is no loop."""
    for period in range(1, _LONGEST_LOOP + 1):
        again = 0
        for end in range(period, len(said)):
            again = again + 1 if said[end] == said[end - period] else 0
            if again >= max(_LOOP_WORDS, (_TIMES - 1) * period):
                return said[end - period + 1 : end + 1]
    return ()


def _share_said_before(said: Sequence[str]) -> float:
    seen: set[tuple[str, ...]] = set()
    count = end = 0  # of words said before, and where the last of them is
    for start in range(len(said) - _RUN + 1):
        run = tuple(said[start : start + _RUN])
        if run in seen:
            count += start + _RUN - max(start, end)
            end = start + _RUN
        seen.add(run)
    return count / len(said) if said else 0.0


def _edges(truth: Sequence[Box], size: EncodedSize) -> Iterator[set[int]]:
    """The edges of each box in each frame, those that could be taken for counts left out."""
    for box in truth:
        for kind in (FrameKind.PIXELS, FrameKind.INPUT, FrameKind.THOUSAND):
            edges = {round(edge) for edge in box.to(size.frame(kind)).xyxy}
            yield {edge for edge in edges if edge >= _LEAST}


def _is_place(number: str) -> bool:
    return "." in number or int(number) >= _LEAST


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("’", "'").replace("*", "").split())  # noqa: RUF001


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"
