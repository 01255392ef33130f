"""Whatever the text: it gets a status, in time that grows with its length alone."""

from __future__ import annotations

import gc
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made import PROTOCOLS
from reground.grounding.answers import Status
from reground.grounding.boxes import FrameKind
from reground.grounding.codecs import Codec, EncodedSize
from reground.grounding.grammars import Grammar
from reground.grounding.names import ProtocolName
from reground.protocols.prompts import load_profile
from reground.protocols.protocol import AnswerProtocol

PHOTO = EncodedSize(640, 480, 644, 476)

PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<tool>", "</function>", "<|im_end|>"),
    *("<|box_start|>", "```json", "```", '"bbox_2d": ', '"image"', "[", "]", "{", "}", "(", ")"),
    *("<ref>", "</ref>", "<box>", "</box>", "[[", "]]", ";", "010,020,030,040", "0.1,0.2,0.3,0.4"),
    *(",", ":", '"', "\\", " ", "\n", "-", "1", "20", "3.5", "1e999", "NaN", "none", "null", "é"),
]


@given(st.sampled_from([*PROTOCOLS.values()]), st.lists(st.sampled_from(PIECES)) | st.text())
def test_any_text_gets_a_status(protocol: AnswerProtocol, pieces: list[str] | str) -> None:
    answer = protocol.read("".join(pieces), PHOTO)
    assert answer.status in Status
    for box in answer.boxes:
        assert not box.is_degenerate
        assert (box.frame, box.overhang()) == (PHOTO.pixels, 0)


QUADS = st.lists(st.integers(0, 99), min_size=4, max_size=4)
CONTAINERS = st.recursive(
    QUADS | st.sampled_from(["a [1,2,3,4] {", 7, None, True]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bbox_2d", "label", "image", "objects"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(CONTAINERS) | st.dictionaries(st.just("bbox_2d"), CONTAINERS, min_size=1))
def test_without_its_last_bracket_a_text_says_the_same(value: list[object]) -> None:
    protocol = PROTOCOLS["gpt"]
    text = json.dumps(value)
    whole, cut = protocol.read(text, PHOTO), protocol.read(text[:-1], PHOTO)
    ends_in_number = text[-2:-1].isdigit() and text[-1] == "]"  # a box that is cut off is none
    assert ends_in_number or text == "[]" or (cut.status, cut.boxes) == (whole.status, whole.boxes)
    assert not cut.well_formed


def in_grammar(grammar: Grammar, name: ProtocolName = "direct") -> AnswerProtocol:
    return AnswerProtocol(name, Codec(FrameKind.PIXELS, grammar), load_profile("tiny"))


HOSTILE = [
    *("<think>", "</think>", "<think></think>", "<answer>", "<answer></answer>", "<", "<tool>"),
    *("(", "(1,", "( ", "(1,2),", "(3,4),(1,2)\n", "[", "[1,", "[3,4,1,2],", "{", '{"a":', "[ "),
    *("1", "1.", "-", " ", "\n", '"', "\\", "```", "<|im_end|>", '"bbox_2d": ', '"bbox_2d": ['),
    *("</s>", "<ref>", "<ref>a</ref>", "<box>", "<box>1 ", "<box>1 2 3 4</box>", "1 ", "]", "[[1,"),
    *(
        "[[",
        "[[1,2,3,4],",
        "[1,2,3,4],",
        "[1,2,3,4;",
        "1,2,3,4;",
        "[[1,2,3,4;",
        "[[1,2,3,4]]",
        "; ",
    ),
]


def seconds(text: str, protocol: AnswerProtocol) -> float:
    """The lesser processor time of two readings, so that other work on the machine is left out."""
    times = []
    gc.disable()
    try:
        for _ in range(2):
            start = time.process_time()
            protocol.read(text, PHOTO)
            times.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(times)


def grows_linearly(
    protocol: AnswerProtocol, piece: str, *, opening: str = "", closing: str = ""
) -> bool:
    """Whether four times the text takes clearly less than sixteen times the time."""
    short, long = (
        seconds(opening + piece * (length // len(piece)) + closing, protocol)
        for length in (25_000, 100_000)
    )
    return long < 8 * short + 0.02


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("grammar", Grammar)
def test_invariant_1_reading_time_is_linear_in_every_grammar(grammar: Grammar, piece: str) -> None:
    assert grows_linearly(in_grammar(grammar), piece)


@pytest.mark.parametrize("piece", HOSTILE)
def test_invariant_1_reading_time_is_linear_inside_an_answer(piece: str) -> None:
    assert grows_linearly(PROTOCOLS["univg_r1"], piece, opening="<answer>", closing="</answer>")


OPENINGS = ["[", "[[1,2,3,4", "[1,2,3,4", "<box>1", "<ref>"]
GROUPS = [Grammar.BRACKETS, Grammar.BRACKET_LIST, Grammar.SEMICOLONS, Grammar.THREE_DIGITS]


@pytest.mark.parametrize("piece", [",[1,2,3,4]", ";1,2,3,4", " ", "9", " 1"])
@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("grammar", GROUPS)
def test_invariant_1_a_list_that_never_closes_is_read_once(
    grammar: Grammar, opening: str, piece: str
) -> None:
    assert grows_linearly(in_grammar(grammar), piece, opening=opening)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["<think>", "(", "[", "[[1,", '{"a":', "9", '"bbox_2d": [1,', " ", "<box>", "[[1,2;"]
)
def test_a_hostile_megabyte_is_no_answer(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    protocols = [in_grammar(Grammar.JSON, "think"), PROTOCOLS["univg_r1"]]
    for protocol in [*protocols, *(in_grammar(grammar) for grammar in Grammar)]:
        answer = protocol.read(f"<answer>{text}</answer>", PHOTO)
        assert answer.status in (Status.NO_ANSWER, Status.UNPARSABLE)
