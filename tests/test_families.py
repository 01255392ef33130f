from __future__ import annotations

import pytest

from made import PROTOCOLS
from reground.errors import ConfigError, DataError
from reground.grounding.boxes import THOUSAND, UNIT, Box, Frame, FrameKind
from reground.grounding.codecs import EncodedSize, Form
from reground.grounding.grammars import Grammar
from reground.protocols.families import FAMILIES, Family
from reground.protocols.prompts import load_profile
from reground.protocols.protocol import get_protocol, make_protocol

PHOTO = EncodedSize(640, 480, 644, 476)
EVERY = [*FAMILIES.values()]
every_family = pytest.mark.parametrize("family", EVERY, ids=[*FAMILIES])
ANY = PROTOCOLS["qwen2_vl"]


@pytest.mark.parametrize(
    ("name", "two", "none"),
    [
        (
            "qwen2_vl",
            "<|box_start|>(100,250),(500,750)<|box_end|>\n<|box_start|>(0,0),(1000,1000)<|box_end|>",
            "none",
        ),
        (
            "qwen2_5_vl",
            '[{"bbox_2d": [64, 119, 322, 357]}, {"bbox_2d": [0, 0, 644, 476]}]',
            "[]",
        ),
        (
            "qwen3_vl",
            '[{"bbox_2d": [100, 250, 500, 750]}, {"bbox_2d": [0, 0, 1000, 1000]}]',
            "[]",
        ),
        (
            "univg_r1",
            "<think>T</think><answer>(100,250),(500,750)\n(0,0),(1000,1000)</answer>",
            "<think>T</think><answer>none</answer>",
        ),
        ("univg_r1/direct", "(100,250),(500,750)\n(0,0),(1000,1000)", "none"),
        (
            "vg_refiner",
            "<think>T</think>\n<rethink>R</rethink>\n"
            '<answer>[{"bbox_2d": [64, 119, 322, 357]}, {"bbox_2d": [0, 0, 644, 476]}]</answer>',
            "<think>T</think>\n<rethink>R</rethink>\n<answer>[]</answer>",
        ),
        ("internvl", "<box>[[100, 250, 500, 750], [0, 0, 1000, 1000]]</box>", "none"),
        ("minicpm_v", "<box>100 250 500 750</box>\n<box>0 0 1000 1000</box>", "none"),
        ("cogvlm", "[[100,250,500,750;000,000,999,999]]", "none"),
        (
            "mantis",
            "[0.100, 0.250, 0.500, 0.750]\n[0.000, 0.000, 1.000, 1.000]",
            "none",
        ),
        ("shikra", "[0.100,0.312,0.500,0.688;0.000,0.125,1.000,0.875]", "none"),
        ("grounding_gpt", "[0.100, 0.312, 0.500, 0.688]\n[0.000, 0.125, 1.000, 0.875]", "none"),
        (
            "grounding_dino",
            '[{"bbox_2d": [64, 120, 320, 360]}, {"bbox_2d": [0, 0, 640, 480]}]',
            "[]",
        ),
    ],
)
def test_gold_answers_are_written_as_the_family_writes(name: str, two: str, none: str) -> None:
    family = PROTOCOLS[name]
    boxes = [Box(64, 120, 320, 360, PHOTO.pixels), Box(0, 0, 640, 480, PHOTO.pixels)]
    assert family.render(boxes, size=PHOTO, think="T", rethink="R") == two
    assert family.render([], size=PHOTO, think="T", rethink="R") == none


def test_a_think_family_without_a_chain_has_an_empty_block() -> None:
    gold = get_protocol("univg_r1").render([], size=PHOTO)
    assert gold == "<think></think><answer>none</answer>"


