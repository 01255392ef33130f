"""How sure a model was of each box: of the tokens that spell it, and of no others."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reground.grounding.confidence import box_scores
from reground.grounding.grammars import Grammar, read, spell

LONE = [Grammar.PATCH_PAIRS]  # two numbers say where four sides are
BOX = st.tuples(*[st.integers(0, 499)] * 2, *[st.integers(500, 999)] * 2)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """The text in tokens of one to four characters."""
    pieces, at = [], 0
    while at < len(text):
        size = draw(st.integers(1, 4))
        pieces.append(text[at : at + size])
        at += size
    return pieces


@pytest.mark.parametrize("grammar", [each for each in Grammar if each not in LONE])
@given(data=st.data(), boxes=st.lists(BOX, min_size=1, max_size=3))
def test_scores_are_of_the_boxes_own_tokens(
    grammar: Grammar, data: st.DataObject, boxes: list[tuple[int, ...]]
) -> None:
    text = f"12 of 34: {spell(boxes, grammar)}"
    found = read(spell(boxes, grammar), grammar).quads
    assert found
    pieces = data.draw(cut(text))
    sure = [-1.0 if any(map(str.isdigit, piece)) else -100.0 for piece in pieces]
    scores = box_scores(pieces, sure, found)
    assert scores == pytest.approx([math.exp(-1)] * len(boxes))


def test_each_box_has_its_own_score() -> None:
    pieces = ["(1,2)", ",", "(3,4)", "\n", "(5,6),(7,8)"]
    scores = box_scores(pieces, [-0.2, -9, -0.4, -9, -2], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert scores == pytest.approx([math.exp(-0.3), math.exp(-2)])


def test_a_box_that_is_not_there_as_such_has_none_nor_those_before() -> None:
    pieces = ["(1,2),(3,4)", "(5,6),(7,8)"]
    assert box_scores(pieces, [-1, -1], [[1, 2, 3, 4], [5, 6, 7, 9]]) == (None, None)
    assert box_scores([], [], [[1, 2, 3, 4]]) == (None,)


def test_a_thought_of_the_same_box_does_not_count() -> None:
    pieces = ["<think>", "(1,2),(3,4)", "</think>", "(1,2),(3,4)"]
    assert box_scores(pieces, [0, -5, 0, -1], [[1, 2, 3, 4]]) == pytest.approx([math.exp(-1)])