@pytest.mark.parametrize(
    "edges", [(10, 10, 10, 20), (20, 20, 10, 10), (640, 0, 700, 480), (0, -9, 5, 0)]
)
def test_a_box_without_area_is_refused(edges: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = edges
    with pytest.raises(DataError, match="no area inside its 640 x 480 image"):
        ANY.render([Box(x1, y1, x2, y2, PHOTO.pixels)], size=PHOTO)


def test_a_box_of_another_frame_or_image_is_refused() -> None:
    for frame in (THOUSAND, Frame.pixels(480, 640), Frame.input(640, 480)):
        with pytest.raises(ValueError, match="must be in"):
            ANY.render([Box(1, 2, 3, 4, frame)], size=PHOTO)


@pytest.mark.parametrize("tag", ["</think>", "<answer>", "<function>", "</rethink>", "<tool>"])
def test_a_chain_with_tags_is_refused(tag: str) -> None:
    with pytest.raises(DataError, match=tag):
        get_protocol("univg_r1").render([], size=PHOTO, think=f"So {tag} it is.")
    with pytest.raises(DataError, match="a rethink text holds the tag"):
        get_protocol("vg_refiner").render([], size=PHOTO, think="ok", rethink=tag)


def test_frames_of_an_image() -> None:
    assert PHOTO.frame(FrameKind.PIXELS) == PHOTO.pixels == Frame.pixels(640, 480)
    assert PHOTO.frame(FrameKind.INPUT) == Frame.input(644, 476)
    assert PHOTO.frame(FrameKind.THOUSAND) == THOUSAND
    assert PHOTO.frame(FrameKind.UNIT) == UNIT
    assert PHOTO.frame(FrameKind.SQUARE) == Frame(FrameKind.SQUARE, 1, 0.75, 0, 0.125)


@pytest.mark.parametrize(
    ("name", "frame", "grammar", "form"),
    [
        ("qwen2_vl", FrameKind.THOUSAND, Grammar.BOX_TOKENS, Form.DIRECT),
        ("qwen2_5_vl", FrameKind.INPUT, Grammar.JSON, Form.DIRECT),
        ("qwen3_vl", FrameKind.THOUSAND, Grammar.JSON, Form.DIRECT),
        ("univg_r1", FrameKind.THOUSAND, Grammar.PAIRS, Form.THINK),
        ("univg_r1/direct", FrameKind.THOUSAND, Grammar.PAIRS, Form.DIRECT),
        ("vg_refiner", FrameKind.INPUT, Grammar.JSON, Form.THINK_RETHINK),
        ("migician", FrameKind.THOUSAND, Grammar.BOX_TOKENS, Form.DIRECT),
        ("internvl", FrameKind.THOUSAND, Grammar.BRACKET_LIST, Form.DIRECT),
        ("minicpm_v", FrameKind.THOUSAND, Grammar.BOX_NUMBERS, Form.DIRECT),
        ("cogvlm", FrameKind.THOUSAND, Grammar.THREE_DIGITS, Form.DIRECT),
        ("llava_onevision", FrameKind.UNIT, Grammar.BRACKETS, Form.DIRECT),
        ("mantis", FrameKind.UNIT, Grammar.BRACKETS, Form.DIRECT),
        ("mplug_owl3", FrameKind.UNIT, Grammar.BRACKETS, Form.DIRECT),
        ("shikra", FrameKind.SQUARE, Grammar.SEMICOLONS, Form.DIRECT),
        ("grounding_gpt", FrameKind.SQUARE, Grammar.BRACKETS, Form.DIRECT),
        ("grounding_dino", FrameKind.PIXELS, Grammar.JSON, Form.DIRECT),
    ],
)
def test_families_declare_what_the_models_write(
    name: str, frame: FrameKind, grammar: Grammar, form: Form
) -> None:
    own = PROTOCOLS[name]
    assert (own.codec.frame, own.codec.grammar, own.form) == (frame, grammar, form)


@every_family
def test_shares_are_written_to_three_decimals(family: Family) -> None:
    is_share = family.codec.frame in (FrameKind.UNIT, FrameKind.SQUARE)
    assert family.codec.decimals == (3 if is_share else 0)


@every_family
def test_every_protocol_of_a_family_has_a_prompt(family: Family) -> None:
    assert {"direct", "piter", "think_rethink", family.protocol} <= {*family.prompts}
    for name, prompt in family.prompts.items():
        assert make_protocol(family, name).profile == load_profile(prompt)


def test_a_protocol_that_a_family_does_not_speak_is_named() -> None:
    with pytest.raises(ConfigError, match="cogvlm does not speak the protocol think; choose dir"):
        get_protocol("cogvlm", "think")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("qwen3vl", "did you mean 'qwen3_vl'"), ("univg-r1", "'univg_r1'"), ("llama", "known are")],
)
def test_an_unknown_family_is_named(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        get_protocol(name)
